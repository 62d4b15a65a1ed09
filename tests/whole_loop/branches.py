"""Both branches and the meta-controller of a whole loop in one process, linked by pipes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coop_rl.config import RunConfig
from coop_rl.config.sizes import has_adapter, has_shadow
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.groups import RESYNC_GROUP, W_GROUP
from coop_rl.learner.learner import Learner
from coop_rl.learner.meta_controller import MetaController
from coop_rl.learner.settings import LearnerSettings
from coop_rl.models import PolicyModel
from coop_rl.types import Branch
from tests.learner.scenes import Pipe, PipeEnd
from tests.support.local_engine import LocalEngine
from tests.whole_loop.toy import Task, make_adapter, make_policy


@dataclass
class Branches:
    """Learners of both branches, and the meta-controller; each None where the run has none."""

    joint: Learner
    policy: PolicyModel
    shadow: Learner | None
    shadow_policy: PolicyModel | None
    meta: MetaController | None

    @property
    def learners(self) -> list[Learner]:
        return [self.joint, self.shadow] if self.shadow else [self.joint]

    def theta(self) -> dict[str, torch.Tensor]:
        return {name: p.clone() for name, p in self.joint.engine.full_parameters()}


@dataclass
class ToAll:
    """The root's end of a group that has several receivers."""

    device = torch.device("cpu")
    ends: Sequence[PipeEnd]

    def broadcast(self, tensor: torch.Tensor, src: int = 0) -> None:
        for end in self.ends:
            end.broadcast(tensor, src)


def build_branches(config: RunConfig, task: Task) -> Branches:
    joint, policy = build_learner(config, "joint")
    shadow, shadow_policy = build_learner(config, "shadow") if has_shadow(config) else (None, None)
    if shadow is not None:
        pipe = Pipe()
        joint.attach_group(RESYNC_GROUP, pipe.sender())
        shadow.attach_group(RESYNC_GROUP, pipe.receiver())
    meta = None
    if config.method.is_guided:
        adapter = make_adapter(config, policy.causal_lm) if has_adapter(config) else None
        meta = MetaController(config, adapter, sorted({d.source for d in task.demonstrations}))
    branches = Branches(joint, policy, shadow, shadow_policy, meta)
    if meta is not None:
        pipes = [Pipe() for _ in branches.learners]
        meta.attach_group(W_GROUP, ToAll([pipe.sender() for pipe in pipes]))
        for learner, pipe in zip(branches.learners, pipes, strict=True):
            learner.attach_group(W_GROUP, pipe.receiver())
    return branches


def build_learner(config: RunConfig, branch: Branch) -> tuple[Learner, PolicyModel]:
    policy, adapter = make_policy(config, has_adapter=has_adapter(config))
    reference = None
    if config.method.rl_settings.kl.weight > 0:
        reference, _ = make_policy(config, has_adapter=False)
        reference.requires_grad_(False)
    engine = LocalEngine(policy, EngineSettings.from_config(config))
    settings = LearnerSettings.from_config(config)
    return Learner(settings, branch, engine, adapter, reference), policy
