"""A started engine, a learner in plain transformers and a publisher between, without Ray."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from coop_rl.config import RunConfig
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.weights.publisher import WeightPublisher
from coop_rl.weights.receipt import Receipt, receipt_of
from coop_rl.weights.source import MergedWeightSource
from tests.support.demo.model import EOS_ID, build_tokenizer

SCALE = 2.0
RANK = 4
SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
    # Large, so that the distributions are far from uniform and a wrong weight shows.
    "initializer_range": 0.15,
    "bos_token_id": 2,
    "eos_token_id": EOS_ID,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
}


class Learner:
    """theta in plain transformers, w as forward hooks on its linear layers, never merged."""

    def __init__(self, architecture: str, is_tied: bool) -> None:
        model_class, config_class = ARCHITECTURES[architecture]
        torch.manual_seed(0)
        self.model = model_class(config_class(**SIZES, tie_word_embeddings=is_tied)).float().eval()
        self.factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                a = torch.randn(RANK, module.in_features) * 0.1
                b = torch.randn(module.out_features, RANK) * 0.1
                self.factors[f"{name}.weight"] = a, b
                module.register_forward_hook(self._add_adapter(f"{name}.weight"))

    def _add_adapter(self, name):
        def hook(_module, inputs, output):
            a, b = self.factors[name]
            return output + SCALE * (inputs[0] @ a.T) @ b.T

        return hook

    def metadata(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(p.shape)) for name, p in self.model.named_parameters()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.model.named_parameters())

    def merge(self, name: str, theta_OI: torch.Tensor) -> torch.Tensor:
        if name not in self.factors:
            return theta_OI
        a, b = self.factors[name]
        return theta_OI + SCALE * b @ a

    @torch.no_grad()
    def change(self) -> None:
        """Change every weight and every factor, as an update would."""
        for parameter in self.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for pair in self.factors.values():
            for factor in pair:
                factor.add_(torch.randn_like(factor) * 0.05)

    @torch.no_grad()
    def log_probs(self, prompt_ids, response_ids, temperature) -> torch.Tensor:
        """Teacher-forced log-probs of the response."""
        logits = self.model(torch.tensor([[*prompt_ids, *response_ids]])).logits[0]
        rows = (logits / temperature).log_softmax(-1)[len(prompt_ids) - 1 : -1]
        return rows.gather(1, torch.tensor(response_ids)[:, None])[:, 0]


class LocalSyncClient:
    """Drives one engine of this process from the publisher's threads."""

    def __init__(self, engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self.version = ""
        self.lost: dict[str, str] = {}

    def require_present(self):
        """It is this process."""

    def init_weight_transfer_engine(self, init_info):
        self._call(self._engine.init_weight_transfer(init_info))

    def start_weight_update(self):
        self._call(self._engine.start_weight_update())

    def update_weights(self, update_info):
        self._call(self._engine.update_weights(update_info))

    def finish_weight_update(self, weight_version=None):
        self._call(self._engine.finish_weight_update(weight_version or self.version))

    def _call(self, coroutine):
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)


class Rig:
    """Engine, learner and publisher; the engine lives in an event loop in a thread of its own."""

    def __init__(self, folder: Path, architecture: str, is_tied: bool) -> None:
        self.learner = Learner(architecture, is_tied)
        self.learner.model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        # The engine must get the learner's weights by a sync, not from the folder.
        self.learner.change()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.engine = VllmEngine(run_config(folder), "gloo")
        self.run(self.engine.start(), limit_s=150)
        self._source = MergedWeightSource(self.learner, self.learner, torch.float32)
        self.publisher = WeightPublisher(
            backend="gloo",
            rank=0,
            num_engine_workers=1,
            host="127.0.0.1",
            client=LocalSyncClient(self.engine, self._loop),
            source=self._source,
            timeout_s=30.0,
            shared_on=torch.device("cpu") if is_tied else None,
        )

    def run(self, coroutine: Coroutine[Any, Any, Any], limit_s: float = 60.0) -> Any:
        """Run a coroutine in the engine's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(limit_s)

    def receipt(self) -> Receipt:
        return receipt_of(self._source)

    def close(self) -> None:
        self.publisher.close()
        self.run(self.engine.shutdown())
        self._loop.call_soon_threadsafe(self._loop.stop)


def run_config(folder: Path) -> RunConfig:
    data = {"path": "unused.jsonl"}
    return RunConfig.model_validate(
        {
            "run": {"name": "parity", "num_steps": 1},
            "model": {"path": str(folder)},
            "prompts": data,
            "demonstrations": data,
            "evaluation": {"data": data},
            "rollout": {"dtype": "float32", "kv_cache_gib": 0.25, "max_num_seqs": 64},
        }
    )
