"""What we use of vLLM's sleep mode, which frees memory on GPUs only, still has the names we use."""

import asyncio
import inspect
from typing import Any, cast

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.abstract import SLEEP_TAGS

from coop_rl.config import load_config
from coop_rl.rollout.vllm_engine import VllmEngine
from tests.main_job.harness import DEMO


class Recorder:
    """Stands where `AsyncLLM` does, and wakes as it does: awake once all tags are."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._asleep: set[str] = set()

    async def sleep(self, level: int, mode: str) -> None:
        self.calls.append(("sleep", level, mode))
        self._asleep = set(SLEEP_TAGS)

    async def wake_up(self, tags: list[str]) -> bool:
        self.calls.append(("wake_up", *tags))
        self._asleep -= set(tags)
        return not self._asleep

    def __getattr__(self, name: str) -> Any:
        async def noted(*_: Any, **__: Any) -> None:
            self.calls.append(name)

        return noted


def test_sleep_and_wake_up_take_what_we_pass() -> None:
    assert list(inspect.signature(AsyncLLM.sleep).parameters) == ["self", "level", "mode"]
    assert inspect.signature(AsyncLLM.sleep).parameters["mode"].annotation.__args__ == (
        "abort", "wait", "keep",
    )  # fmt: skip
    assert list(inspect.signature(AsyncLLM.wake_up).parameters) == ["self", "tags"]
    assert {"weights", "kv_cache"} == SLEEP_TAGS
    assert "enable_sleep_mode" in inspect.signature(AsyncEngineArgs).parameters


def test_weights_come_back_before_an_update_and_the_cache_after_it() -> None:
    async def turn(engine: VllmEngine) -> None:
        await engine.sleep()
        await engine.start_weight_update()
        await engine.update_weights({})
        await engine.finish_weight_update("1/1")

    engine, recorder = VllmEngine(load_config(DEMO), "gloo"), Recorder()
    engine._engine = cast(AsyncLLM, recorder)
    asyncio.run(turn(engine))
    assert recorder.calls == [
        ("sleep", 1, "keep"),
        ("wake_up", "weights"),
        "pause_generation",
        "collective_rpc",  # forgets an update that was begun and not finished
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
        ("wake_up", "kv_cache"),
        "resume_generation",
    ]
    recorder.calls.clear()
    asyncio.run(engine._wake(["weights", "kv_cache"]))
    assert recorder.calls == []  # it is awake
