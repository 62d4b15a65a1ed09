"""The worlds of DeepSpeed ranks that several files look at."""

from typing import Any

import pytest

from tests.learner.worlds import WORLDS, record_world


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Everything the worker processes saw, by world size and scene."""
    folder = tmp_path_factory.mktemp("deepspeed")
    return {world_size: record_world(world_size, folder) for world_size in WORLDS}
