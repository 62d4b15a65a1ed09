"""The live page: on loopback, for this machine alone, and with a new step at once."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread

import pytest

from coop_rl.errors import UserError
from coop_rl.report.live import LiveServer
from tests.report.runs import step_row, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", num_steps=3)


@pytest.fixture
def server(run: Path) -> Iterator[LiveServer]:
    with LiveServer([run], 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: LiveServer, path: str, host: str = "") -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse()


def test_a_new_step_is_served_at_once(server: LiveServer, run: Path) -> None:
    first = json.loads(ask(server, "/data.json?seen=0").read())
    seen = f"/data.json?seen={first['number']}"
    assert ask(server, seen).status == 204
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(step_row(3)) + "\n")
    newer = json.loads(ask(server, seen).read())
    assert newer["runs"][0]["x"]["steps"] == [1, 2, 3, 4]


def test_the_page_may_ask_its_own_server_alone(server: LiveServer) -> None:
    answer = ask(server, "/")
    assert "connect-src 'self'" in answer.read().decode()
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [("/", "evil.example:80", 403), ("/", "", 200), ("/../config.json", "", 404)],
)
def test_others_get_nothing(server: LiveServer, path: str, host: str, status: int) -> None:
    assert ask(server, path, host).status == status


def test_a_taken_port_is_said(server: LiveServer, run: Path) -> None:
    with pytest.raises(UserError, match=r"cannot listen on 127.0.0.1:\d+: .*; give another --port"):
        LiveServer([run], server.server_port)
