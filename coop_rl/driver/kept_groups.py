"""Groups that are sampled and scored but not trained yet, in a checkpoint.

    <checkpoint>/rollouts/    tensors-00000.safetensors: tokens and log-probs of all, one behind the
                              other; state.json: everything else of each, in the same order

With a lag of L a run has up to L batches of them. They were sampled with weights that no later run
has again, so a resumed run could not draw the same ones. Log-probs are kept as bits: whatever an
engine returned comes back, and is no reason to call the checkpoint damaged.
"""

import errno
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from coop_rl.driver.checkpoint_check import STATE
from coop_rl.driver.window import Slot
from coop_rl.errors import first_line
from coop_rl.types import PolicyVersion, Prompt, Reward, Rollout, ScoredGroup

GROUPS = "groups"
"""Their name in the state of rollouts."""
FOLDER = "rollouts"
FILE = "tensors-00000.safetensors"
TOKENS, LOG_PROBS = "token_ids", "log_prob_bits"


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """A group and where it belongs."""

    slot: Slot
    group: ScoredGroup
    """As it is read: of its prompt no more than id, tokens and what is given."""
    version: PolicyVersion
    """What its engine served when it was begun."""
    sampler: str
    """Name of the actor that sampled it."""


def write_groups(checkpoint: Path, groups: Sequence[KeptGroup]) -> None:
    """Write a checkpoint's folder of groups, where there are some.

    Raises:
        OSError: It cannot be written.
    """
    if not groups:
        return
    folder = checkpoint / FOLDER
    folder.mkdir()
    tokens = [ids for kept in groups for ids in _tokens(kept.group)]
    log_probs = [r.behaviour_log_probs for kept in groups for r in kept.group.rollouts]
    tensors = {
        TOKENS: np.concatenate([np.asarray(ids, np.int64) for ids in tokens]),
        LOG_PROBS: np.concatenate([np.asarray(p, np.float64) for p in log_probs]).view(np.int64),
    }
    try:
        save_file(tensors, folder / FILE)
    except SafetensorError as error:
        raise OSError(errno.EIO, first_line(error), str(folder / FILE)) from None
    state = {GROUPS: [_facts(kept) for kept in groups], "tensors": dict.fromkeys(tensors, FILE)}
    (folder / STATE).write_text(json.dumps(state))


def read_groups(checkpoint: Path) -> list[KeptGroup]:
    """Return the groups of a verified checkpoint; none where it has none."""
    folder = checkpoint / FOLDER
    if not folder.is_dir():
        return []
    with safe_open(folder / FILE, framework="np") as file:
        tokens: list[int] = file.get_tensor(TOKENS).tolist()
        log_probs: list[float] = file.get_tensor(LOG_PROBS).view(np.float64).tolist()
    groups, rest, probs = [], iter(tokens), iter(log_probs)
    for facts in json.loads((folder / STATE).read_bytes())[GROUPS]:
        prompt = Prompt(
            id=facts["id"],
            text="",
            token_ids=_next(rest, facts["num_tokens"]),
            answer="",
            given_ids=_next(rest, facts["num_given"]),
            given_text=facts["given_text"],
        )
        rollouts = tuple(_rollout(one, rest, probs) for one in facts["rollouts"])
        rewards = tuple(_reward(one) for one in facts["rewards"])
        group = ScoredGroup(prompt, rollouts, rewards)
        version = PolicyVersion(*facts["version"])
        groups.append(KeptGroup(Slot(*facts["slot"]), group, version, facts["sampler"]))
    return groups


def _tokens(group: ScoredGroup) -> Iterator[tuple[int, ...]]:
    yield group.prompt.token_ids
    yield group.prompt.given_ids
    for rollout in group.rollouts:
        yield rollout.token_ids


def _facts(kept: KeptGroup) -> dict[str, Any]:
    prompt = kept.group.prompt
    return {
        "slot": astuple(kept.slot),
        "version": astuple(kept.version),
        "sampler": kept.sampler,
        "id": prompt.id,
        "num_tokens": len(prompt.token_ids),
        "num_given": len(prompt.given_ids),
        "given_text": prompt.given_text,
        "rollouts": [
            {
                "num_tokens": len(rollout.token_ids),
                "text": rollout.text,
                "is_truncated": rollout.is_truncated,
                "version": astuple(rollout.version),
                "version_spans": [[astuple(v), count] for v, count in rollout.version_spans],
            }
            for rollout in kept.group.rollouts
        ],
        "rewards": [asdict(reward) for reward in kept.group.rewards],
    }


def _rollout(facts: dict[str, Any], tokens: Iterator[int], probs: Iterator[float]) -> Rollout:
    count = facts["num_tokens"]
    return Rollout(
        token_ids=_next(tokens, count),
        behaviour_log_probs=_next(probs, count),
        text=facts["text"],
        is_truncated=facts["is_truncated"],
        version=PolicyVersion(*facts["version"]),
        version_spans=tuple((PolicyVersion(*v), n) for v, n in facts["version_spans"]),
    )


def _reward(facts: dict[str, Any]) -> Reward:
    return Reward(**{**facts, "parts": tuple((name, value) for name, value in facts["parts"])})


def _next(values: Iterator[Any], count: int) -> tuple[Any, ...]:
    return tuple(next(values) for _ in range(count))
