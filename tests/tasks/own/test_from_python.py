"""Frames, data sets and partitions become files that task families read."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedmeta
from fedmeta.errors import DataError, UsageError
from fedmeta.tasks import Population, build_family
from fedmeta.tasks.families.arrays import Arrays
from fedmeta.tasks.families.table import Table
from fedmeta.tasks.own.from_python import write_data

WHO = [name for name in ("anna", "bob", "zoe") for _ in range(12)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def frame() -> pd.DataFrame:
    drawn = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "who": WHO,
            "dose": drawn.normal(size=36),
            "arm, or group": pd.Categorical(["a", "b"] * 18),
            "weeks": pd.array(range(36), dtype="Int64"),
            "score": drawn.normal(size=36),
        }
    )


def built(settings: dict[str, Any], **more: Any) -> Any:
    options = {key.removeprefix("data."): one for key, one in settings.items() if key != "task"} | more
    return build_family(settings["task"], options, Population(2, 0, 1), 0)


def test_a_frame_becomes_a_table_with_the_same_numbers_to_the_last_bit() -> None:
    given = frame()
    settings = write_data(given, "own.csv", client="who", target="score")
    family = built(settings)
    assert isinstance(family, Table)
    assert settings["data.categories"] == ["arm, or group"]
    # dose, weeks, and one input for each of a and b
    assert family.spec.input_shape == (4,)
    scale = family.encoder.numbers["dose"]
    want = ((given["dose"].to_numpy() - scale.mean) / scale.deviation).astype(np.float32)
    assert family.pool[:, 0].numpy().tolist() == want.tolist()


def test_inputs_choose_columns_and_text_in_the_target_is_classification() -> None:
    given = frame().rename(columns={"arm, or group": "arm"})
    settings = write_data(given, "own.csv", client="who", target=["arm"], inputs=["weeks", "dose"])
    family = built(settings, shots=2, queries=2)
    assert (family.spec.objective, family.spec.input_shape) == ("classification", (2,))


def test_the_same_data_may_be_written_again_and_others_are_not_replaced(here: Path) -> None:
    given = frame()
    for path, inputs in (("own.csv", None), ("own", ["dose", "weeks"])):
        settings = write_data(given, path, client="who", target="score", inputs=inputs)
        digest = built(settings).digest(built(settings).options)
        assert write_data(given, path, client="who", target="score", inputs=inputs) == settings
        with pytest.raises(UsageError, match="exists and holds other data: remove it, or choose an"):
            write_data(given.iloc[:30], path, client="who", target="score", inputs=inputs)
        assert built(settings).digest(built(settings).options) == digest
    assert sorted(os.listdir(here)) == ["cache", "own", "own.csv"]


def test_columns_of_numbers_or_of_arrays_become_the_inputs_of_a_client() -> None:
    given = frame()
    family = built(write_data(given, "flat", client="who", target="score", inputs=["dose", "weeks"]))
    assert isinstance(family, Arrays)
    assert family.items.clients == ("anna", "bob", "zoe")
    assert family.pool[:, 1].tolist() == list(range(36))
    given["signal"] = [np.full((3, 2), place, np.float32) for place in range(36)]
    given["kind"] = [0, 1, 2] * 12
    settings = write_data(given, "signals", client="who", target="kind", inputs="signal")
    classified = built(settings, ways=3, queries=2)
    assert classified.spec.input_shape == (3, 2)
    assert classified.pool[7].tolist() == [[7, 7]] * 3


def test_a_run_on_a_frame_is_resumed_by_the_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_data(frame(), "own.csv", client="who", target="score")
    short = {"clients": 3, "test_clients": 1, "cohort": 2, "rounds": 2, "evaluation.tasks": 2}
    short |= {"learner.inner_lr": 0.01, "data.queries": 3, "workers": 2}
    fedmeta.run("quickstart", {**data, **short}, out="one")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert fedmeta.resume("../one", {"rounds": 3}).rounds == 3


def arrays_of(given: Any, **asked: Any) -> dict[str, Any]:
    return write_data(given, "own", **{"client": "who", "target": "score", "inputs": "dose", **asked})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"client": None}, "client: name the column with each row's client: who, dose, "),
        ({"client": "whom"}, "no column 'whom': did you mean 'who'"),
        ({"target": "scores"}, "no column 'scores': did you mean 'score'"),
        ({"inputs": "dosis"}, "no column 'dosis': did you mean 'dose'"),
        ({"inputs": None}, "arrays need one target, and the columns of their inputs"),
        ({"target": "arm, or group"}, "'arm, or group' holds .*, not numbers: number the classes first"),
        ({"inputs": "ragged"}, r"row 1 of 'ragged' is float64 \[2\], but inputs are .* of one shape"),
        ({"inputs": "uneven"}, "'uneven' holds lists that are not arrays"),
        ({"inputs": ["dose", "dose"]}, "column 'dose' is named twice"),
        ({"inputs": ["dose", "score"]}, "column 'score' is named twice"),
        ({"target": []}, "target: name a column to predict"),
        ({"client": "gaps"}, "row 2 of 'gaps' is empty: each row needs a client"),
        ({"client": "path"}, "client 'a/b' cannot be the name of a file: rename it"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(
    here: Path, asked: dict[str, Any], message: str
) -> None:
    given = frame().assign(
        path="a/b",
        ragged=[np.ones(1 + place % 2) for place in range(36)],
        uneven=[[[1.0], [1.0, 2.0]]] * 36,
        gaps=["a", "b", None] * 12,
    )
    with pytest.raises((UsageError, DataError), match=message) as refusal:
        arrays_of(given, **asked)
    assert "\n" not in str(refusal.value)
    assert os.listdir(here) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (frame().iloc[:0], "there are no rows to write"),
        (
            frame().assign(who=["a", None] * 18).convert_dtypes(),
            "row 1 of 'who' is empty: each row needs a client",
        ),
        (frame().assign(who=[["a"]] * 36), "row 0 of 'who' is not a single value"),
        (frame().assign(who=["a", None] * 18), "row 1 of 'who' is empty: each row needs a client"),
        (frame().assign(who="\ud800"), "a cell or a name holds text that is not valid Unicode"),
        (pd.concat([frame(), frame()], axis=1), "column 'who' is named twice"),
        ([{"who": "a", "score": 1.0}], "list is not data to write: give a pandas frame"),
    ],
)
def test_a_table_that_cannot_be_read_again_is_not_written(here: Path, given: Any, message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message) as refusal:
        write_data(given, "own.csv", client="who", target="score")
    assert "\n" not in str(refusal.value)
    assert os.listdir(here) == []


def test_other_objects_arrays_in_a_table_and_a_folder_that_is_missing_are_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="dict is not data to write: give a pandas frame, a datasets"):
        arrays_of({"who": WHO})
    given = frame().assign(signal=[[1.0, 2.0]] * 36)
    with pytest.raises(UsageError, match="'signal' holds arrays, which a table cannot"):
        write_data(given, "own.csv", client="who", target="score")
    with pytest.raises(UsageError, match=r"cannot write .*own\.csv: No such file"):
        write_data(frame(), "missing/own.csv", client="who", target="score")
    assert os.listdir(here) == []


def test_a_dataset_gives_its_classes_by_name_and_its_images_channels_first() -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `datasets`")
    from PIL import Image

    features = datasets.Features(
        {
            "who": datasets.Value("string"),
            "dose": datasets.Value("float32"),
            "picture": datasets.Image(),
            "sign": datasets.ClassLabel(names=["ka", "ga"]),
        }
    )
    pixels = np.arange(36 * 8 * 8 * 3, dtype=np.uint8).reshape(36, 8, 8, 3)
    rows = {
        "who": WHO,
        "dose": range(36),
        "picture": [Image.fromarray(one) for one in pixels],
        "sign": [0, 1] * 18,
    }
    given = datasets.Dataset.from_dict(rows, features)
    table = built(write_data(given, "own.csv", client="who", target="sign", inputs="dose"), shots=1)
    assert table.targets["sign"].classes == ("ga", "ka")
    images = built(
        write_data(given, "own", client="who", target="sign", inputs="picture"), ways=2, queries=2
    )
    np.testing.assert_array_equal(images.pool.numpy(), pixels.transpose(0, 3, 1, 2))
    with pytest.raises(UsageError, match="DatasetDict is not data to write"):
        arrays_of(datasets.DatasetDict(train=given))


class Partitions:
    """A partitioner whose partitions are pandas frames."""

    def __init__(self, *parts: pd.DataFrame) -> None:
        self.parts = parts
        self.num_partitions = len(parts)

    def load_partition(self, number: int) -> pd.DataFrame:
        return self.parts[number]


@pytest.mark.parametrize("path", ["own", "own.csv"])
def test_empty_partitions_are_left_out_and_the_others_keep_their_numbers(
    path: str, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = frame()[["dose", "score"]]
    given = Partitions(rows[:0], rows[:12], rows[12:24], rows[:0], rows[24:])
    family = built(write_data(given, path, target="score", inputs="dose"))
    names = family.names if path == "own.csv" else family.items.clients
    assert sorted(names) == ["1", "2", "4"]
    assert len(family.pool) == 36
    assert caplog.messages == ["partitions without rows are left out: 0, 3"]


@pytest.mark.parametrize("path", ["own", "own.csv"])
def test_a_partitioner_without_rows_is_refused_in_one_line(path: str, here: Path) -> None:
    rows = frame()[["dose", "score"]]
    with pytest.raises(DataError, match=r"^there are no rows to write: all 2 partitions are empty$"):
        write_data(Partitions(rows[:0], rows[:0]), path, target="score", inputs="dose")
    assert os.listdir(here) == []


def test_each_partition_of_a_partitioner_is_a_client() -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `datasets`")
    partitioners = pytest.importorskip("flwr_datasets.partitioner")
    partitioner = partitioners.NaturalIdPartitioner(partition_by="who")
    partitioner.dataset = datasets.Dataset.from_pandas(frame()[["who", "dose", "score"]])
    family = built(write_data(partitioner, "own", target="score", inputs="dose"))
    assert family.items.clients == ("0", "1", "2")
    assert family.pool[:, 0].tolist() == frame()["dose"].astype(np.float32).tolist()
    table = built(write_data(partitioner, "own.csv", target="score", inputs="dose"))
    assert sorted(table.names) == ["0", "1", "2"]
    assert table.pool.shape == (36, 1)
    with pytest.raises(UsageError, match="client = 'who', but each partition is a client: leave it"):
        write_data(partitioner, "again", client="who", target="score", inputs="dose")
