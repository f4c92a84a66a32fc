"""`fedmeta federation up`: real processes, all of which end with it."""

import json
import signal
import socket
from pathlib import Path

import psutil
import pytest

from fedmeta.federation.engines.deployment.local import free_port
from tests.experiment.helpers import fedmeta, start

UP = ("federation", "up")


def ended(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    done = fedmeta("federation", *arguments, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nodes", "2", "--data", "2=."), "--data '2=.' is not I=DIR with I from 0 to 1"),
        (("--nodes", "2", "--data", "here"), "--data 'here' is not I=DIR with I from 0 to 1"),
        (("--nodes", "2", "--data", "1=nowhere"), "--data '1=nowhere': there is no folder 'nowhere'"),
        (
            ("--nodes", "1", "--dir", "/dev/null/here"),
            "cannot use the folder /dev/null/here: Not a directory",
        ),
    ],
)
def test_bad_usage_is_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = fedmeta(*UP, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"fedmeta: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = fedmeta(*UP, "--nodes", "1", "--port", port, cwd=tmp_path)
    expected = f"fedmeta: port {port} cannot be used: Address already in use; choose another --port\n"
    assert (done.returncode, done.stderr) == (2, expected)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGHUP])
def test_all_processes_end_with_it_and_another_waits_its_turn(sent: int, tmp_path: Path) -> None:
    arguments = ("--nodes", "1", "--json", "--dir", "here")
    process = start(*UP, *arguments, "--port", str(free_port()), cwd=tmp_path)
    assert process.stdout is not None
    started = json.loads(process.stdout.readline())
    assert started["certificate"] is None
    below = psutil.Process(process.pid).children(recursive=True)
    assert {started["pid"], *started["nodes"]} <= {child.pid for child in below}
    second = fedmeta(*UP, *arguments, "--port", str(free_port()), cwd=tmp_path)
    expected = "fedmeta: a federation already runs in here: choose another --dir\n"
    assert (second.returncode, second.stderr) == (2, expected)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "fedmeta: interrupted\n")
    _, alive = psutil.wait_procs(below, timeout=30)
    assert alive == []


def test_an_owner_joins_and_the_server_admits(tmp_path: Path) -> None:
    join = ("join", "--federation", "our-study", "--partition", "0", "--dir", "mine", "--json")
    code, output, errors = ended(*join, cwd=tmp_path)
    assert (code, errors) == (0, "")
    account = json.loads(output)["account"]
    sent = "mine/node.registration.json"
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "node",
        "node.account.json",
        "node.pub",
        "node.registration.json",
    ]
    code, output, errors = ended("admit", sent, "--federation", "our-study", cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert f"partition 0: {account}" in output
    assert "-s deployment.roster=roster.json" in output
    roster = json.loads((tmp_path / "roster.json").read_text())
    assert [one["registration"]["account"] for one in roster["nodes"]] == [account]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("join", "--federation", "our study", "--partition", "0"),
            "--federation 'our study': use at most",
        ),
        (("admit", "nowhere.json", "--federation", "ours"), "there is no file nowhere.json"),
        (("admit", "nowhere.json"), "there is no roster at roster.json: name its federation"),
        (("node", "mine", "--superlink", "link.example.org:8000"), "set --insecure"),
        (("node", "mine", "--superlink", "nothing"), "--superlink: 'nothing' is not host:port"),
        (
            ("node", "mine", "--superlink", "127.0.0.1:8000"),
            "there is no file mine/node.registration.json",
        ),
    ],
)
def test_bad_usage_of_join_admit_and_node_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    code, _, errors = ended(*arguments, cwd=tmp_path)
    assert (code, errors.count("\n")) == (2, 1)
    assert message in errors
    assert list(tmp_path.iterdir()) == []
