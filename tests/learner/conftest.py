"""The worlds of DeepSpeed ranks that several files look at."""

from typing import Any

import pytest

from tests.learner.worlds import STAGES, WORLDS, record_world


@pytest.fixture(scope="session")
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, Any]]:
    """Everything the worker processes saw, by world size and scene."""
    folder = tmp_path_factory.mktemp("deepspeed")
    is_whole = any(item.get_closest_marker("prove") for item in request.session.items)
    stages = {world_size: STAGES if world_size > 1 or is_whole else (0,) for world_size in WORLDS}
    return {
        world_size: record_world(world_size, stages[world_size], folder) for world_size in WORLDS
    }
