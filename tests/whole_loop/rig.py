"""The real loop, learners, meta-controller, methods and packing, in one process.

Only what needs other processes is replaced: engines (by sampling from the learner's own module),
weight sync, collectives between roles (by `Pipe`), and actors (by calls). Dynamic sampling, the
order of data, checkpoints, rows and the ledger are the product's own.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from coop_rl.algorithm.methods import build_method
from coop_rl.algorithm.packing import PackShape
from coop_rl.algorithm.roles import Progress, Roles, StepRecord
from coop_rl.algorithm.train import train
from coop_rl.config import RunConfig, load_config
from coop_rl.config.sizes import scaffold_fit_steps, scaffold_samples
from coop_rl.data.collection import Mixture
from coop_rl.driver.checkpoint_store import CheckpointStore, read_progress
from coop_rl.driver.demonstrations import Demonstrations
from coop_rl.driver.generation import OnDone, OnReturn, OnStart
from coop_rl.driver.learners import SHADOW_OBJECTIVE
from coop_rl.driver.rollouts import SCAFFOLD_SEED, SHADOW_SEED, TeamRollouts, step_sampling
from coop_rl.metric_names import VALIDATION_NLL
from coop_rl.observability.ledger import Ledger
from coop_rl.observability.metrics import Metrics, step_metrics
from coop_rl.tracing.stages import Stages
from coop_rl.types import (
    BranchBatch,
    CooperativeGain,
    Guidance,
    GuidanceUpdate,
    Objective,
    PolicyVersion,
    Prompt,
    SamplingSettings,
    ScoredGroup,
    SourceBatch,
    StepResult,
)
from tests.whole_loop.branches import Branches, build_branches
from tests.whole_loop.toy import (
    Task,
    expected_reward,
    make_task,
    sample_groups,
)

DEMO = Path("configs/local/demo.yaml")
SMALL = (
    "run.num_steps=6",
    "prompts.per_step=4",
    "demonstrations.per_step=4",
    "rollout.samples_per_prompt=4",
    "rollout.max_tokens=4",
    "learner.lr=0.01",
    "learner.warmup_steps=0",
    "learner.micro_batch_tokens=64",
    "adapter.rank=2",
    "adapter.alpha=2",
    "adapter.lr=0.02",
    "shadow.resync_every=3",
    "checkpoint.every=0",
)
REWARD = "eval/toy/reward"
"""The exact expected reward, measured where `evaluation.every` says."""


def configure(*overrides: str) -> RunConfig:
    """The demo's config, made small."""
    return load_config(DEMO, [*SMALL, *overrides])


class Stopped(Exception):  # noqa: N818 - not a failure
    """The run was asked to stop here."""


class LocalGeneration:
    """Samples from the joint learner's policy, when somebody waits."""

    def __init__(self, branches: Branches, task: Task) -> None:
        self._branches = branches
        self._task = task
        self._submitted: deque[tuple[Prompt, SamplingSettings, OnDone]] = deque()

    def settle(self) -> None:
        """Nothing is ever put off here."""

    def submit(
        self,
        prompt: Prompt,
        sampling: SamplingSettings,
        on_start: OnStart,
        on_done: OnDone,
        on_return: OnReturn,
    ) -> None:
        on_start(self._branches.joint.version)
        self._submitted.append((prompt, sampling, on_done))

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            prompt, sampling, on_done = self._submitted.popleft()
            branches = self._branches
            (group,) = sample_groups(
                branches.policy, self._task, [prompt], sampling, branches.joint.version
            )
            on_done(group, "the rig")


@dataclass
class LocalShadowRollouts:
    """Samples from the shadow's policy."""

    config: RunConfig
    branches: Branches
    task: Task

    def next_batch(self, step: int, groups: Sequence[ScoredGroup]) -> Sequence[ScoredGroup]:
        shadow, policy = self.branches.shadow, self.branches.shadow_policy
        assert shadow is not None
        assert policy is not None
        shadow.check_version(PolicyVersion(step, step))
        sampling = step_sampling(self.config, step, SHADOW_SEED)
        prompts = [group.prompt for group in groups]
        return sample_groups(policy, self.task, prompts, sampling, shadow.version)


@dataclass
class LocalScaffoldRollouts:
    """Samples from the joint learner's policy while w is on; fits w first where the method does."""

    config: RunConfig
    branches: Branches
    task: Task

    def next_batch(
        self,
        step: int,
        version: PolicyVersion,
        failed: Sequence[ScoredGroup],
        shown: SourceBatch,
    ) -> Sequence[ScoredGroup]:
        joint, policy = self.branches.joint, self.branches.policy
        joint.check_version(version)
        sampling = replace(
            step_sampling(self.config, step, SCAFFOLD_SEED),
            num_samples=scaffold_samples(self.config),
        )
        if scaffold_fit_steps(self.config):
            joint.fit_scaffold(shown)
        with joint.serving_scaffold():
            prompts = [group.prompt for group in failed]
            return sample_groups(policy, self.task, prompts, sampling, version)


@dataclass
class LocalLearners:
    """Joint first: at a re-sync it sends what the shadow waits for."""

    branches: Branches

    def step(
        self, step: int, batches: tuple[BranchBatch, BranchBatch], objective: Objective
    ) -> tuple[StepResult, StepResult | None]:
        result, gradients = self.branches.joint.step(step, batches[0], objective)
        joint = replace(result, adapter_gradients=gradients)
        if self.branches.shadow is None:
            return joint, None
        own = replace(SHADOW_OBJECTIVE, resync_shadow=objective.resync_shadow)
        result, gradients = self.branches.shadow.step(step, batches[1], own)
        return joint, replace(result, adapter_gradients=gradients)


@dataclass
class LocalMetaController:
    """Updates, pushes, and compares what arrived."""

    branches: Branches

    def update(
        self, joint: StepResult, shadow: StepResult | None, gain: CooperativeGain | None
    ) -> GuidanceUpdate | None:
        meta = self.branches.meta
        if meta is None:
            return None
        ours: Any = joint.adapter_gradients
        theirs: Any = shadow.adapter_gradients if shadow else None
        update = meta.update(replace(joint, adapter_gradients=None), ours, theirs, gain)
        if meta.adapter:
            pushed = meta.push_w()
            assert all(learner.receive_w() == pushed for learner in self.branches.learners)
        return update

    def guidance(self) -> Guidance | None:
        return self.branches.meta.guidance if self.branches.meta else None


@dataclass
class LocalWeights:
    """Nothing to send: the rollouts read the learner's own module."""

    branches: Branches

    def publish(self, version: PolicyVersion, *, is_read: bool) -> PolicyVersion:
        for learner in self.branches.learners:
            learner.check_version(version)
        return version


@dataclass
class LocalCheckpoints:
    """All roles' state through the product's store."""

    config: RunConfig
    branches: Branches
    store: CheckpointStore
    is_resumed: bool
    stop_after: int | None

    def restore(self) -> Progress:
        if not self.is_resumed:
            return Progress(0, PolicyVersion(0, 0))
        folder = self.store.latest()
        assert folder is not None, "there is nothing to resume from"
        for learner in self.branches.learners:
            learner.load_state(folder)
        if self.branches.meta:
            self.branches.meta.load_state(folder)
        return read_progress(folder)

    def maybe_save(
        self,
        step: int,
        version: PolicyVersion,
        method: Mapping[str, Any],
        rollouts: Mapping[str, Any],
    ) -> None:
        done = step + 1
        if done not in (self.stop_after, self.config.run.num_steps):
            return
        folder = self.store.begin(done)
        for learner in self.branches.learners:
            learner.save_state(folder)
        if self.branches.meta:
            self.branches.meta.save_state(folder)
        self.store.commit(folder, Progress(done, version, dict(method), dict(rollouts)))
        if done == self.stop_after:
            raise Stopped

    def keep_best(self, step: int, evaluated: Mapping[str, float]) -> None:
        """Tested elsewhere."""


@dataclass
class LocalEvaluation:
    """The exact reward, and the NLL of kept demonstrations where `cold_start` asks for it."""

    config: RunConfig
    branches: Branches
    task: Task

    def maybe_run(self, step: int, version: PolicyVersion) -> Mapping[str, float]:
        method, every = self.config.method, self.config.evaluation.every
        metrics = {}
        if every > 0 and step % every == 0:
            temperature = self.config.rollout.temperature
            metrics[REWARD] = expected_reward(self.branches.policy, self.task, temperature)
        if method.needs_validation(step):
            rows = [(d.prompt_ids, d.response_ids) for d in self.task.validation]
            values = [value for row in self.branches.joint.score(rows) for value in row]
            metrics[VALIDATION_NLL] = -sum(values) / len(values)
        return metrics


@dataclass
class RowObserver:
    """Rows as the product writes them, without files or times."""

    ledger: Ledger
    rows: list[Metrics] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)

    def record(self, record: StepRecord) -> None:
        self.records.append(record)
        self.rows.append(step_metrics(record, {}) | self.ledger.add(record, 0.0))

    def record_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:
            self.rows.append({"step": step, **metrics})


@dataclass
class Run:
    """A run and what is left of it."""

    config: RunConfig
    branches: Branches
    observer: RowObserver
    store: CheckpointStore

    @property
    def records(self) -> list[StepRecord]:
        return self.observer.records

    @property
    def rows(self) -> list[Metrics]:
        """Of steps and evaluations, in order."""
        return self.observer.rows

    def column(self, name: str) -> list[Any]:
        """A metric's values, over the rows that have it."""
        return [row[name] for row in self.rows if name in row]

    def saved(self) -> dict[str, torch.Tensor | str]:
        """Everything in the last checkpoint, by file and key."""
        folder = self.store.latest()
        assert folder is not None
        found: dict[str, torch.Tensor | str] = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = str(path.relative_to(folder))
            if path.suffix == ".safetensors":
                found |= {f"{name}/{key}": value for key, value in load_file(path).items()}
            elif name == "progress.json":  # without which commit it is, and of which line
                found[name] = str(read_progress(folder))
            elif name != "manifest.json":
                found[name] = path.read_text()
        return found


def start(
    config: RunConfig,
    folder: Path,
    task: Task | None = None,
    *,
    stop_after: int | None = None,
    resumes: Run | None = None,
) -> Run:
    """Train to the end, or to a stop.

    Args:
        config: The run.
        folder: Where its checkpoints go.
        task: The toy.
        stop_after: Steps after which it saves and stops.
        resumes: The stopped run that this one goes on from, in the same folder.
    """
    task = task or make_task()
    branches, store = build_branches(config, task), CheckpointStore(folder, keep=2)
    observer = RowObserver(Ledger(config))
    if resumes:
        observer.ledger.go_on([row for row in resumes.rows if "grad/norm" in row][-1])
    method = build_method(config)
    roles = Roles(
        rollouts=TeamRollouts(
            config,
            LocalGeneration(branches, task),
            Mixture.of(task.prompts),
            method.estimator,
            Stages(),
            decode=str,
        ),
        shadow_rollouts=LocalShadowRollouts(config, branches, task),
        scaffold_rollouts=LocalScaffoldRollouts(config, branches, task),
        demonstrations=Demonstrations(config, Mixture.of(task.demonstrations)),
        learners=LocalLearners(branches),
        meta_controller=LocalMetaController(branches),
        weights=LocalWeights(branches),
        checkpoints=LocalCheckpoints(config, branches, store, resumes is not None, stop_after),
        evaluation=LocalEvaluation(config, branches, task),
        observer=observer,
    )
    try:
        train(config.run.num_steps, method, PackShape.from_config(config, hidden_size=16), roles)
    except Stopped:
        assert stop_after is not None
    return Run(config, branches, observer, store)
