"""Rules for all tests: one thread, `gpu` tests skip without a device, CI allows no other skip."""

import os

import pytest
import torch

torch.set_num_threads(1)
ALLOWED_SKIPS = ("gpu:", "root:", "shared data")
"""Starts of the reasons of tests that need a GPU, root, or files that never are in the repository.
"""
_unexpected: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))


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
