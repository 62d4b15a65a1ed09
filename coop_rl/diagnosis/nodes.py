"""Checks of every node of the cluster a run joins, from what a task on each one found."""

import uuid
from collections.abc import Iterator
from pathlib import Path

from coop_rl.config import RunConfig
from coop_rl.diagnosis.finding import Finding, judge
from coop_rl.distributed.nodes import NodeAnswer, ask_nodes
from coop_rl.errors import RunDirectoryError
from coop_rl.observability.run_directory import package_versions

MOST_APART_S = 1.0
"""Most seconds between two clocks: beyond it logs and metrics tell another order of events."""


def node_findings(config: RunConfig) -> Iterator[Finding]:
    """Yield versions, shared folder, ports and clock of every node.

    Raises:
        UserError: Nobody answers there, or the run directory cannot be written.
        RunError: A node was lost, did not answer in time, or cannot do the look.
    """
    folder, secret = Path(config.run.dir).absolute(), uuid.uuid4().hex
    probe = folder / f".doctor-{secret[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(secret)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {folder}: {error.strerror}; give another run.dir"
        ) from None
    try:
        for answer in ask_nodes(config.placement, probe):
            yield from judge_node(answer, secret, folder)
    finally:
        probe.unlink()


def judge_node(answer: NodeAnswer, secret: str, folder: Path) -> Iterator[Finding]:
    """Yield what speaks for or against one node; `folder` must hold `secret` there too."""
    name = f"node {answer.address} {answer.node_id[:6]}"
    ours = package_versions()
    other = [f"{k} {v} (here {ours.get(k)})" for k, v in answer.versions.items() if v != ours[k]]
    yield judge(
        f"{name}: versions",
        not other,
        "; ".join(other) or "as here",
        "install the same versions, or the same image, on all nodes",
    )
    yield judge(
        f"{name}: shared folder",
        answer.probe == secret,
        str(folder),
        "mount the storage of run.dir on all nodes at the same path",
    )
    yield judge(
        f"{name}: ports",
        not answer.refusal,
        answer.refusal or "any of the driver's node can be reached",
        "open all TCP ports between nodes: learners and engines meet at ones the kernel chooses",
    )
    yield judge(
        f"{name}: clock",
        answer.apart_s <= MOST_APART_S,
        f"{answer.apart_s:.1f} s apart at least",
        "run a time service (chrony) on all nodes",
        "warn",
    )
