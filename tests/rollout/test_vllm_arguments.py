"""What vLLM is started with."""

import pytest

from coop_rl.config import load_config
from coop_rl.rollout.vllm_engine import UNIPROC, VllmEngine
from tests.main_job.harness import DEMO


@pytest.mark.parametrize(("workers", "executor"), [(1, UNIPROC), (2, "mp")])
def test_workers_are_processes_of_the_actor_and_no_other_actors(
    workers: int, executor: str
) -> None:
    config = load_config(DEMO, [f"rollout.tensor_parallel_size={workers}"])
    arguments = VllmEngine(config, "gloo").arguments()
    assert arguments["tensor_parallel_size"] == workers
    assert arguments.get("distributed_executor_backend") == executor
