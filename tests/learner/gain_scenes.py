"""Shadows of the gain, on whatever engine a scene is given, as in `engine_scenes`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coop_rl.algorithm.bracket import adapter_gradient
from coop_rl.learner.groups import RESYNC_GROUP
from coop_rl.types import AdapterGradients
from tests.learner.engine_scenes import Build, Setup, hand_over, with_section
from tests.learner.scenes import LEARNER, MIXED, RL_ONLY, Pipe, build_batch, one_step


def one_step_shadow(build: Build, folder: Path) -> dict[str, Any]:
    """Log-probs under the RL-only step beside each step; saved and loaded in between."""
    setup = Setup(replace(LEARNER, gain_every=1))
    learner, fresh = build(setup), build(setup)
    batches = [one_step(build_batch(k, learner.engine.world_size)) for k in range(4)]
    taken = [learner.step(k, batches[k], MIXED)[0].one_step_shadow for k in range(3)]
    hand_over(learner, fresh, folder)
    last, again = (one.step(3, batches[3], MIXED)[0].one_step_shadow for one in (learner, fresh))
    return {
        "log_ratios": [samples.log_ratio_N if samples else () for samples in (*taken, last)],
        "is_loaded": last == again,
    }


def close_branches(build: Build, *, amplifies: bool) -> dict[str, Any]:
    """The bracket after three steps apart at a tiny rate, from both branches on one machine."""
    section = with_section(lr=2e-6, warmup_steps=0)
    settings = replace(LEARNER, amplifies=amplifies, is_rounded=True, section=section)
    pipe = Pipe()
    joint, shadow = (build(Setup(settings, branch=name)) for name in ("joint", "shadow"))
    joint.attach_group(RESYNC_GROUP, pipe.sender())
    shadow.attach_group(RESYNC_GROUP, pipe.receiver())
    for step in range(4):
        batch = one_step(build_batch(step, joint.engine.world_size))
        _, at_joint = joint.step(step, batch, MIXED)
        result, at_shadow = shadow.step(step, batch, RL_ONLY)
        if step == 0:
            first = bracket_of(at_joint, at_shadow)
    resolution = result.samples.resolution
    return {
        "first": first,
        "bracket": bracket_of(at_joint, at_shadow),
        "amplification": resolution.amplification,
        "differing": resolution.differing,
        "left_over": len(pipe.queue),
    }


def bracket_of(joint: AdapterGradients | None, shadow: AdapterGradients | None) -> torch.Tensor:
    """The bracket, flat."""
    assert joint is not None
    assert shadow is not None
    without_sft = replace(joint, sft={})
    bracket, _ = adapter_gradient("cooperative", 1.0, without_sft, shadow, torch.Generator())
    return torch.cat([tensor.reshape(-1) for tensor in bracket.values()])


FILED: dict[str, Callable[[Build, Path], Any]] = {"one_step_shadow": one_step_shadow}
"""Scenes that write a folder."""
