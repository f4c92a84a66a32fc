"""`fedmeta serve` end to end."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmeta.cli.main import main


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def _handlers() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def test_no_folder_of_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("serve") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "fedmeta: no folder of runs at 'runs': `fedmeta run quickstart` makes a run\n"
    assert list(here.iterdir()) == []


def test_a_port_in_use_names_a_free_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "runs").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert call("serve", "--port", str(port), "--json") == 2
    out, err = capsys.readouterr()
    assert err.startswith(
        f"fedmeta: port {port} of 127.0.0.1 is in use: choose another, such as --port "
    )
    assert len(err.splitlines()) == 1
    assert json.loads(out)["status"] == "error"
    free = int(err.split()[-1])
    socket.create_server(("127.0.0.1", free)).close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--port", "99999"), "99999"), (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1, port 8642")],
)
def test_an_address_that_cannot_be_bound(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    (here / "runs").mkdir()
    assert call("serve", *arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_stops_on_a_signal(
    here: Path, capsys: pytest.CaptureFixture[str], free_port: int, number: signal.Signals
) -> None:
    """A page that listens does not keep it from ending."""
    (here / "runs").mkdir()
    said: list[bytes] = []

    def listen() -> None:
        connection = _connected(free_port)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        said.append(answer.readline())
        os.kill(os.getpid(), number)
        said.append(answer.read())
        connection.close()

    reader = threading.Thread(target=listen)
    reader.start()
    assert call("serve", "runs", "--port", str(free_port)) == 130
    reader.join(20)
    out, err = capsys.readouterr()
    assert out == f"runs is shown at http://127.0.0.1:{free_port}/ (Ctrl-C stops it)\n"
    assert err == "fedmeta: interrupted\n"
    assert said[0] == b"retry: 1000\n"
    assert len(said) == 2


def _connected(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    _retry(connection.connect)
    return connection


def _retry(work: Callable[[], None]) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            return work()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
