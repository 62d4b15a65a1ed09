"""w in PEFT's folder format, so that `peft.PeftModel.from_pretrained` and vLLM load it."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from coop_rl.models.adapter import Adapter

PEFT_PREFIX = "base_model.model."


def save_peft(adapter: Adapter, folder: Path, base_model_path: str) -> None:
    """Write adapter_model.safetensors and adapter_config.json.

    Args:
        adapter: w.
        folder: Created when missing.
        base_model_path: The model that w was trained beside; PEFT loads it by this path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{PEFT_PREFIX}{name}.weight": tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in adapter.tensors.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model_path,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in adapter.shapes}),
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
