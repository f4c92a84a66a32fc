"""Tracking logs the same numbers and never disturbs a run. The stores are real and read back."""

import json
import shutil
import sqlite3
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import Config, Listener, RunFolder, resume, run, tracker, tracking_stores
from fedmeta.experiment.tracker import Entry, Tracked, Tracker, require_extra, scalars
from tests import processes
from tests.experiment.helpers import TINY, contents

# MLflow's own use of its database library.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]

STEPS = (0, 1, 3)


@pytest.fixture(autouse=True)
def _no_store_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tracked run, beside the store that it made: that takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("tracked") / "r"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(Config(**TINY, tracking="mlflow"), out=folder)
    return folder


@pytest.fixture
def store(made_once: Path, tmp_path: Path) -> Path:
    """An MLflow store without a run of this test."""
    path = tmp_path / "mlflow.db"
    shutil.copy(made_once.parent / "mlflow.db", path)
    with closing(sqlite3.connect(path)) as database, database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table}")
    return path


Series = dict[str, dict[int, float]]


def expected(folder: Path) -> Series:
    """What a run's own files say, by metric and round, spelled out here once more."""
    run_folder = RunFolder.open(folder)
    series: Series = {}

    def add(name: str, step: int, value: Any) -> None:
        if value is not None:
            series.setdefault(name, {})[step] = float(value)

    def add_steps(name: str, round_: int, steps: Sequence[Mapping[str, Any]]) -> None:
        for step in steps:
            for key in step:
                if key != "step":
                    add(f"{name}/{key}/{step['step']}", round_, step[key])

    for row in run_folder.metrics():
        for key, value in row.items():
            if key == "evaluation":
                add_steps("evaluation", row["round"], value or [])
            elif key not in ("round", "test"):
                add(key, row["round"], value)
    add_steps("final", len(run_folder.metrics()), run_folder.info["final"])
    return series


def tensorboard(folder: Path) -> Series:
    """All scalars of the event files; a step that was written twice fails."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found: Series = {}
    for tag in events.Tags()["scalars"]:
        scalars_ = events.Scalars(tag)
        found[tag] = {event.step: event.value for event in scalars_}
        assert len(found[tag]) == len(scalars_), tag
    return found


def mlflow(folder: Path) -> tuple[Series, Any]:
    """All metrics of the only MLflow run beside a run's folder, and that run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    (tracked,) = client.search_runs(experiments)
    found: Series = {}
    for key in tracked.data.metrics:
        history = client.get_metric_history(tracked.info.run_id, key)
        found[key] = {metric.step: metric.value for metric in history}
        assert len(found[key]) == len(history), key
    return found, tracked


def same(found: Series, wanted: Series) -> bool:
    """Equal but for float32, which TensorBoard keeps."""
    return found.keys() == wanted.keys() and all(
        found[name] == pytest.approx(wanted[name], rel=1e-6) for name in wanted
    )


def test_tensorboard_has_the_numbers_of_the_runs_files(tmp_path: Path) -> None:
    run(Config(**TINY, tracking="tensorboard"), out=tmp_path / "r")
    wanted = expected(tmp_path / "r")
    assert {"loss", "update_norm", "seconds", "final/loss/3", "evaluation/loss/1"} <= wanted.keys()
    assert len(wanted["loss"]) == TINY["rounds"]
    assert same(tensorboard(tmp_path / "r"), wanted)


def test_mlflow_has_the_numbers_and_the_config(made_once: Path) -> None:
    found, tracked = mlflow(made_once)
    assert same(found, expected(made_once))
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == "r"
    params = tracked.data.params
    assert (params["algorithm"], params["server.lr"], params["data.shots"]) == ("maml", "0.001", "5")


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
@pytest.mark.usefixtures("store")
def test_tracking_changes_no_result(kind: str, tmp_path: Path) -> None:
    plain = run(Config(**TINY), out=tmp_path / "plain")
    tracked = run(Config(**TINY, tracking=kind), out=tmp_path / "tracked")
    assert contents(plain.run) == contents(tracked.run)
    assert plain.final == tracked.final


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
@pytest.mark.usefixtures("store")
def test_a_resumed_run_is_tracked_in_the_same_place_without_repeated_steps(
    kind: str, tmp_path: Path
) -> None:
    config = Config(**{**TINY, "rounds": 4, "checkpoint_every": 3}, tracking=kind)
    folder = run(config, out=tmp_path / "r").run
    # Round 4 is lost, and computed and logged again.
    for file in (folder / "checkpoints").glob("round-000004.*"):
        file.unlink()
    resume(folder)
    resume(folder, {"rounds": 6})
    found = tensorboard(folder) if kind == "tensorboard" else mlflow(folder)[0]
    assert sorted(found["loss"]) == [1, 2, 3, 4, 5, 6]
    assert sorted(found["final/loss/3"]) == [4, 6]
    wanted = expected(folder)
    assert found["update_norm"] == pytest.approx(wanted["update_norm"], rel=1e-6)
    if kind == "mlflow":
        _, tracked = mlflow(folder)
        assert tracked.info.status == "FINISHED"
        assert tracked.data.params["rounds"] == "4"
        assert tracked.data.tags["resumed.rounds"] == "6"


def test_tracking_may_begin_and_end_when_a_run_is_resumed(tmp_path: Path) -> None:
    folder = run(Config(**{**TINY, "rounds": 2}), out=tmp_path / "r").run
    resume(folder, {"tracking": "tensorboard", "rounds": 4})
    resume(folder, {"tracking": "none", "rounds": 6})
    assert sorted(tensorboard(folder)["loss"]) == [3, 4]
    with pytest.raises(ConfigError, match="tracking"):
        resume(folder, {"tracking": "wandb"})


def test_without_tracking_nothing_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from fedmeta.experiment import Config, run;"
        "from tests.experiment.helpers import TINY;"
        f"run(Config(**TINY), out={str(tmp_path / 'r')!r});"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('mlflow', 'tensorboard')))"
    )
    shown = processes.run([sys.executable, "-c", script])
    assert shown.stdout == "[]\n"


def test_a_missing_extra_is_reported_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'fedmeta\[mlflow\]'"):
        run(Config(**TINY, tracking="mlflow"), out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
    require_extra("none")


def test_a_server_that_is_down_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    notes: list[str] = []
    result = run(
        Config(**TINY, tracking="mlflow"), out=tmp_path / "r", listener=Listener(note=notes.append)
    )
    assert result.status == "finished"
    (note,) = notes
    assert note.startswith("tracking with mlflow stopped (")
    assert "\n" not in note
    assert len(note) < 400


def _half_made(path: Path) -> None:
    """What a kill leaves: the first of MLflow's tables, and none of its bookkeeping."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT)")


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _no_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be taken for one" * 40)


@pytest.mark.parametrize("damage", [_half_made, _cut_short, _no_database])
def test_a_damaged_mlflow_database_is_named_with_what_to_do(
    damage: Callable[[Path], None], made_once: Path, tmp_path: Path
) -> None:
    database = tmp_path / "mlflow.db"
    if damage is _cut_short:
        shutil.copy(made_once.parent / "mlflow.db", database)
    damage(database)
    notes: list[str] = []
    config = Config(**{**TINY, "rounds": 1}, tracking="mlflow")
    result = run(config, out=tmp_path / "r", listener=Listener(note=notes.append))
    assert result.status == "finished"
    (note,) = notes
    assert f"{database} cannot be used" in note
    assert "move it away and resume" in note


def test_a_kill_while_the_database_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def half(tracking_uri: str) -> None:
        _half_made(Path(tracking_uri.removeprefix("sqlite:///")))
        raise Killed

    monkeypatch.setattr("mlflow.MlflowClient", half)
    with pytest.raises(Killed):
        tracking_stores._open_database(tmp_path / "mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()


def test_the_database_is_made_beside_its_place_and_nothing_is_left_there(made_once: Path) -> None:
    assert [path.name for path in made_once.parent.iterdir() if ".tmp" in path.name] == []


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    folder = run(Config(**{**TINY, "rounds": 2}), out=tmp_path / "r").run
    (folder / "tensorboard").write_text("in the way")
    notes: list[str] = []
    resume(folder, {"tracking": "tensorboard", "rounds": 4}, listener=Listener(note=notes.append))
    assert len(RunFolder.open(folder).metrics()) == 4
    assert len(notes) == 1


class Slow:
    """A store that hangs until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.written: list[Entry] = []

    def open(self) -> Tracked:
        self.go.wait(30)
        return Tracked(round=2)

    def write(self, entries: Sequence[Entry]) -> None:
        self.written += entries

    def close(self, status: str) -> None:
        self.written.append(Entry(0, {status: 1.0}))


def test_a_store_that_hangs_is_abandoned_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "LAST_WAIT", 0.05)
    store, notes = Slow(), []
    slow = Tracker(store, "slow", notes.append)
    for round_ in range(1, 500):
        slow.round({"round": round_, "loss": 1.0})
    slow.close("finished")
    assert notes == [
        "tracking with slow stopped (it did not finish within 0.05 s); the run continues without it"
    ]
    store.go.set()


def test_tracked_rows_are_not_written_again() -> None:
    store = Slow()
    slow = Tracker(store, "slow", pytest.fail)
    for round_ in range(1, 121):
        slow.round({"round": round_, "loss": 1.0 / round_, "accuracy": None, "skipped": False})
    store.go.set()
    slow.close("finished")
    assert [entry.step for entry in store.written[:-1]] == list(range(3, 121))
    assert store.written[0].values == {"loss": 1 / 3, "skipped": 0.0}
    assert store.written[-1].values == {"finished": 1.0}


def test_a_row_is_flat_numbers() -> None:
    steps = [{"step": 0, "loss": 2.0, "accuracy": None}, {"step": 5, "loss": 1.0, "accuracy": 0.5}]
    row = {"round": 7, "loss": 1.5, "skipped": True, "model": "ab", "evaluation": steps, "test": None}
    assert scalars(row) == {
        "loss": 1.5,
        "skipped": 1.0,
        "evaluation/loss/0": 2.0,
        "evaluation/loss/5": 1.0,
        "evaluation/accuracy/5": 0.5,
    }


def test_the_store_lies_beside_the_run_and_no_address_in_it(made_once: Path) -> None:
    assert list(json.loads((made_once / "mlflow.json").read_text())) == ["run_id"]
    assert (made_once.parent / "mlflow.db").is_file()
