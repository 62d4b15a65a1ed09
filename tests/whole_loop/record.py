"""Proof of value of a refactor: the whole loop's rows, theta and w, the same bit for bit.

python -m tests.whole_loop.record before.json                     on the code before
python -m tests.whole_loop.record after.json --same-as before.json      after; names what differs

Every method, every estimator, every kind of guidance; about two minutes. Not a test: figures of
floating-point arithmetic differ between machines and versions of torch.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from coop_rl.algorithm.methods import METHODS
from tests.whole_loop.rig import configure, start
from tests.whole_loop.test_methods import ESTIMATORS, EXTRA, MINIBATCHES
from tests.whole_loop.test_resume import CASES as GUIDANCE
from tests.whole_loop.toy import make_task

SOURCES = {"good": "right", "bad": "wrong"}
MATCHING = ("hpt", "luffy", "srft", "relift", "prefix", "self_distil", "lspo")
"""Methods whose prompts have one demonstration each."""


def cases() -> dict[str, tuple[str, ...]]:
    """Return overrides by case."""
    found = {f"method {kind}": (f"method.kind={kind}", *EXTRA.get(kind, ())) for kind in METHODS}
    for kind in ESTIMATORS:
        rl = f"method.rl={{kind: {kind}}}"
        found[f"bridge {kind}"] = ("run.num_steps=4", rl)
        found[f"bridge {kind}, four updates"] = ("run.num_steps=3", rl, *MINIBATCHES)
        found[f"rl {kind}"] = ("method.kind=rl", "run.num_steps=4", rl)
    for kind in ("mixture", "sft", "frozen"):
        found[f"objective {kind}"] = (f"meta.w_objective={kind}",)
    found["fresh"] = ("gain.estimator=fresh", "shadow.num_rollout_actors=1")
    return found | {f"guidance {name}": overrides for name, overrides in GUIDANCE.items()}


def record(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Run a case; return its rows, with floats as text that loses nothing, and checksums."""
    is_matching = any(name == f"method {kind}" for kind in MATCHING)
    task = make_task() if is_matching else make_task(6, 3, **SOURCES)
    with tempfile.TemporaryDirectory() as folder:
        run = start(configure("evaluation.every=2", *overrides), Path(folder), task)
    meta = run.branches.meta
    return {
        "rows": [{k: repr(v) for k, v in row.items()} for row in run.rows],
        "theta": digest(run.branches.theta()),
        "w": digest(meta.adapter.tensors) if meta and meta.adapter else None,
    }


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a checksum of named tensors."""
    checksum = hashlib.sha256()
    for name in sorted(tensors):
        checksum.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return checksum.hexdigest()


def main() -> None:
    """Record, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--same-as", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: record(name, overrides) for name, overrides in cases().items()}
    given.path.write_text(json.dumps(found, indent=0, sort_keys=True))
    if given.same_as:
        before = json.loads(given.same_as.read_text())
        differ = [
            name for name in before.keys() | found.keys() if before.get(name) != found.get(name)
        ]
        sys.exit(f"different: {', '.join(sorted(differ))}" if differ else 0)


if __name__ == "__main__":
    main()
