"""A run's results on streams: written at its end, the same each time, and changing nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from fedmeta.cli.main import main
from fedmeta.config import Config
from fedmeta.config.identity import run_id
from fedmeta.errors import ConfigError, DataError
from fedmeta.experiment import ledger, planning, run, streams
from fedmeta.experiment.evaluate import evaluate
from fedmeta.experiment.learned.model import Learned
from fedmeta.experiment.streams import STREAMS, Streams
from fedmeta.tasks import TaskBatch
from fedmeta.tasks.families.sinusoid import Sinusoid
from tests.experiment.helpers import TINY, contents

DIGITS: dict[str, Any] = TINY | {
    "task": "digits",
    "rounds": 1,
    "data": {"ways": 3, "shots": 2, "queries": 2},
    "kernels": "eager",
}
ON: dict[str, Any] = {"segments": 3, "batch": 2, "streams": 3}


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def config(stream: dict[str, Any] | None = None, **settings: Any) -> Config:
    evaluation = {"tasks": 2, "steps": [0, 2], "stream": ON if stream is None else ON | stream}
    return Config(**DIGITS | {"evaluation": evaluation} | settings)


def streamed(folder: Path, stream: dict[str, Any] | None = None, **settings: Any) -> Streams:
    found = streams.read(run(config(stream, **settings), out=folder).run)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["maml", "anil", "protonet", "fedavg"])
def test_each_kind_of_learner_is_tested(name: str, tmp_path: Path) -> None:
    found = streamed(tmp_path / "run", algorithm=name)
    assert (found.algorithm, found.measure, found.higher_is_better) == (name, "accuracy", True)
    assert (found.clients, found.streams, found.diverged) == (2, 6, 0)
    assert (found.sizes, found.batches) == ([2, 2, 2] * 3, 3)
    assert len(found.prequential) == 3
    assert all(0 <= value <= 1 for row in found.matrix for value in row if value is not None)
    last = [value for value in found.matrix[-1] if value is not None]
    assert found.final.mean == pytest.approx(sum(last) / 3, rel=1e-4)
    assert found.regret.mean[-1] is not None


def test_a_mean_over_clients_has_student_s_interval(tmp_path: Path) -> None:
    """With two clients t is 12.706 and half the interval is 12.706 |a - b| / 2, about the mean."""
    found = streamed(tmp_path / "run")
    both = config()
    learner = planning.check(planning.resolve(both))
    from fedmeta.experiment.checkpoint import CheckpointStore
    from fedmeta.experiment.streaming import measure_streams

    newest = next(iter(CheckpointStore(tmp_path / "run" / "checkpoints").newest_first()))
    state = newest[0].state  # type: ignore[index]
    a, b = (measure_streams(both, learner, {client: state}).final.mean for client in (7, 8))
    assert a is not None
    assert b is not None
    assert found.final.mean == pytest.approx((a + b) / 2, rel=1e-4)
    assert found.final.ci95 == pytest.approx(12.7062 * abs(a - b) / 2, rel=1e-3)


def test_streams_are_the_same_bytes_and_change_nothing_else(tmp_path: Path) -> None:
    for name, stream in (("one", {}), ("other", {}), ("none", {"segments": 0})):
        run(config(stream), out=tmp_path / name)
    one, other, none = (tmp_path / name for name in ("one", "other", "none"))
    assert (one / STREAMS).read_bytes() == (other / STREAMS).read_bytes()
    assert not (none / STREAMS).exists()
    assert contents(one) == contents(none)
    for name in ("test.jsonl", "examples.safetensors", "explanations.json"):
        assert (one / name).read_bytes() == (none / name).read_bytes()


def test_without_streams_a_config_keeps_its_ids() -> None:
    plain = Config(**DIGITS | {"evaluation": {"tasks": 2, "steps": [0, 2]}})
    off, on = config({"segments": 0, "batch": 1, "streams": 20}), config()
    assert run_id(plain) == run_id(off) != run_id(on)
    assert ledger.former_run_id(plain) == ledger.former_run_id(off) != ledger.former_run_id(on)


def test_a_trained_model_is_evaluated_on_streams_as_its_run_was(tmp_path: Path) -> None:
    found = streamed(tmp_path / "run")
    learned = Learned.open(run(config({"segments": 0}), out=tmp_path / "plain").run)
    before = contents(tmp_path / "plain")
    settings = {f"evaluation.stream.{key}": value for key, value in ON.items()}
    result = evaluate(learned, settings)
    assert result.streams == found
    assert result.to_json()["streams"]["final"] == found.final.model_dump()
    assert contents(tmp_path / "plain") == before
    assert not (tmp_path / "plain" / STREAMS).exists()
    assert "streams" not in evaluate(learned).to_json()


def test_evaluate_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config({"segments": 0}), out=tmp_path / "plain")
    capsys.readouterr()
    asked = "evaluation.stream={segments=2,streams=2}"
    assert call("evaluate", str(tmp_path / "plain"), "-s", asked) == 0
    said = capsys.readouterr().out
    assert "4 streams of 2 segments" in said
    assert "backward transfer" in said


def test_clients_with_models_of_their_own_are_tested_with_them(tmp_path: Path) -> None:
    found = streamed(tmp_path / "run", training="local")
    assert found.streams == 6


def test_a_slow_drift_and_padded_tasks(tmp_path: Path) -> None:
    data = {"shots": 5, "queries": 5, "test_shots": 7}
    found = streamed(tmp_path / "run", {"drift": "slow", "batch": 3}, task="sinusoid", data=data)
    assert found.sizes == [3, 3, 1] * 3
    assert (found.measure, found.higher_is_better) == ("loss", False)


def test_batch_norm_takes_its_statistics_from_what_arrives(tmp_path: Path) -> None:
    more = {"model": "conv4", "network": {"width": 4}, "data": DIGITS["data"] | {"layout": "image"}}
    assert streamed(tmp_path / "run", {"batch": 3}, transductive=False, **more).diverged == 0
    with pytest.raises(ConfigError, match=r"stream\.batch = 1: batch norm .* such as 2, or a model"):
        run(config({"batch": 1}, **more), out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


SETTINGS: dict[str, list[str]] = {
    "algorithm 'mann' cannot learn from a stream": ["quickstart", "algorithm=mann"],
    "task 'navigation' has no labelled examples": ["navigation"],
    "must be 0, for no streams, or 2 to 50": ["quickstart", "evaluation.stream.segments=1"],
    "evaluation.stream.segments: must be at most 50": [
        "quickstart",
        "evaluation.stream.segments=99999",
    ],
    "evaluation.stream.batch: must be at least 1": ["quickstart", "evaluation.stream.batch=0"],
    "evaluation.stream.streams: must be at most 1000": ["quickstart", "evaluation.stream.streams=1001"],
    "evaluation.stream.drift: must be": ["quickstart", "evaluation.stream.drift=jump"],
    "did you mean 'evaluation.stream.batch'": ["quickstart", "evaluation.stream.bach=2"],
    "4 segments of 5,000 examples are 20,000 batches of 1, but 2,000": [
        "sinusoid-maml",
        "data.test_shots=5000",
    ],
    "only tasks of 'sinusoid' can move slowly": ["quickstart", "evaluation.stream.drift=slow"],
    "evaluation.stream needs test_clients of at least 1": ["quickstart", "test_clients=0"],
    "head is fitted to whole support sets": [
        "quickstart",
        'evaluation.head="sklearn.svm.SVC()"',
        "evaluation.steps=[0]",
    ],
}


@pytest.mark.parametrize("message", SETTINGS)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment, *settings = SETTINGS[message]
    given = ["evaluation.stream.segments=4", *settings]
    assert call("run", experiment, *(part for one in given for part in ("-s", one))) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert list(tmp_path.iterdir()) == []


class Uneven(Sinusoid):
    """Sinusoids of which each client has tasks of another size."""

    @override
    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        batch = super().sample(client, count, rng)
        return TaskBatch(
            {key: value[:, client % 2 :] for key, value in batch.support.items()}, batch.query
        )


def test_clients_with_tasks_of_other_sizes_are_refused_at_the_start(tmp_path: Path) -> None:
    uneven = config(task=f"{__name__}:Uneven", data={"shots": 5, "queries": 5})
    with pytest.raises(ConfigError, match="test clients' tasks have 4 to 5 support examples, but the"):
        run(uneven, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


GOOD: dict[str, Any] = {
    "kind": "streams",
    "version": 1,
    "algorithm": "maml",
    "measure": "accuracy",
    "higher_is_better": True,
    "drift": "tasks",
    "sizes": [2, 1, 2, 1],
    "batches": 2,
    "clients": 1,
    "streams": 2,
    "diverged": 0,
    **{
        name: {"mean": [1.0, 2.0, None, 4.0], "ci95": [None] * 4}
        for name in ("loss", "cumulative", "still", "regret")
    },
    "prequential": [{"mean": 0.5, "ci95": None}] * 2,
    "matrix": [[0.1, 0.2], [0.3, 0.4], [0.5, None]],
    **{name: {"mean": 0.5, "ci95": None} for name in ("final", "backward", "forward", "forgetting")},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"streams\.json is of version 2, written by"),
        ({"matrix": [[0.1, 0.2]]}, "streams.json is damaged, or of another version"),
        ({"batches": 3}, "damaged"),
        ({"sizes": [2, 1, 2, 0]}, "damaged.*sizes"),
        ({"loss": {"mean": [1.0], "ci95": [None]}}, "damaged"),
        ({"final": {"mean": "0.5", "ci95": None}}, "damaged.*final"),
        ({"prequential": []}, "damaged.*prequential"),
    ],
)
def test_a_damaged_file_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / STREAMS).write_text(json.dumps(GOOD))
    assert streams.read(tmp_path) is not None
    (tmp_path / STREAMS).write_text(json.dumps(GOOD | change))
    with pytest.raises(DataError, match=message):
        streams.read(tmp_path)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert streams.read(tmp_path) is None
    record = Streams.model_validate(GOOD)
    streams.write(tmp_path, record)
    assert streams.read(tmp_path) == record


def test_losses_of_a_summary_are_per_example() -> None:
    """The last sums of the four batches, 2 + 1 + 2 + 1 examples, are 4."""
    summary = Streams.model_validate(GOOD).summary
    assert summary["prequential loss"].mean == pytest.approx(4 / 6)
    assert summary["regret"].mean == pytest.approx(4 / 6)
    assert summary["accuracy at the end"].mean == 0.5


def test_reading_a_file_needs_no_torch() -> None:
    code = "import sys, fedmeta.experiment.streams; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
