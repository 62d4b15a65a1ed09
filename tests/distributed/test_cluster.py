"""Joining a cluster: what differs between runs, and what does not fit (real Ray)."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from types import FrameType

import pytest
import ray

from coop_rl.config import load_config
from coop_rl.config.roles import PlacementSection
from coop_rl.config.sizes import Devices
from coop_rl.distributed.cluster import ray_session
from coop_rl.errors import Interrupted, ResourceError
from tests.support.nodes import cluster_of

NOTHING = Devices(cpus={}, gpus={})


@pytest.fixture(scope="module")
def placement() -> Iterator[PlacementSection]:
    """Of a run on a cluster of one node."""
    with cluster_of(()) as started:
        address = f"placement.address={started.address}"
        yield load_config(Path("configs/local/demo.yaml"), [address]).placement


def test_two_runs_of_one_name_may_share_a_cluster(placement: PlacementSection) -> None:
    """Actor names, such as rollout-0, count within a namespace."""
    namespaces = set()
    for _ in range(2):
        with ray_session(placement, NOTHING, "same"):
            namespaces.add(ray.get_runtime_context().namespace)
    assert len(namespaces) == 2
    assert all(name.startswith("coop-rl-same-") for name in namespaces)


def test_other_versions_are_refused_in_one_line(
    placement: PlacementSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = ray.__version__, "9.9.9"
    monkeypatch.setattr(ray, "__version__", other)
    with pytest.raises(ResourceError) as caught, ray_session(placement, NOTHING, "x"):
        pass
    assert f"started with: Ray: {ours}" in str(caught.value)
    assert f"Ray: {other}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.boots
def test_ctrl_c_while_ray_starts_is_an_interruption() -> None:
    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Interrupted("asked")

    before = signal.signal(signal.SIGINT, interrupt)
    asked = Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        asked.start()
        with pytest.raises(Interrupted), ray_session(PlacementSection(), NOTHING, "x"):
            pytest.fail("Ctrl-C was lost")
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        asked.join()
        signal.signal(signal.SIGINT, before)
    assert not ray.is_initialized()
