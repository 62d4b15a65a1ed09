"""LoRA factors in PEFT's folder format, which `peft` and vLLM load beside a base model."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

PEFT_PREFIX = "base_model.model."


def save_peft(
    factors: Mapping[str, torch.Tensor], folder: Path, *, base: str, rank: int, alpha: float
) -> None:
    """Write adapter_model.safetensors and adapter_config.json.

    Args:
        factors: `<layer>.lora_A` [R, in] and `<layer>.lora_B` [out, R] of each layer, in fp32.
        folder: Made when missing.
        base: The model that the factors belong beside; PEFT loads it by this path or hub id.
        rank: R.
        alpha: The factors' product counts alpha / R times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{PEFT_PREFIX}{name}.weight": tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in factors.items()
    }
    path = folder / "adapter_model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors keeps a file to its owner
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": sorted({name.split(".")[-2] for name in factors}),
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
