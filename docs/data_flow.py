"""Writes docs/data-flow.md: two steps of the real demo, one prompt followed through every type.

make docs        or        python docs/data_flow.py docs/data-flow.md
"""

import dataclasses
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import ray
import torch

from coop_rl.algorithm.methods import build_method
from coop_rl.algorithm.methods.base import to_token_samples
from coop_rl.algorithm.roles import StepRecord
from coop_rl.commands import train, training
from coop_rl.config import RunConfig, load_config
from coop_rl.data.load import load_run_data
from coop_rl.driver.demonstrations import Demonstrations
from coop_rl.observability.observer import RunObserver
from coop_rl.types import (
    AdapterGradients,
    GradientParts,
    LookaheadProducts,
    SampleSums,
    StepMeans,
    TokenGrid,
    Updates,
    Work,
)

OVERRIDES = (
    "run.num_steps=2",
    "prompts.per_step=8",
    "rollout.samples_per_prompt=4",
    "demonstrations.per_step=8",
    "evaluation.num_items=4",
    "evaluation.num_samples=2",
    "sync.canary_every=1",
)
SHOWN_STEP = 1
SHOWN_VALUES = 6
WIDTH = 118
PARTS_OF_A_REPORT = (StepMeans, SampleSums, GradientParts, Updates, Work, LookaheadProducts)
"""Types that are shown in the row of the report that holds them."""
HEADER = """# The data's way, with real values

Written by `make docs` from two steps of the demo (Ray, vLLM, DeepSpeed; step {step} is shown); do
not edit. The command it stands for:

    coop-rl train configs/local/demo.yaml {overrides}

One prompt is followed from the file to the next version of the weights. Each heading is a frozen
dataclass of `coop_rl/types/`; only these cross a process boundary. `[8, 33]` is a tensor's shape,
`(… 12 values)` a shortened tuple. The suffixes of names are in `coop_rl/types/__init__.py`. Values
depend on the machine in their last digits.
"""


class Recorder(RunObserver):
    """Keeps what the loop reports."""

    records: list[StepRecord] = []  # noqa: RUF012 - one run, read after it
    metrics: list[Mapping[str, float | None]] = []  # noqa: RUF012

    def record(self, record: StepRecord) -> None:
        """Fetch the gradients while their actors live."""
        assert record.shadow is not None
        joint, shadow = (
            dataclasses.replace(r, adapter_gradients=ray.get(r.adapter_gradients))  # type: ignore[call-overload]
            for r in (record.joint, record.shadow)
        )
        self.records.append(dataclasses.replace(record, joint=joint, shadow=shadow))
        super().record(record)

    def _write(self, step: int, metrics: dict[str, float | None]) -> None:
        self.metrics.append(metrics)
        super()._write(step, metrics)


def show(value: Any) -> str:
    """Return a value in a line."""
    if isinstance(value, torch.Tensor):
        numbers = ", ".join(show(v) for v in value.flatten()[:SHOWN_VALUES].tolist())
        dots = ", …" if value.numel() > SHOWN_VALUES else ""
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} {list(value.shape)}: {numbers}{dots}"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict):
        name, tensor = next(iter(value.items()), ("", None))
        return f"{len(value)} tensors, the first `{name}`: {show(tensor)}" if value else "{}"
    if isinstance(value, TokenGrid):
        return "TokenGrid"
    if isinstance(value, tuple) and not dataclasses.is_dataclass(value):
        if value and (dataclasses.is_dataclass(value[0]) or isinstance(value[0], tuple)):
            inner = type(value[0]).__name__
            return f"{len(value)} × {inner}" if inner != "tuple" else nested(value)
        parts = ", ".join(show(v) for v in value[:SHOWN_VALUES])
        return f"({parts}{f', … {len(value)} values' if len(value) > SHOWN_VALUES else ''})"
    if isinstance(value, PARTS_OF_A_REPORT):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return "; ".join(f"`{name}` {show(part)}" for name, part in fields)
    if dataclasses.is_dataclass(value):
        return str(value) if "__str__" in vars(type(value)) else type(value).__name__
    return repr(value).replace("|", "\\|")


def nested(ranks: tuple[tuple[Any, ...], ...]) -> str:
    """Return how many of what each rank has."""
    return f"{len(ranks)} rank(s) with {[len(rank) for rank in ranks]} × MicroBatch"


def table(value: Any, says: str) -> list[str]:
    """Return one dataclass as a section."""
    prose = textwrap.fill(says, WIDTH, break_long_words=False, break_on_hyphens=False)
    lines = [f"\n## {type(value).__name__}\n", prose, "", "| field | value |", "|---|---|"]
    names = (
        value._fields
        if isinstance(value, TokenGrid)
        else [field.name for field in dataclasses.fields(value)]
    )
    for name in names:
        shown = show(getattr(value, name))
        if isinstance(getattr(value, name), str | int | float | bool):
            shown = f"`{shown}`"
        lines.append(f"| `{name}` | {shown} |")
    return lines


def render(config: RunConfig, record: StepRecord, metrics: Mapping[str, float | None]) -> str:
    """Return the page."""
    assert record.shadow is not None
    assert record.gain is not None
    assert record.update is not None
    # A group with right and wrong answers: the others have no RL gradient.
    groups, batch = record.sampled.groups, record.batch.minibatches[0]
    index = next(i for i, g in enumerate(groups) if len({r.value for r in g.rewards}) > 1)
    group = groups[index]
    samples = to_token_samples(groups, build_method(config).estimator.advantages)
    first = index * len(group.rollouts)
    shown = Demonstrations(config, load_run_data(config).demonstrations)
    demonstration = shown.next_batch(record.step, "next", ())[0]
    micro = next(m for m in batch.rl[0] if first in m.row_B.tolist())
    gradients = record.joint.adapter_gradients
    assert isinstance(gradients, AdapterGradients)
    sections: Iterable[tuple[Any, str]] = (
        (
            group.prompt,
            "`data.load` makes it from a row of prompts.jsonl; the driver sends it to a rollout "
            "actor (Ray call).",
        ),
        (
            group.rollouts[0],
            f"`rollout.vllm_engine` samples it; {len(group.rollouts)} of them and the prompt are a "
            "`RolloutGroup`, which goes from the rollout actor to the reward actor without passing "
            "the driver.",
        ),
        (
            group.rewards[0],
            "`rewards.pool` gives one to each rollout of the group; together they are a "
            f"`ScoredGroup`. The rewards of this group: {[r.value for r in group.rewards]}.",
        ),
        (
            samples[first],
            "`algorithm.estimators` turns every rollout of the step into one: the reward less the "
            "group's mean, over its standard deviation.",
        ),
        (
            demonstration,
            "`data.load` makes it from a row of demonstrations.jsonl.",
        ),
        (
            batch,
            "`algorithm.packing` cuts all samples and demonstrations into it, one for every "
            "optimiser step of a `BranchBatch`; both learner groups get the same one, through "
            "Ray's object store.",
        ),
        (
            batch.sft[0],
            "The demonstrations in it; with `demonstrations` guidance there is one of these for "
            "every source.",
        ),
        (
            micro,
            "One of its micro-batches. Of its B samples number "
            f"{micro.row_B.tolist().index(first)} is the one above; T tokens are scored.",
        ),
        (
            micro.grid,
            "What the model computes for it: lanes of sequences, several behind each other where "
            "that saves padding, and the responses to one prompt behind that prompt.",
        ),
        (
            record.joint,
            "Each learner group takes its step and reports; this one is `joint`. "
            "`adapter_gradients` stays in the object store until the meta-controller opens it.",
        ),
        (record.shadow, "The same from `shadow`: its own log-ratios, no SFT part."),
        (
            gradients,
            "What the meta-controller gets of `joint` (and the same of `shadow`), straight from "
            "the learners.",
        ),
        (
            record.gain,
            "`algorithm.gain` estimates it on the driver from the rewards and both branches' "
            "log-ratios of the *same* rollouts.",
        ),
        (
            record.update,
            "The meta-controller moves w against (1-λ)·h_w^SFT + λ·(h_w^RL - ĥ_w^RL), then "
            "broadcasts w to all learners, which answer with its checksums.",
        ),
        (
            record.update.version,
            "`joint` publishes θ + s·B·A under this version: "
            f"{metrics['sync/bytes']:,.0f} bytes in {metrics['sync/seconds']:.3f} s. The canary "
            f"found engine and learner {metrics['sync/canary_mean']:.1e} nats apart on average; "
            "now the next step begins.",
        ),
    )
    overrides = " \\\n        ".join(f"--set {o}" for o in OVERRIDES)
    lines = [HEADER.format(step=record.step, overrides=overrides)]
    for value, says in sections:
        lines += table(value, says)
    return "\n".join(lines) + "\n"


def main(path: Path) -> None:
    """Run the demo for two steps and write the page."""
    config = load_config(Path("configs/local/demo.yaml"), list(OVERRIDES))
    recording = mock.patch.object(training, "RunObserver", Recorder)
    with tempfile.TemporaryDirectory() as folder, recording:
        train.run_training(config, Path(folder) / "run", "never")
    metrics = next(m for m in Recorder.metrics if m["step"] == SHOWN_STEP and "reward/mean" in m)
    path.write_text(render(config, Recorder.records[SHOWN_STEP], metrics), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
