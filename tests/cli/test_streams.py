"""Commands survive a closed pipe or terminal, a full disk behind stdout, and an ASCII locale."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from fedmeta.cli.screen import SafeConsole, Screen
from fedmeta.cli.streams import LastingFile, PlainText, styled
from fedmeta.config import to_toml
from fedmeta.experiment import Config, RunFolder
from fedmeta.experiment.planning import resolve
from tests import processes
from tests.experiment.helpers import TINY, command, fedmeta


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(to_toml(resolve(Config(**TINY))))
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "sign"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "+-"),
        ({"PYTHONIOENCODING": "latin-1"}, "±"),
    ],
)
def test_an_encoding_that_lacks_letters_gets_plain_ones(
    here: Path, environment: dict[str, str], sign: str
) -> None:
    more = {"encoding": environment.get("PYTHONIOENCODING", "utf-8"), "errors": "replace"}
    one = ("run", "tiny.toml", "-s", "rounds=1", "--out", "r")
    done = fedmeta(*one, cwd=here, env=os.environ | environment, **more)
    assert (done.returncode, done.stderr) == (0, "")
    assert "before" in done.stdout
    # A frame of plain letters has the two as well.
    assert re.search(rf"\d {re.escape(sign)} \d", done.stdout), done.stdout


STEADY = [
    sys.executable,
    "-c",
    "from fedmeta.cli.streams import steady; steady(); print('0.3 \\u00b1 0.1')",
]
"""What every command does first, without what it imports later."""
OPEN_ONE = [
    sys.executable,
    "-c",
    "from fedmeta.cli.streams import steady; steady(); print('lost')\n"
    "with open('log', 'w') as log: log.write(str(log.fileno()))",
]


def test_a_locale_that_lacks_letters_gets_plain_ones() -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(STEADY, env=os.environ | plain, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"0.3 +- 0.1\n", b"")


def test_a_closed_output_pipe_does_not_end_a_run(here: Path) -> None:
    process = processes.Popen(
        command("run", "tiny.toml", "-s", "rounds=40", "--out", "r"),
        cwd=here,
        stdout=processes.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith(b"\n")
        process.stdout.close()
        assert process.wait() == 0
    folder = RunFolder.open(here / "r")
    assert (folder.status, len(folder.metrics())) == ("finished", 40)


def test_the_numbers_of_closed_standard_files_are_taken_at_the_start(tmp_path: Path) -> None:
    # What an interpreter makes of closed files it does as it starts: no fork will do.
    line = f"{shlex.join(OPEN_ONE)} 0<&- 1>&- 2>&-"
    assert subprocess.run(["bash", "-c", line], cwd=tmp_path, check=False).returncode == 0
    assert int((tmp_path / "log").read_text()) > 2


@pytest.mark.slow
def test_closed_standard_files_are_not_taken_for_the_runs_logs(here: Path) -> None:
    line = " ".join([*command("run", "tiny.toml", "-s", "rounds=2", "--out", "r"), "0<&- 1>&- 2>&-"])
    assert subprocess.run(["bash", "-c", line], cwd=here, check=False).returncode == 0
    folder = RunFolder.open(here / "r")
    assert [row["round"] for row in folder.metrics()] == [1, 2]
    assert folder.status == "finished"


def test_a_full_disk_is_ignored_for_stderr_and_reported_for_stdout(here: Path) -> None:
    with Path("/dev/full").open("w") as full:
        one = ("run", "tiny.toml", "-s", "rounds=1", "--out", "r", "--json")
        done = fedmeta(*one, cwd=here, stderr=full)
        assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "finished")
        done = fedmeta("list", "keys", "--json", cwd=here, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "fedmeta: could not write all output to stdout: No space left on device\n"


@pytest.mark.slow
def test_nohup_outlives_its_terminal(here: Path) -> None:
    process = subprocess.Popen(
        ["nohup", *command("run", "tiny.toml", "-s", "rounds=60", "--out", "r")],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert b"60 rounds" in process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert RunFolder.open(here / "r").status == "finished"


def test_a_lasting_file_distinguishes_a_full_disk_from_a_closed_pipe() -> None:
    full = LastingFile(os.open("/dev/full", os.O_WRONLY), "wb")
    assert full.write(b"abc") == 3
    assert full.lost is not None
    full.close()
    read, write = os.pipe()
    os.close(read)
    gone = LastingFile(write, "wb")
    assert (gone.write(b"abc"), gone.lost) == (3, None)
    gone.close()


OFFLINE = ("-s", "task=tests.federation.helpers:Offline", "-s", "rounds=2", "--no-check")


def call(*arguments: str) -> int:
    from fedmeta.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_a_run_that_did_not_learn_exits_with_1_and_its_reasons(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    assert call("run", "./tiny.toml", *OFFLINE, "--out", "r") == 1
    out, err = capsys.readouterr()
    assert "why replies were not admitted" in out
    assert "OSError: no disk" in out
    assert "±" not in out
    assert "Traceback" not in err
    assert err.startswith("fedmeta: the run did not learn: no reply was admitted")
    assert err.endswith("; the traceback is in r/errors.log\n")
    assert call("list", "runs", "--runs", ".", "--json") == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)["runs"]] == ["failed"]


def test_with_json_a_failed_run_is_one_object(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    assert call("run", "./tiny.toml", *OFFLINE, "--out", "r", "--json", "--debug") == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["status"] == "error"
    assert "no reply was admitted" in found["error"]
    assert err.count("Traceback (most recent call last)") == 1
    assert err.index("Traceback") < err.index("round 1/2"), "as it happens"
    assert call("resume", "r", "--no-check", "--json") == 1
    assert json.loads(capsys.readouterr().out)["status"] == "error"


def test_an_unexpected_error_is_one_line_and_one_object(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("in the table")

    monkeypatch.chdir(here)
    monkeypatch.setattr("fedmeta.experiment.execute.write_examples", broken)
    assert call("run", "./tiny.toml", "--out", "r", "-s", "rounds=1", "--json") == 1
    out, err = capsys.readouterr()
    told = "unexpected ZeroDivisionError: in the table; the traceback is in r/errors.log"
    assert json.loads(out) == {"status": "error", "error": told}
    assert err.splitlines()[-1] == f"fedmeta: {told}"
    assert "Traceback" not in err
    assert call("resume", "r", "--debug") == 1
    assert "in broken" in capsys.readouterr().err


def written(text: str, styled_text: str = "") -> str:
    """What a terminal gets for untrusted text, and for text styled by a library."""
    raw = io.BytesIO()
    stream = PlainText(io.BufferedWriter(raw), "utf-8")  # type: ignore[type-var]
    stream.write(text)
    styled(stream).write(styled_text)
    stream.flush()
    return raw.getvalue().decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "run \x1b]8;;http://evil\x07click\x1b]8;;\x07\n",
            "run \\x1b]8;;http://evil\\x07click\\x1b]8;;\\x07\n",
        ),
        ("\x1b[1A\x1b[2Kfedmeta: all is well", "\\x1b[1A\\x1b[2Kfedmeta: all is well"),
        ("photo_\u202egpj.exe", "photo_\\u202egpj.exe"),
    ],
)
def test_text_from_others_moves_no_cursor(text: str, shown: str) -> None:
    assert written(text) == shown
    assert written("", "\x1b[1mbold\x1b[0m") == "\x1b[1mbold\x1b[0m", "a library's own colours stay"


def test_a_table_shows_markup_and_controls_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A reason that a client sent is neither a colour, nor a link, nor a broken tag."""
    reasons = (
        "client failed: ValueError: [/oops]",
        "[link=http://evil]x[/link]",
        "a\x1b[2Jb",
        ":smile:",
    )
    table = Table("reason", title="[bold red]title")
    for reason in reasons:
        table.add_row(reason)
    SafeConsole().print(table)
    shown = capsys.readouterr().out
    for reason in ("[/oops]", "[link=http://evil]x[/link]", "a\\x1b[2Jb", ":smile:", "[bold red]title"):
        assert reason in shown
    assert "\x1b" not in shown


def test_a_note_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(True, 1.0)._note("client 3: \x1b[2J\nfedmeta: nothing happened\u202e")
    said = capsys.readouterr().err
    assert said == "fedmeta: client 3: \\x1b[2J fedmeta: nothing happened\\u202e\n"
