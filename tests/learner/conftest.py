"""The worlds of DeepSpeed ranks that several files look at."""

from typing import Any

import pytest

from tests.learner.worlds import WORLDS, record_world


@pytest.fixture(scope="session")
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, Any]]:
    """Everything the worker processes saw, by world size and scene."""
    folder = tmp_path_factory.mktemp("deepspeed")
    is_whole = any(item.get_closest_marker("prove") for item in request.session.items)
    return {n: record_world(n, folder, is_whole=is_whole) for n in WORLDS}
