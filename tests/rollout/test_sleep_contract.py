"""What we use of vLLM's sleep mode, which frees memory on GPUs only, still has the names we use."""

import asyncio
import inspect
from typing import Any, cast

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.abstract import SLEEP_TAGS

from coop_rl.config import load_config
from coop_rl.errors import RunError
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.types import SamplingSettings
from tests.main_job.harness import DEMO


class Sampled(Exception):  # noqa: N818 - how far it got
    pass


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

    class model_config:  # noqa: N801 - as vLLM calls it
        max_model_len = 64

    def generate(self, *_: Any, **__: Any) -> Any:
        raise Sampled

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
        ("sleep", 2, "keep"),
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


def test_an_engine_without_weights_generates_nothing_until_an_update_is_finished() -> None:
    """Also where an update was begun and failed; an engine that kept them may."""
    sampling = SamplingSettings(num_samples=1, temperature=1.0, top_p=1.0, max_tokens=4, seed=0)

    async def turns(engine: VllmEngine) -> None:
        await engine.sleep()
        await engine.sleep()  # a second time would save what is no longer there
        await engine.start_weight_update()
        with pytest.raises(RunError, match="slept without weights"):
            await engine.generate([5, 6], sampling, 1)
        await engine.finish_weight_update("1/1")
        await engine.sleep(keeps_weights=True)
        await engine.generate([5, 6], sampling, 1)

    engine, recorder = VllmEngine(load_config(DEMO), "gloo"), Recorder()
    engine._engine = cast(AsyncLLM, recorder)
    with pytest.raises(Sampled):
        asyncio.run(turns(engine))
    assert [call for call in recorder.calls if call[0] == "sleep"] == [
        ("sleep", 2, "keep"),
        ("sleep", 1, "keep"),
    ]
    assert recorder.calls[-1] == ("wake_up", "weights", "kv_cache")
