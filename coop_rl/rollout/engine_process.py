"""An engine in a process of its own, in which vLLM is imported once.

    rollout actor --calls--> engine process (vLLM's front end) --forks--> engine core (the model)

Importing vLLM takes longer than all else of an engine's start. From a Ray actor it happens twice or
more: Ray's threads hold locks that a forked child would wait for without end, so vLLM starts its
core anew from there. This process has no such threads, and on CPUs its core is a fork of it that
finds everything imported. The actor itself imports neither vLLM nor torch.

Each message is pickled as multiprocessing does between its processes, behind its length. A request
is (id, method's qualified name, arguments); an answer is (id, whether it succeeded, value or
exception). Answers come as they are ready.
"""

import asyncio
import faulthandler
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, Concatenate, ParamSpec, TypeVar

from coop_rl.config.schema import ServingConfig
from coop_rl.errors import ActorLostError, RunError
from coop_rl.rollout.vllm_engine import VllmEngine, engine_environment
from coop_rl.rollout.worker import RolloutWorker
from coop_rl.weights.lifeline import (
    FOLDER_VARIABLE,
    announce_parent,
    follow_parent,
    remove_folder,
)

LENGTH_BYTES = 8
END_LIMIT_S = 5.0
"""How long the process gets to end after its engine did."""
A = TypeVar("A", VllmEngine, RolloutWorker)
P = ParamSpec("P")
R = TypeVar("R")


class EngineProcess:
    """The actor's side: starts the process, and calls what lives there."""

    def __init__(self, config: ServingConfig, backend: str) -> None:
        """Prepare an engine for `config`; see `VllmEngine`."""
        self._config, self._backend = config, backend
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def start(self) -> None:
        """Start the process and the engine in it."""
        announce_parent()
        ours, theirs = socket.socketpair()
        folder = tempfile.mkdtemp(prefix="coop-rl-engine-")
        folders = {FOLDER_VARIABLE: folder, "VLLM_RPC_BASE_PATH": folder}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | engine_environment(self._config) | folders,
        )
        theirs.close()
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        send(self._writer, (self._config, self._backend))
        self._listening = asyncio.create_task(self._listen(reader))
        await self.call(VllmEngine.start)

    async def call(
        self, method: Callable[Concatenate[A, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a method of the engine, or of the worker on top of it.

        Raises:
            ActorLostError: The process is dead.
            Exception: Whatever the method raises.
        """
        if self._listening.done():
            raise ActorLostError("the engine's process ended")
        number = next(self._ids)
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        send(self._writer, (number, method.__qualname__, args, kwargs))
        return await answer

    async def shutdown(self) -> None:
        """End the engine's processes; nothing may be called afterwards."""
        await self.call(VllmEngine.shutdown)
        self._writer.close()
        await asyncio.to_thread(self._process.wait, END_LIMIT_S)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (message := await receive(reader)) is not None:
            number, has_succeeded, value = message
            answer = self._waiting.pop(number)
            if answer.done():  # its caller was cancelled
                continue
            if has_succeeded:
                answer.set_result(value)
            else:
                answer.set_exception(value)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ActorLostError("the engine's process ended"))


class EngineServer:
    """The process's side: one engine, any number of calls under way."""

    def __init__(self, engine: VllmEngine, writer: asyncio.StreamWriter) -> None:
        """Answer on `writer`."""
        self._targets = {"VllmEngine": engine, "RolloutWorker": RolloutWorker(engine)}
        self._writer = writer
        self._under_way: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Take calls until the actor is gone."""
        while (request := await receive(reader)) is not None:
            task = asyncio.create_task(self._answer(*request))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _answer(self, number: int, name: str, args: Any, kwargs: Any) -> None:
        target, _, method = name.partition(".")
        try:
            value = await getattr(self._targets[target], method)(*args, **kwargs)
            send(self._writer, (number, True, value))
        except RunError as error:
            send(self._writer, (number, False, error))
        except Exception as error:
            # Of a library: its class may not survive a pickle. The actor's log has all of it.
            traceback.print_exc()
            send(self._writer, (number, False, RunError(f"{type(error).__name__}: {error}")))


def send(writer: asyncio.StreamWriter, message: object) -> None:
    """Queue a message."""
    content = ForkingPickler.dumps(message)
    writer.writelines((len(content).to_bytes(LENGTH_BYTES), content))


async def receive(reader: asyncio.StreamReader) -> Any:
    """Return the next message, or None where the other side is gone."""
    try:
        length = int.from_bytes(await reader.readexactly(LENGTH_BYTES))
        return ForkingPickler.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def main(descriptor: int) -> None:
    """Serve one engine to the process at the other end of a socket."""
    connection = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    config, backend = await receive(reader)
    engine = VllmEngine(config, backend, may_fork=True)
    await EngineServer(engine, writer).serve(reader)
    await engine.shutdown()
    remove_folder()
    # Python would tidy up thousands of modules first.
    os._exit(0)


if __name__ == "__main__":
    follow_parent()
    # Its core is forked from it, and so does the same.
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    os.register_at_fork(after_in_child=follow_parent)
    asyncio.run(main(int(sys.argv[1])))
