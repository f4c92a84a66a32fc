"""Which run folders a comparison reuses: equal configs and complete files; none is overwritten."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmeta.comparison.run_reuse import RunFinder, RunSlot, run_key
from fedmeta.experiment import Config, RunFolder, run
from fedmeta.experiment.planning import resolve
from tests.comparison.helpers import TINY

CONFIG = resolve(Config(**TINY))
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests work on copies."""
    path = tmp_path_factory.mktemp("made") / "run"
    run(CONFIG, out=path)
    return path


def find(folder: Path, config: Config = CONFIG) -> tuple[RunSlot, list[str]]:
    notes: list[str] = []
    return RunFinder(folder, notes.append).find("federated-seed0", config), notes


def changed(**values: object) -> Config:
    return CONFIG.model_copy(update=values)


def test_a_new_run_gets_its_plain_name(tmp_path: Path) -> None:
    assert find(tmp_path / "c") == (RunSlot(tmp_path / "c" / "federated-seed0", "free"), [])


@pytest.mark.parametrize("where", ["c/federated-seed0", "quickstart-001", "other/local-seed0"])
def test_a_finished_run_is_found_beside_and_in_other_comparisons(
    made: Path, tmp_path: Path, where: str
) -> None:
    shutil.copytree(made, tmp_path / "runs" / where)
    place = RunSlot(tmp_path / "runs" / where, "finished")
    assert find(tmp_path / "runs" / "c") == (place, [])


def test_keys_that_change_nothing_are_not_compared(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "c" / "federated-seed0")
    other = changed(workers="auto", checkpoint_every=1, timeout=3.0, description="x")
    assert find(tmp_path / "c", other)[0].state == "finished"
    assert run_key(other) == run_key(CONFIG) != run_key(changed(cohort=3))


def test_a_run_with_another_config_is_not_touched(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "c" / "federated-seed0")
    found = find(tmp_path / "c", changed(rounds=11))
    assert found == (RunSlot(tmp_path / "c" / "federated-seed0-2", "free"), [])


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_an_interrupted_run_is_resumed(made: Path, tmp_path: Path, status: str) -> None:
    """``running`` without a process that holds the folder means killed."""
    path = shutil.copytree(made, tmp_path / "c" / "federated-seed0")
    RunFolder(path).update_info({"status": status})
    assert find(tmp_path / "c") == (RunSlot(path, "begun"), [])


def test_an_interrupted_run_outside_the_comparison_is_not_used(made: Path, tmp_path: Path) -> None:
    path = shutil.copytree(made, tmp_path / "quickstart-001")
    RunFolder(path).update_info({"status": "interrupted"})
    assert find(tmp_path / "c")[0].state == "free"


def cut(name: str) -> Damage:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-200])


def spoil(name: str) -> Damage:
    return lambda run: (run / name).write_bytes(b"{\n" + (run / name).read_bytes())


def with_loss(text: str) -> Damage:
    def damage(run: Path) -> None:
        counts = '"tasks": 1, "cohort": 1, "admitted": 1, "bytes_down": 1, "skipped": false'
        row = '{"round": %d, ' + counts + ', "test": [{"step": 0, "loss": ' + text + "}]}\n"
        (run / "metrics.jsonl").write_text("".join(row % place for place in range(1, CONFIG.rounds + 1)))

    return damage


@pytest.mark.parametrize(
    ("damage", "status", "why"),
    [
        (spoil("metrics.jsonl"), "finished", "metrics.jsonl: line 1 is damaged"),
        (cut("metrics.jsonl"), "finished", "metrics.jsonl does not have every round"),
        (lambda run: (run / "metrics.jsonl").unlink(), "finished", "No such file"),
        (
            lambda run: RunFolder(run).update_info({"final": []}),
            "finished",
            "does not have every result",
        ),
        (lambda run: RunFolder(run).update_info({"final": None}), "finished", "lacks fields"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\n"), "finished", "line 1 is damaged"),
        (with_loss("null"), "finished", "lacks fields"),
        (with_loss('"low"'), "finished", "a loss that is not a number"),
        (with_loss("1" * 400), "finished", "metrics.jsonl: line 1 is damaged"),
        (spoil("config.toml"), "finished", "config.toml"),
        (spoil("run.json"), "finished", "run.json is damaged"),
        (spoil("clients.jsonl"), "failed", "clients.jsonl: line 1 is damaged"),
    ],
)
def test_a_damaged_run_is_named_and_made_again_beside_it(
    made: Path, tmp_path: Path, damage: Damage, status: str, why: str
) -> None:
    path = shutil.copytree(made, tmp_path / "c" / "federated-seed0")
    RunFolder(path).update_info({"status": status})
    damage(path)
    place, notes = find(tmp_path / "c")
    assert place == RunSlot(tmp_path / "c" / "federated-seed0-2", "free")
    assert len(notes) == 1
    assert str(path) in notes[0]
    assert why in notes[0]
    assert "running it again in a new folder" in notes[0]


def test_a_damaged_run_elsewhere_is_named_and_not_used(made: Path, tmp_path: Path) -> None:
    path = shutil.copytree(made, tmp_path / "quickstart-001")
    cut("metrics.jsonl")(path)
    place, notes = find(tmp_path / "c")
    assert place.state == "free"
    assert notes == [f"{path}: metrics.jsonl does not have every round: not used"]


def test_an_interrupted_run_from_elsewhere_is_made_again_if_its_config_names_code_or_hosts(
    tmp_path: Path,
) -> None:
    for place, update in enumerate(({}, {"mods": ("os:getpid",)}, {"model": "os.path:join"})):
        config = changed(**update)
        name = f"federated-seed{place}"
        folder = tmp_path / "c" / name
        RunFolder.create(folder, config, {"status": "killed"})
        notes: list[str] = []
        finder = RunFinder(tmp_path / "c", notes.append)
        assert finder.find(name, config).state == "begun"
        (folder / "config.seal").unlink()
        finder = RunFinder(tmp_path / "c", notes.append)
        if not update:
            assert finder.find(name, config).state == "begun"
            continue
        assert finder.find(name, config) == RunSlot(tmp_path / "c" / f"{name}-2", "free")
        (note,) = notes
        assert "it was not made here or was changed since: running it again in a new folder" in note


@pytest.mark.parametrize("where", ["c/federated-seed0", "quickstart-001"])
@pytest.mark.parametrize("link", ["clients.jsonl", "checkpoints"])
def test_a_run_with_a_link_out_of_it_is_not_used(
    made: Path, tmp_path: Path, where: str, link: str
) -> None:
    path = tmp_path / "runs" / where
    shutil.copytree(made, path)
    (path / link).rename(tmp_path / "moved")
    (path / link).symlink_to(tmp_path / "moved")
    place, (note,) = find(tmp_path / "runs" / "c")
    assert place.state == "free"
    assert f"{link} is a link that leads out of the folder" in note
