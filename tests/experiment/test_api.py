"""Runs from config to results: their files, repeatability, and resuming."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedmeta.config import to_toml
from fedmeta.errors import ConfigError, DivergedError, UsageError
from fedmeta.experiment import Config, Listener, RunFolder, resume, run
from fedmeta.experiment.planning import resolve, workload
from fedmeta.federation import Learner
from tests.experiment.helpers import TINY, contents, fedmeta, start


@pytest.fixture(scope="module")
def config() -> Config:
    return Config(**TINY)


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run; tests only read it."""
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(config, out=path)
    return path


def test_a_run_leaves_config_logs_checkpoints_and_its_result(finished: Path, config: Config) -> None:
    folder = RunFolder.open(finished)
    rows = folder.metrics()
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["tasks"] == 8 and row["admitted"] == 4 for row in rows)
    assert [row["evaluation"] is not None for row in rows] == [False, True] * 3
    clients = [json.loads(line) for line in (finished / "clients.jsonl").read_text().splitlines()]
    assert len(clients) == 24
    assert {row["client"] for row in clients} <= set(range(6)), "held-out clients never train"
    assert folder.info["status"] == "finished"
    assert folder.info["versions"]["torch"] == torch.__version__
    assert [step["step"] for step in folder.info["final"]] == [0, 1, 3]
    assert folder.config.rounds == config.rounds
    assert folder.checkpoints.rounds()[:2] == [6, 5]


@pytest.mark.parametrize("training", ["federated", "centralized", "local"])
def test_without_rounds_the_initial_weights_are_tested(
    training: str, config: Config, tmp_path: Path
) -> None:
    untrained = config.model_copy(update={"rounds": 0, "training": training})
    result = run(untrained, out=tmp_path / "untrained")
    learner = Learner.build(workload(resolve(untrained)))
    sums = [learner.evaluate(learner.init_state(), client) for client in (7, 8)]
    assert [step.loss for step in result.final] == [
        pytest.approx(sum(one.sums["loss"][i] for one in sums) / 8, rel=1e-6) for i in range(3)
    ]
    folder = RunFolder.open(tmp_path / "untrained")
    assert (result.tasks, folder.status, folder.metrics()) == (0, "finished", [])
    assert folder.checkpoints.rounds() == [0]


def test_a_run_without_rounds_extends_to_the_same_run(
    config: Config, finished: Path, tmp_path: Path
) -> None:
    run(config, {"rounds": 0}, out=tmp_path / "grown")
    resume(tmp_path / "grown", {"rounds": 6})
    assert contents(tmp_path / "grown") == contents(finished)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": -1}, "rounds"),
        (
            {"rounds": 0, "incentives.rule": "tasks"},
            "with rounds = 0 no client trains or replies: unset",
        ),
        ({"rounds": 0, "behaviours": [{"kind": "noise", "clients": [0]}]}, "unset behaviours"),
    ],
)
def test_keys_that_need_rounds_are_refused_without_any(
    settings: dict[str, Any], message: str, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        run(config, settings, out=tmp_path / "no")
    assert message in str(refused.value)
    assert not (tmp_path / "no").exists()


def test_a_network_without_weights_can_be_tested_and_not_trained(tmp_path: Path) -> None:
    prototypes = {
        **TINY,
        "task": "digits",
        "data": {"ways": 3},
        "algorithm": "protonet",
        "network": {"hidden": []},
    }
    with pytest.raises(ConfigError, match="'protonet' has nothing to learn with this network"):
        run(Config(**prototypes), out=tmp_path / "trained")
    result = run(Config(**prototypes | {"rounds": 0}), out=tmp_path / "tested")
    assert result.final[0].accuracy == result.final[-1].accuracy
    assert RunFolder.open(tmp_path / "tested").checkpoints.load(0)[0].state == {}


def test_the_best_checkpoint_has_the_best_validation_score(finished: Path) -> None:
    folder = RunFolder.open(finished)
    losses = {r["round"]: r["evaluation"][-1]["loss"] for r in folder.metrics() if r["evaluation"]}
    _, manifest = folder.checkpoints.load(6)
    assert manifest.best_round == min(losses, key=losses.__getitem__)
    assert manifest.best_round in folder.checkpoints.rounds()


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(
    config: Config, finished: Path, tmp_path: Path
) -> None:
    run(config, {"workers": 2}, out=tmp_path / "again")
    assert contents(tmp_path / "again") == contents(finished)


def test_another_seed_gives_another_run(config: Config, finished: Path, tmp_path: Path) -> None:
    run(config, {"seed": 1}, out=tmp_path / "other")
    assert contents(tmp_path / "other")["metrics.jsonl"] != contents(finished)["metrics.jsonl"]


def test_a_run_cut_short_and_extended_equals_the_undisturbed_one(
    config: Config, finished: Path, tmp_path: Path
) -> None:
    run(config, {"rounds": 3}, out=tmp_path / "cut")
    result = resume(tmp_path / "cut", {"rounds": 6})
    assert contents(tmp_path / "cut") == contents(finished)
    assert result.tasks == 48
    assert [step.loss for step in result.final] == [
        s["loss"] for s in RunFolder.open(finished).info["final"]
    ]


class _Stop(Exception):
    pass


def _run_until(round_: int, config: Config, out: Path) -> None:
    def stop(record: object) -> None:
        if record.round == round_:  # type: ignore[attr-defined]
            raise _Stop

    with pytest.raises(_Stop):
        run(config, out=out, listener=Listener(round=stop))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove tensors", "remove manifest"])
def test_a_damaged_checkpoint_is_named_and_the_run_ends_the_same(
    config: Config, finished: Path, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "damaged"
    _run_until(4, config, path)
    tensors, manifest = (path / "checkpoints" / f"round-000004.{s}" for s in ("safetensors", "json"))
    data = tensors.read_bytes()
    if damage == "truncate":
        tensors.write_bytes(data[:100])
    elif damage == "flip":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        (tensors if damage == "remove tensors" else manifest).unlink()
    notes: list[str] = []
    resume(path, listener=Listener(note=notes.append))
    assert "round-000004" in notes[0]
    assert "rounds 4 to 4 were logged but not checkpointed" in notes[1]
    assert contents(path) == contents(finished)


def test_without_any_good_checkpoint_the_run_begins_again(
    config: Config, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    _run_until(3, config, path)
    for file in (path / "checkpoints").iterdir():
        file.unlink()
    resume(path)
    assert contents(path) == contents(finished)


def test_logs_that_lost_lines_send_the_run_back_further(
    config: Config, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    _run_until(4, config, path)
    log = path / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    notes: list[str] = []
    resume(path, listener=Listener(note=notes.append))
    assert "metrics.jsonl has become shorter" in notes[0]
    assert contents(path) == contents(finished)


def test_ctrl_c_keeps_the_finished_rounds(config: Config, finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"

    def interrupt(record: object) -> None:
        if record.round == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    sparse = config.model_copy(update={"checkpoint_every": 100})
    with pytest.raises(KeyboardInterrupt):
        run(sparse, out=path, listener=Listener(round=interrupt))
    folder = RunFolder.open(path)
    assert folder.info["status"] == "interrupted"
    assert folder.checkpoints.rounds() == [3, 2], "2 was evaluated, 3 is where it was interrupted"
    resume(path)
    assert contents(path)["metrics.jsonl"] == contents(finished)["metrics.jsonl"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 3}, "'seed' cannot be changed on resume"),
        ({"server.lr": 3}, "'server.lr' cannot be changed on resume"),
        ({"rouns": 3}, "unknown key 'rouns': did you mean 'rounds'"),
        ({"rounds": 2}, r"a run can only grow \(from 6, got 2\)"),
    ],
)
def test_unsafe_changes_on_resume_are_refused_by_name(
    finished: Path, settings: dict[str, int], message: str
) -> None:
    before = contents(finished)
    with pytest.raises(ConfigError, match=message):
        resume(finished, settings)
    assert contents(finished) == before


def test_a_folder_in_use_refuses_a_second_process(config: Config, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(to_toml(config))
    path = tmp_path / "run"
    with start("run", "tiny.toml", "-s", "rounds=1000000", "--out", "run", cwd=tmp_path) as holder:
        while not path.exists() or RunFolder.open(path).status != "running":
            assert holder.poll() is None, holder.communicate()
            time.sleep(0.02)
        with pytest.raises(UsageError, match=f"in use by process {holder.pid}"):
            resume(path)
        holder.kill()


def test_a_run_whose_process_is_gone_was_killed(config: Config, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", config, {})
    assert folder.status == "unreadable", "it has not begun"
    folder.update_info({"status": "running"})
    assert folder.status == "killed"
    with folder.locked():
        assert folder.status == "running"


def test_an_existing_folder_is_not_written_to(config: Config, finished: Path) -> None:
    before = contents(finished)
    with pytest.raises(UsageError, match="is a run: choose another --out, or resume it"):
        run(config, out=finished)
    assert contents(finished) == before


def test_a_place_that_cannot_be_written_is_named(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write to .*file/run"):
        run(config, out=tmp_path / "file" / "run")


def test_a_missing_run_gets_a_hint_of_the_nearest(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=r"no run folder at .*undisturbd'.*did you mean '.+/undisturbed'"
    ):
        resume(finished.parent / "undisturbd")
    with pytest.raises(UsageError, match=rf"no run folder at .*: did you mean '{finished}'\?"):
        resume(finished / "config.toml")
    (tmp_path / "runs").symlink_to(finished.parent)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"'undisturbed': did you mean 'runs/undisturbed'\?"):
        resume("undisturbed")


def test_runs_to_choose_from_are_listed_with_their_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("first-001", "second-001"):
        RunFolder.create(tmp_path / "runs" / name, resolve(Config(**TINY)), {})
    monkeypatch.chdir(tmp_path)
    listed = "choose from: runs/first-001, runs/second-001"
    for path in ("zzz", "runs/zzz"):
        with pytest.raises(UsageError, match=f"no run folder at '{path}': {listed}$"):
            resume(path)


def test_default_folders_are_new_each_time(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = config.model_copy(update={"rounds": 1})
    assert [run(short).run.name for _ in range(2)] == ["run-001", "run-002"]


def test_a_state_that_diverges_stops_the_run_with_round_and_last_good_checkpoint(
    config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    wild = {"server.optimizer": "SGD", "server.lr": 1e30, "gate.max_norm": 1e30, "rounds": 50}
    with pytest.raises(DivergedError, match=r"round \d+ diverged: .*checkpoint"):
        run(config, wild, out=path)
    folder = RunFolder.open(path)
    assert folder.info["status"] == "failed"
    for round_ in folder.checkpoints.rounds():
        state = load_file(path / "checkpoints" / f"round-{round_:06d}.safetensors")
        assert all(torch.isfinite(value).all() for value in state.values())


def test_rounds_before_a_divergence_are_kept_even_between_checkpoints(
    config: Config, tmp_path: Path
) -> None:
    wild = {"server.optimizer": "SGD", "server.lr": 1e30, "gate.max_norm": 1e30, "checkpoint_every": 50}
    with pytest.raises(DivergedError, match=r"the last checkpoint is of round 1$"):
        run(config, {**wild, "evaluation.every": 0}, out=tmp_path / "run")


@pytest.mark.parametrize("damage", [None, b"", b"[1]", b"{"])
def test_a_lost_run_json_does_not_end_a_resume(
    config: Config, tmp_path: Path, damage: bytes | None
) -> None:
    path = tmp_path / "run"
    run(config, {"rounds": 2}, out=path)
    (path / "run.json").unlink() if damage is None else (path / "run.json").write_bytes(damage)
    assert RunFolder.open(path).status == "unreadable"
    result = resume(path)
    assert (result.status, result.experiment) == ("finished", "run")


def test_a_damaged_log_line_is_named(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(config, {"rounds": 3}, out=path)
    log = path / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b'{"round": 2', b'{"round" 2'))
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 2 is damaged"):
        resume(path, {"rounds": 4})


def test_a_lost_checkpoint_folder_and_stray_files_in_it_do_no_harm(
    config: Config, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    _run_until(3, config, path)
    shutil.rmtree(path / "checkpoints")
    resume(path, {"rounds": 6})
    assert contents(path)["metrics.jsonl"] == contents(finished)["metrics.jsonl"]
    (path / "checkpoints" / "round-x.json").write_text("mine")
    assert RunFolder.open(path).checkpoints.rounds()[0] == 6


def test_extending_a_run_with_a_schedule_explains_the_effect(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(config, {"rounds": 2, "server.schedule": "linear"}, out=path)
    notes: list[str] = []
    resume(path, {"rounds": 3}, listener=Listener(note=notes.append))
    assert "the linear schedule spans the whole run" in notes[0]
    assert RunFolder.open(path).metrics()[2]["lr"] == pytest.approx(1e-3 / 3)


def test_a_disk_that_fills_up_stops_the_run_and_loses_no_finished_round(
    config: Config, tmp_path: Path
) -> None:
    longer = config.model_copy(update={"rounds": 60})
    run(longer, out=tmp_path / "undisturbed")
    toml, path = tmp_path / "undisturbed" / "config.toml", tmp_path / "run"
    limit = (tmp_path / "undisturbed" / "clients.jsonl").stat().st_size // 2
    ended = fedmeta("run", str(toml), "--out", str(path), cwd=tmp_path, file_bytes=limit)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "cannot write to" in ended.stderr
    done = RunFolder.open(path).checkpoints.rounds()[0]
    assert f"the checkpoint of round {done} is safe" in ended.stderr
    assert 1 <= done < 60
    resume(path)
    assert contents(path) == contents(tmp_path / "undisturbed")
