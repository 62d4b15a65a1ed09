"""An engine in a process of its own: one import of vLLM, errors that keep their kind, an end."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from coop_rl.config import load_config
from coop_rl.errors import ActorLostError
from coop_rl.rollout.engine_process import EngineProcess
from coop_rl.weights.lifeline import PARENT_VARIABLE
from tests.main_job.harness import DEMO

SCRIPT = f"""
import asyncio, os, sys
from pathlib import Path
from coop_rl.config import load_config
from coop_rl.errors import WeightSyncError
from coop_rl.rollout.engine_process import EngineProcess
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.rollout.worker import RolloutWorker
from coop_rl.types import Prompt, SamplingSettings

out = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # vLLM logs to it
SAMPLING = SamplingSettings(num_samples=4, temperature=1.0, top_p=1.0, max_tokens=8, seed=3)
PROMPT = Prompt(id="p", text="", token_ids=(1, 2, 3), answer="")

async def main():
    engine = EngineProcess(load_config(Path({str(DEMO)!r})), "gloo")
    await engine.start()
    groups = [engine.call(RolloutWorker.generate_group, PROMPT, SAMPLING) for _ in range(2)]
    first, second = await asyncio.gather(*groups)
    print("same", first == second and len(first.rollouts) == 4, file=out)
    try:
        await engine.call(VllmEngine.update_weights, {{}})
    except WeightSyncError as error:
        print("refused", "start_weight_update" in str(error), file=out)
    print("light", not {{"torch", "vllm", "ray"}} & set(sys.modules), file=out)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def actor():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    yield process
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()


def descendants(actor: "subprocess.Popen[str]") -> dict[str, psutil.Process]:
    """Return the engine's two processes by what they are."""
    found = psutil.Process(actor.pid).children(recursive=True)
    kinds = {"engine_process": "front end", "EngineCore": "core"}
    return {
        kind: process
        for process in found
        for part, kind in kinds.items()
        if part in " ".join(process.cmdline())
    }


def say(actor: "subprocess.Popen[str]", num_lines: int) -> list[str]:
    assert actor.stdout is not None
    return [actor.stdout.readline().strip() for _ in range(num_lines)]


@pytest.mark.timeout(300)
def test_it_answers_and_ends_with_its_actor(actor: "subprocess.Popen[str]") -> None:
    assert say(actor, 3) == ["same True", "refused True", "light True"]
    processes = descendants(actor)
    # A fork: no process but these two, and the core's parent has imported for it.
    assert set(processes) == {"front end", "core"}
    assert processes["core"].ppid() == processes["front end"].pid
    assert len(psutil.Process(actor.pid).children(recursive=True)) == 2
    os.kill(actor.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(list(processes.values()), timeout=10)
    assert not alive


def test_a_lost_front_end_is_told_to_who_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost while it starts. Above, a core follows its front end, which follows its actor."""
    monkeypatch.setenv(PARENT_VARIABLE, "")  # set by the start, and as before in the end

    async def start_and_lose() -> None:
        engine = EngineProcess(load_config(DEMO), "gloo")
        starting = asyncio.create_task(engine.start())
        deadline = time.monotonic() + 60
        while "_listening" not in vars(engine) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        engine._process.kill()
        with pytest.raises(ActorLostError, match="the engine's process ended"):
            await starting
        engine._process.wait()
        with pytest.raises(ActorLostError, match="the engine's process ended"):
            await engine.shutdown()

    asyncio.run(start_and_lose())
