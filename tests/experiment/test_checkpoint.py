"""Checkpoints: retention, damage, and what a crash or a full disk leaves."""

import json
import re
from pathlib import Path

import pytest
import torch

from fedmeta.experiment.checkpoint import CheckpointStore, DamagedCheckpointError, misfit
from fedmeta.federation import Snapshot


def snapshot(round_: int) -> Snapshot:
    return Snapshot(round_, {"w": torch.full((3, 2), float(round_))}, {"0.step": torch.tensor(7.0)})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path)


def test_a_checkpoint_reads_back_exactly(store: CheckpointStore) -> None:
    store.save(snapshot(3), {"metrics.jsonl": 99}, None)
    loaded, manifest = store.load(3)
    assert loaded.round == 3
    assert torch.equal(loaded.state["w"], torch.full((3, 2), 3.0))
    assert torch.equal(loaded.optimizer["0.step"], torch.tensor(7.0))
    assert manifest.log_bytes == {"metrics.jsonl": 99}


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        CheckpointStore(tmp_path / name).save(snapshot(1), {}, 0.5)
    files = [sorted((tmp_path / name).iterdir()) for name in ("a", "b")]
    assert [p.name for p in files[0]] == [p.name for p in files[1]]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_the_last_two_and_the_best_are_kept(store: CheckpointStore) -> None:
    for round_, score in [(1, 0.1), (2, 0.9), (3, 0.3), (4, None), (5, 0.5)]:
        store.save(snapshot(round_), {}, score)
    assert store.rounds() == [5, 4, 2]
    assert store.load(5)[1].best_round == 2
    assert store.load(5)[1].best_score == 0.9
    assert len(list(store.folder.iterdir())) == 6, "two files each and nothing left over"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, Path.unlink])
@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_damage_is_named_and_the_one_before_is_used(store: CheckpointStore, damage, suffix: str) -> None:
    for round_ in (1, 2):
        store.save(snapshot(round_), {}, None)
    target = store.folder / f"round-000002.{suffix}"
    damage(target)
    first, second = list(store.newest_first())
    assert isinstance(first, DamagedCheckpointError)
    assert target.name in str(first) or "round-000002" in str(first)
    assert not isinstance(second, DamagedCheckpointError)
    assert second[0].round == 1


def test_a_manifest_of_another_round_is_refused(store: CheckpointStore) -> None:
    store.save(snapshot(1), {}, None)
    (store.folder / "round-000001.json").rename(store.folder / "round-000002.json")
    (store.folder / "round-000001.safetensors").rename(store.folder / "round-000002.safetensors")
    with pytest.raises(DamagedCheckpointError, match="is the manifest of round 1"):
        store.load(2)


def test_later_checkpoints_are_dropped_when_a_run_goes_back(store: CheckpointStore) -> None:
    for round_ in (1, 2):
        store.save(snapshot(round_), {}, None)
    store.drop_after(1)
    assert store.rounds() == [1]


GOOD = {"w": torch.ones(3, 2), "steps": torch.tensor(4)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w": torch.ones(2, 3)}, r"'w' has shape \[2, 3\], not \[3, 2\]"),
        ({"w": torch.ones(3, 2, dtype=torch.float16)}, "'w' is of float16, not float32"),
        ({"w": torch.full((3, 2), torch.nan)}, "'w' holds numbers that are not finite"),
        ({"w": torch.tensor([[1.0, torch.inf]] * 3)}, "'w' holds numbers that are not finite"),
        ({"steps": torch.tensor(4.0)}, "'steps' is of float32, not int64"),
        ({"more": torch.ones(1)}, "'more' is not a part of the model"),
        ({"\x1b[2J": torch.ones(1)}, r"'\\x1b\[2J' is not a part of the model"),
    ],
)
def test_updates_unlike_the_model_are_described(change: dict[str, torch.Tensor], said: str) -> None:
    assert re.fullmatch(said, misfit(GOOD | change, GOOD) or "")


def test_updates_like_the_model_fit_and_a_missing_tensor_does_not() -> None:
    assert misfit({"w": torch.rand(3, 2), "steps": torch.tensor(9)}, GOOD) is None
    assert misfit({"w": torch.rand(3, 2)}, GOOD) == "'steps' is missing"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("round", "true"),
        ("round", "3.0"),
        ("log_bytes", '{"metrics.jsonl": -1}'),
        ("log_bytes", '{"metrics.jsonl": "9"}'),
        ("log_bytes", "[]"),
        ("best_round", "-1"),
        ("best_score", "NaN"),
        ("best_score", '"0.5"'),
        ("sha256", "null"),
    ],
)
def test_a_manifest_of_wrong_kinds_is_damaged(store: CheckpointStore, key: str, value: str) -> None:
    store.save(snapshot(3), {"metrics.jsonl": 9}, 0.5)
    path = store.folder / "round-000003.json"
    entries = json.loads(path.read_text()) | {key: "@"}
    path.write_text(json.dumps(entries).replace('"@"', value))
    with pytest.raises(DamagedCheckpointError, match="not a checkpoint manifest"):
        store.load(3)
