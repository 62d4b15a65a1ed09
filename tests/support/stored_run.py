"""A run directory with one checkpoint, written without training, and the learner it stands for."""

from dataclasses import dataclass
from pathlib import Path

import torch

from coop_rl.algorithm.roles import Progress
from coop_rl.config import RunConfig, load_config
from coop_rl.driver.checkpoint_store import CheckpointStore
from coop_rl.learner.build import build_policy
from coop_rl.learner.state_io import StateWriter
from coop_rl.models import Adapter, PolicyModel, checkpoint_name
from coop_rl.types import PolicyVersion

DEMO = Path(__file__).parents[2] / "configs/local/demo.yaml"
STEP = 3


@dataclass(frozen=True)
class Stored:
    """A run and the policy of its learner."""

    path: Path
    config: RunConfig
    policy: PolicyModel
    adapter: Adapter | None

    @property
    def checkpoint(self) -> Path:
        return self.path / f"checkpoints/step-{STEP:06d}"

    @torch.no_grad()
    def logits(self, token_ids_KL: torch.Tensor) -> torch.Tensor:
        """Compute as the learner does: theta with w attached."""
        logits: torch.Tensor = self.policy.causal_lm(token_ids_KL).logits
        return logits


def store_run(path: Path, *overrides: str) -> Stored:
    """Write a run of the demo whose theta and w have moved."""
    config = load_config(DEMO, list(overrides))
    policy, adapter = build_policy(config)
    generator = torch.Generator().manual_seed(1)
    store = CheckpointStore(path / "checkpoints", keep=1)
    side = store.begin(STEP)
    writer = StateWriter(side / "joint")
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
            writer.add(f"master/{checkpoint_name(name)}", parameter)
    if adapter:
        adapter.load_flat(torch.randn(adapter.numel(), generator=generator) * 0.1)
        adapter.is_on = "scaffold" not in config.meta.guidance and config.method.kind != "lspo"
        writer.add("adapter", adapter.flatten())
    writer.finish({"theta": STEP, "adapter": STEP})
    store.commit(side, Progress(STEP, PolicyVersion(STEP, STEP)))
    (path / "config.json").write_text(config.model_dump_json(indent=2))
    return Stored(path, config, policy, adapter)
