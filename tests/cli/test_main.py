"""The command line end to end: exit codes, one-line errors, and JSON on stdout only."""

import importlib.metadata
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from fedmeta.chain import errors
from fedmeta.cli.commands import doctor
from fedmeta.cli.main import main
from fedmeta.config import to_toml
from fedmeta.experiment import Config, RunFolder
from fedmeta.experiment.planning import resolve
from tests.experiment.helpers import TINY, fedmeta, start
from tests.test_files import strict

OWN = b"""\
task = 'sinusoid'
model = 'mlp'
algorithm = 'maml'
rounds = 3
clients = 6
test_clients = 2
cohort = 4
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the tiny experiment in it."""
    (tmp_path / "tiny.toml").write_text(to_toml(resolve(Config(**TINY))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_run_prints_progress_and_a_table_of_adaptation(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "./tiny.toml") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "9 clients (3 held out), 4 a round, 6 rounds, seed 0 -> runs/tiny-001" in out
    assert "round 6/6" in out
    assert "4 admitted, 0 quarantined" in out
    table = [line for line in out.splitlines() if "±" in line]
    assert [line.split()[1] for line in table] == ["before", "1", "3"]


STEEP = ("-s", "learner.inner_lr=1.2", "-s", "evaluation.steps=[0,1,60]", "-s", "evaluation.track=3")
"""An inner loop that diverges within 60 steps on some tasks."""


@pytest.mark.parametrize("training", ["federated", "centralized", "local"])
def test_all_json_of_a_run_that_diverges_is_json(
    here: Path, capsys: pytest.CaptureFixture[str], training: str
) -> None:
    assert call("run", "./tiny.toml", "-s", f"training={training}", *STEEP, "--out", "r", "--json") == 0
    printed = strict(capsys.readouterr().out)
    run = here / "r"
    files = [*run.glob("*.json"), *run.glob("checkpoints/*.json")]
    written = {path.name: strict(path.read_text()) for path in files}
    logs = {path.name: [*map(strict, path.read_text().splitlines())] for path in run.glob("*.jsonl")}
    assert len(written) > 2
    assert set(logs) == {"metrics.jsonl", "clients.jsonl", "test.jsonl"}
    before, _, last = printed["final"]
    assert printed["final"] == written["run.json"]["final"]
    assert before["loss"] is not None
    assert (before["diverged"], before["tasks"], last["tasks"]) == (0, 8, 8)
    assert (last["loss"], last["loss_ci95"], last["loss_tasks_ci95"]) == (None, None, None)
    assert last["diverged"] == sum(row["steps"][-1]["diverged"] for row in logs["test.jsonl"]) > 0
    looked = [row["test"][-1] for row in logs["metrics.jsonl"] if row["test"]]
    assert any(look["loss"] is None and look["diverged"] for look in looked)


def test_a_table_shows_diverged_tasks_and_the_results_of_the_others(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert call("run", "./tiny.toml", *STEEP, "--out", "r") == 0
    out, _ = capsys.readouterr()
    assert "mean and 95% interval over 2 clients (8 tasks)" in out
    final = RunFolder(here / "r").info["final"]
    # The table of the reasons why replies were refused comes after it.
    table = out[: out.index("└")]
    lines = [line for line in table.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    first, last = final[0], final[-1]
    both = [f"{first['loss']:.3f} ± {first['ci95']:.3f}", f"± {first['tasks_ci95']:.3f}"]
    assert cells[0] == ["before", *both, "0", f"{first['loss']:.3f}"]
    assert cells[-1][1:3] == ["inf", "-"]
    assert cells[-1][3].startswith(f"{last['diverged']} task")
    assert float(cells[-1][4]) == pytest.approx(last["finite_loss"], rel=0.01)


def test_json_is_one_object_on_stdout_and_nothing_else(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "./tiny.toml", "--seed", "3", "-s", "rounds=2", "--out", "r", "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert "round 2/2" in err
    known = {key: value for key, value in result.items() if key not in ("wall_seconds", "final")}
    assert known == {
        "status": "finished",
        "run": "r",
        "experiment": "tiny",
        "algorithm": "maml",
        "engine": "vector",
        "seed": 3,
        "rounds": 2,
        "clients": 9,
        "tasks": 16,
        "participants": [],
        "chain": None,
        "replies": {
            "asked": 8,
            "admitted": 8,
            "quarantined": 0,
            "late": 0,
            "lost": 0,
            "surplus": 0,
            "skipped": 0,
            "reasons": [],
        },
    }
    assert result["wall_seconds"] > 0
    assert [row["step"] for row in result["final"]] == [0, 1, 3]
    assert all(
        row["accuracy"] is None and row["ci95"] > 0 and row["loss"] > 0 for row in result["final"]
    )


def test_resume_extends_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "./tiny.toml", "-s", "rounds=2", "--out", "r") == 0
    assert call("resume", "r", "-s", "rounds=4", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["rounds"], result["tasks"]) == (4, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstrat"], "unknown experiment 'quickstrat': did you mean 'quickstart'?"),
        (["run", "./tiny.toml", "-s", "ronds=3"], "unknown key 'ronds': did you mean 'rounds'?"),
        (["run", "./tiny.toml", "-s", "rounds"], "expected key=value"),
        (["run", "./tiny.toml", "-s", "clients=0"], "at least one client"),
        (["run", "./tiny.toml", "-s", "cohort=99"], "cohort = 99 is larger than the population"),
        (["run", "./tiny.toml", "-s", "server.lr=-0.1"], "server.lr: must be greater than 0"),
        (["run", "./tiny.toml", "-s", "learner.inner_lr=-1"], "learner.inner_lr"),
        (["run", "./tiny.toml", "-s", "model=nowhere.Net"], "model 'nowhere.Net' cannot be imported"),
        (
            [
                "run",
                "./tiny.toml",
                "-s",
                "model=torch.nn:Linear",
                "-s",
                "network={in_features=1,out_features=2}",
            ],
            "Linear' has 2 outputs but the task needs 1",
        ),
        (["run", "./tiny.toml", "-s", "task=collections:OrderedDict"], "is not a task family"),
        (
            ["run", "./tiny.toml", "-s", "algorithm=mmal"],
            "unknown algorithm 'mmal': did you mean 'maml'?",
        ),
        (["run", "./tiny.toml", "-s", "task=digit"], "unknown task 'digit': did you mean 'digits'?"),
        (["run", "quickstart", "-s", "data.ways=11"], "data.ways = 11, but there are 10 digits"),
        (["run", "quickstart", "-s", "data.queries=60"], "data.shots + data.queries"),
        (["run", "./tiny.toml", "--out", "."], ". exists already: choose another --out"),
        (["run", "./tiny.toml", "--seed", "0", "--seed", "1"], "--seed is given 2 times, but a run has"),
        (["list", "runs", "--runs", "nowhere"], "--runs: there is no folder 'nowhere'"),
        (["list", "comparisons", "--runs", "tiny.toml"], "--runs: there is no folder 'tiny.toml'"),
        (["run", "quickstart", "-s", "clients=100000"], "client 0 has no image of one of its classes"),
        (["run", "./tiny.toml", "--out", "tiny.toml/run"], "cannot write to"),
        (["run", "./none.toml"], "no experiment file"),
        (["run"], "Missing argument"),
        (["run", "quickstart", "--sed", "1"], "No such option"),
        (["runn"], "No such command"),
        (["resume", "nothing"], "no run folder at 'nothing'"),
        (["data", "fetch", "omniglott"], "unknown data set 'omniglott': did you mean 'omniglot'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_leaves_nothing_behind(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert message in err
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'algorithm = "maml"\n', "missing key 'task'"),
        (
            b'task = "digits"\nalgoritm = "maml"\n',
            "line 2: unknown key 'algoritm': did you mean 'algorithm'?",
        ),
        (b'task = "digits"\nrounds = "3"\n', "missing key 'algorithm'"),
        (
            b'task = "digits\nrounds = 3\n',
            "line 1: the string is not closed: its second quote is missing",
        ),
        (OWN + b"[learner]\niner_lr = 1\n", "line 9: unknown key 'learner.iner_lr': did you mean"),
        (OWN + b"[network]\n\nhidden = [8, 0]\n", "line 10: network.hidden.1: must be greater than 0"),
        (OWN.replace(b"'maml'", b"'mamml'"), "line 3: unknown algorithm 'mamml': did you mean 'maml'?"),
        (OWN.replace(b"cohort = 4", b"cohort = 9"), "line 7: cohort = 9 is larger than the population"),
        (OWN + b"[[behaviours]]\nkind='noise'\n", "line 8: missing key 'behaviours.0.clients'"),
        (OWN + b"\nmods = ['no.such:mod']\n", "line 9: mods.0 'no.such:mod' cannot be imported"),
        (b'task = "digits"\n\n# caf\xe9\n', "line 3 is not UTF-8 text"),
        (b"task = \xff\xfe\n", "line 1 is not UTF-8 text"),
    ],
)
def test_mistakes_in_a_file_are_reported_with_the_file(
    here: Path, capsys: pytest.CaptureFixture[str], text: bytes, message: str
) -> None:
    (here / "own.toml").write_bytes(text)
    assert call("run", "./own.toml") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"fedmeta: own.toml: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rates = {late = 0.1}\nsecond = 3\n", "line 2: unknown key 'second': did you mean 'seconds'?"),
        ("# mine\n[faults]\naway = 0\n", "line 3: faults.away: must be at least 1 (got 0)"),
        ("rates = {late = 0.1\n", "line 1: the table is not closed by a } on the same line"),
    ],
)
def test_mistakes_in_a_fault_plan_are_reported_with_its_file(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (here / "faults.toml").write_text(text)
    assert call("run", "./tiny.toml", "--faults", "faults.toml") == 2
    assert capsys.readouterr().err.startswith(f"fedmeta: faults.toml: {message}")


def test_mistakes_in_the_config_of_a_run_are_reported_with_their_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "./tiny.toml", "-s", "rounds=1", "--out", "r") == 0
    config = here / "r" / "config.toml"
    config.write_text(config.read_text().replace("\ncohort = 4\n", '\ncohort = "4"\n'))
    line = config.read_text().splitlines().index('cohort = "4"') + 1
    capsys.readouterr()
    assert call("resume", "r") == 2
    said = f"fedmeta: r/config.toml: line {line}: cohort: must be an integer (got '4')\n"
    assert capsys.readouterr().err == said


def test_mistakes_on_the_command_line_are_reported_without_the_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "./tiny.toml", "-s", "rounds=-1") == 2
    assert capsys.readouterr().err.startswith("fedmeta: rounds: ")


def test_the_message_about_an_existing_path_says_what_it_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "compared").mkdir()
    (here / "compared" / "compare.json").write_text("{}")
    assert call("run", "./tiny.toml", "-s", "rounds=1", "--out", "r") == 0
    capsys.readouterr()
    for place, said in {
        "r": "r is a run: choose another --out, or resume it by `fedmeta resume r`",
        "compared": "compared is a comparison: choose another --out",
    }.items():
        assert call("run", "./tiny.toml", "--out", place) == 2
        assert said in capsys.readouterr().err


def test_resume_notes_that_a_run_is_finished(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "./tiny.toml", "-s", "rounds=1", "--out", "r") == 0
    assert "has already finished" not in capsys.readouterr().err
    assert call("resume", "r") == 0
    assert "the run has already finished (round 1 of 1): testing it again" in capsys.readouterr().err
    assert call("resume", "r", "-s", "rounds=2") == 0
    assert "has already finished" not in capsys.readouterr().err


def test_a_truncated_data_file_is_named_with_how_to_fetch_it_again(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = here / "data" / "tinyshakespeare" / "input.txt"
    broken.parent.mkdir(parents=True)
    broken.write_text("First Citizen:\nBefore we pro")
    monkeypatch.setenv("FEDMETA_DATA", str(here / "data"))
    assert call("run", "shakespeare", "--out", "r") == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert str(broken) in err
    assert "fedmeta data fetch shakespeare" in err
    assert not (here / "r").exists()


def test_with_json_an_error_is_an_object_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "quickstrat", "--json") == 2
    out, _ = capsys.readouterr()
    assert json.loads(out)["status"] == "error"
    assert "quickstart" in json.loads(out)["error"]


@pytest.mark.parametrize("request_to_end", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_readable_run_and_exit_130(here: Path, request_to_end: signal.Signals) -> None:
    process = start("run", "tiny.toml", "-s", "rounds=100000", "--out", "r", cwd=here)
    assert process.stdout is not None
    while "round" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    while "round" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(request_to_end)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    folder = RunFolder.open(here / "r")
    stopped = f"stopped after round {len(folder.metrics())} of 100000: resume it with `fedmeta resume r`"
    assert err == f"fedmeta: {stopped}\nfedmeta: interrupted\n"
    assert folder.info["status"] == "interrupted"
    rounds = [row["round"] for row in folder.metrics()]
    assert rounds == list(range(1, len(rounds) + 1))
    assert folder.checkpoints.rounds()[0] == len(rounds)


def test_list_names_experiments_runs_keys_and_parts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("run", "./tiny.toml", "-s", "rounds=1")
    call("run", "./tiny.toml", "-s", "rounds=1", "--out", "runs/comparison/federated-seed0")
    capsys.readouterr()
    shown = {}
    for kind in ("experiments", "runs", "keys", "parts"):
        assert call("list", kind, "--json") == 0
        shown[kind] = json.loads(capsys.readouterr().out)[kind]
    assert {"quickstart", "sinusoid-maml"} <= {row["name"] for row in shown["experiments"]}
    assert [(row["run"], row["status"]) for row in shown["runs"]] == [
        ("runs/comparison/federated-seed0", "finished"),
        ("runs/tiny-001", "finished"),
    ]
    keys = {row["key"]: row for row in shown["keys"]}
    assert keys["server.lr"]["default"] == "0.001"
    assert all(row["meaning"] for row in shown["keys"]), [
        r["key"] for r in shown["keys"] if not r["meaning"]
    ]
    assert {"maml", "reptile", "protonet"} <= {row["name"] for row in shown["parts"]}


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    alone = "run resume compare report serve adapt export list data chain doctor bench"
    commands = [[], ["data", "fetch"], ["chain", "up"], *([name] for name in alone.split())]
    for words in commands:
        assert call(*words, "--help") == 0
        assert "Usage: fedmeta" in capsys.readouterr().out


def test_help_describes_each_argument_once_in_plain_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    for words, described in {
        "run": "NAME|FILE  An experiment from `fedmeta list`, or a TOML file.  [required]",
        "chain up": "[NODE]  anvil or ganache.  [default: anvil]",
        "chain proof": "ACCOUNT  Client number or account.  [required]",
        "data check": "PATH  A folder of images, sounds or texts, or a file.  [required]",
        "federation node": "FOLDER  Folder with the node's keys, from `join`.  [required]",
    }.items():
        assert call(*words.split(), "--help") == 0
        out = capsys.readouterr().out
        assert out.count(described) == 1
        assert out.count("rguments:\n") == 1
        assert "\\[" not in out


def test_no_summary_of_a_command_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ([], ["chain"], ["data"], ["federation"]):
        assert call(*group, "--help") == 0
        _, _, listed = capsys.readouterr().out.partition("Commands:\n")
        assert listed.strip()
        assert "..." not in listed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rn quickstart", "No such command 'rn': did you mean 'run'? See `fedmeta --help`"),
        ("data lst", "No such command 'lst': did you mean 'list'? See `fedmeta data --help`"),
        (
            "run quickstart --ound 5",
            "No such option '--ound': did you mean one of '--json', '--out'? See `fedmeta run --help`",
        ),
        ("resume", "Missing argument 'RUN'; see `fedmeta resume --help`"),
        ("run quickstart --faults", "Option '--faults' requires an argument; see `fedmeta run --help`"),
        ("report r --json=yes", "Option '--json' does not take a value; see `fedmeta report --help`"),
        (
            "run quickstart rounds=5",
            "Got unexpected extra argument (rounds=5): set a key with -s rounds=5; "
            "see `fedmeta run --help`",
        ),
        (
            "resume r server.lr=0.1",
            "Got unexpected extra argument (server.lr=0.1): set a key with -s server.lr=0.1; "
            "see `fedmeta resume --help`",
        ),
        ("report r rounds=5 --oops", "No such option '--oops'; see `fedmeta report --help`"),
        (
            "run quickstart -s rounds = 5",
            "Got unexpected extra arguments (= 5): write a setting without spaces, as -s rounds=5; "
            "see `fedmeta run --help`",
        ),
        (
            "compare quickstart -s rounds: 5",
            "Got unexpected extra argument (5): write a setting without spaces, as -s rounds=5; "
            "see `fedmeta compare --help`",
        ),
        (
            "compare quickstart --arms fedavg, local",
            "Got unexpected extra argument (local): write a list without spaces, as a,b,c; "
            "see `fedmeta compare --help`",
        ),
        (
            "run quickstart --rounds 5",
            "No such option '--rounds': set a key with -s rounds=VALUE; see `fedmeta run --help`",
        ),
        (
            "resume r --checkpoint-every 5",
            "No such option '--checkpoint-every': set a key with -s checkpoint_every=VALUE; "
            "see `fedmeta resume --help`",
        ),
        (
            "compare quickstart --server.lr=1",
            "No such option '--server.lr': set a key with -s server.lr=VALUE; "
            "see `fedmeta compare --help`",
        ),
        ("list runs runs", "Got unexpected extra argument (runs); see `fedmeta list --help`"),
        (
            "chain up geth",
            "NODE: must be one of 'anvil', 'ganache' (got 'geth'); see `fedmeta chain up --help`",
        ),
        (
            "list part",
            "KIND: must be one of 'experiments', 'runs', 'comparisons', 'keys', 'parts', 'algorithms' "
            "(got 'part'); "
            "see `fedmeta list --help`",
        ),
        (
            "compare quickstart --seeds 0",
            "--seeds: must be at least 1 (got 0); see `fedmeta compare --help`",
        ),
        (
            "compare quickstart --seeds=2.5",
            "--seeds: must be an integer (got '2.5'); see `fedmeta compare --help`",
        ),
        (
            "compare quickstart --jobs -1",
            "--jobs: must be at least 1 (got -1); see `fedmeta compare --help`",
        ),
        (
            "chain up --accounts 1001",
            "--accounts: must be between 1 and 1000 (got 1001); see `fedmeta chain up --help`",
        ),
        ("serve --port http", "--port: must be an integer (got 'http'); see `fedmeta serve --help`"),
        (
            "federation node n --superlink x:1 --max-seconds soon",
            "--max-seconds: must be a number (got 'soon'); see `fedmeta federation node --help`",
        ),
    ],
)
def test_a_misused_command_names_the_help_to_read(
    capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    assert call(*words.split()) == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_the_version_and_short_help_are_as_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"fedmeta {importlib.metadata.version('fedmeta')}\n"
    for command in ([], ["run"], ["chain", "up"]):
        assert call(*command, "-h") == 0
        short = capsys.readouterr().out
        assert call(*command, "--help") == 0
        assert short == capsys.readouterr().out


def test_doctor_finds_nothing_missing_on_this_machine(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("doctor", "--json") == 0
    states = {row["check"]: row["state"] for row in json.loads(capsys.readouterr().out)["checks"]}
    assert states["versions"] == states["flower"] == states["runs"] == "ok"
    assert states.keys() >= {"gpu", "ray", "chain", "anvil", "ganache"}


def test_doctor_says_how_to_get_what_is_missing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"PIL", "ray", "web3"}
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        return None if name in missing else found(name, package)

    for module in (importlib.util, doctor, errors):
        monkeypatch.setattr(module, "find_spec", find_spec)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert call("doctor", "--json") == 0
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    for check, extra in {"images": "data", "ray": "ray", "chain": "chain", "anvil": "chain"}.items():
        assert rows[check]["state"] == "optional"
        assert f"pip install 'fedmeta[{extra}]'" in rows[check]["detail"]


def test_data_list_says_where_each_set_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["data"]}
    assert {
        *("mnist", "movielens", "omniglot", "omniglot-full", "parkinsons", "shakespeare", "sider"),
        *("speech", "tox21", "vowels"),
    } == set(rows)


def test_the_module_is_the_command(here: Path) -> None:
    shown = fedmeta("list", cwd=here)
    assert shown.returncode == 0
    assert "quickstart" in shown.stdout


def test_a_closed_pipe_is_not_an_error(here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = fedmeta("list", "keys", cwd=here, stdout=writer)
    os.close(writer)
    assert ended.stderr == ""


def test_other_code_than_a_run_was_made_with_is_refused_until_it_is_accepted(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(bias: str) -> None:
        net = "class Net(nn.Linear):\n    def __init__(self): super().__init__(1, 1, bias=%s)\n"
        (here / "thin.py").write_text("from torch import nn\n" + net % bias)
        sys.modules.pop("thin", None)

    monkeypatch.syspath_prepend(str(here))
    write("True")
    own = ["-s", "model=thin:Net", "-s", "network={}"]
    assert call("run", "tiny.toml", *own, "-s", "rounds=2", "--out", "r") == 0
    write("(True)")
    capsys.readouterr()
    more = ["resume", "r", "-s", "rounds=3"]
    assert call(*more) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{here / 'thin.py'} changed since its rounds were made" in err
    assert call(*more, "--accept-changes") == 0
    assert [entry["from"] for entry in RunFolder(here / "r").info["made"]] == [1, 3]
    sys.modules.pop("thin", None)
