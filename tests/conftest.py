"""Rules for all tests: one thread, `gpu` tests skip without a device, CI allows no other skip.

What starts Ray, an engine or learner ranks is marked `boots` here, by its place or its fixtures, so
that `make quick` can leave it out; a test outside that starts Ray all the same fails.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
ALLOWED_SKIPS = ("gpu:", "root:", "shared data", "tracker:", "contracts:")
"""Starts of the reasons of tests that need a GPU, root, or what neither the repository nor the lock
has: shared data, a tracker's package, and the GPU wheels that `make contracts` fetches."""
BOOTING_PLACES = {
    "main_job",
    "chaos",
    "gpu",
    "test_engine_process.py",
    "test_memory.py",
    "test_world.py",
}
BOOTING_FOLDERS = {
    "chaos", "distributed", "driver", "gpu", "learner", "main_job", "planning", "rollout",
    "weights",
}  # fmt: skip
"""Where the Makefile looks for tests that boot."""
BOOTING_FIXTURES = {"local_ray", "cluster", "placement", "rig", "recorded"}
LENGTHY_PLACES = {
    "fuzz", "report", "test_hostile.py", "test_pool.py", "test_cases.py", "test_math_answer.py",
    "test_coverage.py", "test_checkpoint_corruption.py", "test_checkpoint_target.py",
    "test_large.py", "test_kuberay.py", "test_site.py",
}  # fmt: skip
"""Files and folders that take half of the time of what does not boot: `make quick` goes without."""
HAD_RAY = pytest.StashKey[bool]()
_unexpected: list[str] = []


def pytest_configure() -> None:
    """Tests see SIGHUP as a terminal's session does, also where they themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what boots, takes long or shares a run; skip `gpu` tests without a CUDA device.

    What shares a Ray comes last: others start and end one of their own.
    """
    has_device = torch.cuda.is_available()
    for item in items:
        fixtures = set(item.fixturenames) if isinstance(item, pytest.Function) else set()
        places = set(item.path.relative_to(Path(__file__).parent).parts)
        if BOOTING_PLACES & places or BOOTING_FIXTURES & fixtures:
            item.add_marker(pytest.mark.boots)
        if LENGTHY_PLACES & places:
            item.add_marker(pytest.mark.lengthy)
        if item.get_closest_marker("boots") and not BOOTING_FOLDERS & places:
            raise pytest.UsageError(f"{item.nodeid} boots: add its folder here and to the Makefile")
        if "whole" in fixtures:
            item.add_marker(pytest.mark.whole_run)
        if item.get_closest_marker("gpu") and not has_device:
            item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))
    items.sort(key=lambda item: "local_ray" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray for all tests that need any, with a device that only its books know of."""
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def has_ray() -> bool:
    """Whether this process is connected to a Ray."""
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Note whether an earlier test's fixture has started Ray already."""
    item.stash[HAD_RAY] = has_ray()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that starts Ray is one of those that boot."""
    yield
    if not item.get_closest_marker("boots") and not item.stash[HAD_RAY]:
        assert not has_ray(), "name what starts Ray here in tests/conftest.py"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember skips that CI must not have."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        text = reason.removeprefix("Skipped: ")
        if not text.startswith(ALLOWED_SKIPS):
            _unexpected.append(f"{report.nodeid}: {text}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With COOP_RL_CI=1 (`make check`) an unexpected skip fails the session."""
    if os.environ.get("COOP_RL_CI") == "1" and _unexpected:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the unexpected skips."""
    if os.environ.get("COOP_RL_CI") == "1" and _unexpected:
        terminalreporter.section("skipped, which CI does not allow")
        for line in _unexpected:
            terminalreporter.line(line)
