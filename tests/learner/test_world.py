"""The torch world of a learner group: where it listens, and that no collective waits for ever."""

import json
import os
import socket
import time
from pathlib import Path

import psutil
import pytest
import torch

from coop_rl.errors import ActorLostError
from coop_rl.learner.world import init_world
from coop_rl.weights.process_group import open_store
from tests.support.fresh import FRESH

HOST = "127.0.0.1"
TIMEOUT_S = 6.0


def rank_main(rank: int, port_file: Path, out: Path) -> None:
    """Build an engine on two ranks; then rank 1 falls silent and rank 0 waits for it."""
    from coop_rl.learner.deepspeed_engine import DeepSpeedEngine
    from tests.learner.scenes import ENGINE, build_batch, build_policy

    torch.set_num_threads(1)
    policy, _ = build_policy()
    # The model is built before anyone waits: only collectives are limited.
    store, port = open_store(HOST, 60.0) if rank == 0 else (None, 0)
    if store:
        port_file.write_text(f"{port}\n")
    while not port_file.exists() or "\n" not in port_file.read_text():
        time.sleep(0.05)
    init_world(HOST, int(port_file.read_text()), rank, 2, 60.0, store=store)
    engine = DeepSpeedEngine(policy, ENGINE, TIMEOUT_S)
    if rank == 1:
        time.sleep(60)
    micro = build_batch(0, 2).rl[0][0]
    engine.backward(engine(micro.grid).log_prob_T.sum())
    listening = [
        c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN
    ]
    began = time.perf_counter()
    error = ""
    try:
        engine.step(1e-3)
    except RuntimeError as raised:
        error = str(raised)
    waited_s = time.perf_counter() - began
    out.write_text(json.dumps({"listening": listening, "error": error, "waited_s": waited_s}))
    os._exit(0)  # the silent rank would keep an orderly end waiting


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining names network interfaces in the environment; undo that afterwards."""
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "unset")
        monkeypatch.delenv(variable)


def test_a_silent_rank_is_noticed_and_only_loopback_listens(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ranks = [FRESH.Process(target=rank_main, args=(n, tmp_path / "port", out)) for n in range(2)]
    for process in ranks:
        process.start()
    try:
        ranks[0].join(120)
        assert ranks[0].exitcode == 0
    finally:
        for process in ranks:
            process.kill()
            process.join()
    got = json.loads(out.read_text())
    assert got["error"], "the step ended although a rank took no part"
    assert TIMEOUT_S * 0.5 < got["waited_s"] < TIMEOUT_S * 3
    assert got["listening"]
    assert set(got["listening"]) == {HOST}


def test_a_world_that_never_fills_names_itself() -> None:
    store, port = open_store(HOST, 1.0)
    with pytest.raises(ActorLostError, match=r"learner joint rank 0 of 2: not all ranks joined"):
        init_world(HOST, port, 0, 2, 1.0, store=store, name="learner joint")


def test_a_store_that_is_not_there_names_the_address() -> None:
    with socket.create_server((HOST, 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ActorLostError, match=f"{HOST}:{port}"):
        init_world(HOST, port, 1, 2, 1.0, name="learner shadow")
