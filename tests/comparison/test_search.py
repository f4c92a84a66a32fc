"""Settings of arms are chosen on validation clients, by a search that a comparison resumes."""

import math
from pathlib import Path
from typing import Any

import pytest

from fedmeta.cli.comparison_display import chosen_settings
from fedmeta.comparison.arms import choose
from fedmeta.comparison.compare import CompareListener, Comparison, Execution, compare
from fedmeta.comparison.results import validation_value
from fedmeta.comparison.search import plan_search
from fedmeta.errors import ConfigError
from fedmeta.experiment import Config, RunFolder, planning, run
from fedmeta.report.read import read_compare
from tests.comparison.helpers import TINY

GRID = {"learner": {"inner_lr": [1e-6, 0.02]}, "server.lr": [1e-7, 0.01]}
ARMS = ("federated", "fedavg", "untrained")


def config(**compare_options: Any) -> Config:
    return Config(**TINY | {"validation_clients": 2, "compare": {"points": 2, **compare_options}})


def arm(result: Comparison, name: str) -> dict[str, Any]:
    return next(one for one in result.data["arms"] if one["name"] == name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, list[list[str]]]:
    """A finished comparison with a search, and the runs of its two phases."""
    phases: list[list[str]] = []
    listener = CompareListener(began=lambda _, jobs: phases.append([job.name for job in jobs]))
    out = tmp_path_factory.mktemp("runs") / "compare-tiny"
    result = compare(config(search=GRID), arms=ARMS, seeds=2, execution=Execution(out, 2, listener))
    return result, phases


def test_an_arm_searches_the_keys_that_it_has_and_does_not_set_itself(
    made: tuple[Comparison, list[list[str]]],
) -> None:
    result, phases = made
    keys = {name: [sorted(one["settings"]) for one in arm(result, name)["search"]] for name in ARMS}
    assert keys == {
        "federated": [["learner.inner_lr", "server.lr"]] * 4,
        "fedavg": [["learner.inner_lr"]] * 2,  # its server's step is that of its clients
        "untrained": [],  # without rounds there is nothing to search on validation clients
    }
    assert [len(names) for names in phases] == [6, 6]


def test_the_combination_that_is_best_on_validation_clients_is_used_for_every_seed(
    made: tuple[Comparison, list[list[str]]],
) -> None:
    result, _ = made
    for name in ("federated", "fedavg"):
        trials = arm(result, name)["search"]
        [chosen] = [one for one in trials if one["chosen"]]
        assert chosen["value"] == min(one["value"] for one in trials)
        assert len({one["value"] for one in trials}) == len(trials)
        for record in arm(result, name)["runs"]:
            used = RunFolder.open(result.folder / record["run"]).config
            assert used.learner["inner_lr"] == chosen["settings"]["learner.inner_lr"]
            assert chosen["settings"].get("server.lr", used.server.lr) == used.server.lr


def test_a_value_is_that_of_the_validation_clients_at_the_end_of_the_trial(
    made: tuple[Comparison, list[list[str]]], tmp_path: Path
) -> None:
    result, _ = made
    folder = RunFolder.open(result.folder / "search-federated-2")
    assert folder.config.evaluation.every == folder.config.rounds
    # The same training again, evaluated on the validation clients after every round.
    every = folder.config.evaluation.model_copy(update={"every": 1})
    run(folder.config.model_copy(update={"evaluation": every}), out=tmp_path / "again")
    last = RunFolder.open(tmp_path / "again").metrics()[-1]["evaluation"][-1]["loss"]
    assert arm(result, "federated")["search"][1]["value"] == last


def test_the_command_line_says_what_was_chosen(made: tuple[Comparison, list[list[str]]]) -> None:
    result, _ = made
    first, second = chosen_settings(result.data)
    assert first.startswith("federated: learner.inner_lr = ")
    assert first.endswith("the best of 4")
    assert second.startswith("fedavg: learner.inner_lr = ")
    assert second.endswith("the best of 2")


def test_the_same_command_finds_every_trial_finished(made: tuple[Comparison, list[list[str]]]) -> None:
    result, _ = made
    changed: list[str] = []
    listener = CompareListener(changed=lambda job: changed.append(job.name))
    again = compare(
        config(search=GRID), arms=ARMS, seeds=2, execution=Execution(result.folder, 2, listener)
    )
    assert changed == []
    assert [one["settings"] for one in again.data["arms"]] == [
        one["settings"] for one in result.data["arms"]
    ]
    files = read_compare(result.folder)
    assert files.record is not None
    assert len(files.record.arms[0].search) == 4


def test_a_trial_that_fails_is_not_chosen(tmp_path: Path) -> None:
    # With the server's step at 1e30 every update of the second round is non-finite.
    wild = {"server.lr": [1e30, 0.01], "server.optimizer": ["SGD"]}
    result = compare(
        config(search=wild),
        arms=["federated"],
        seeds=1,
        execution=Execution(tmp_path / "compare-tiny", 1),
    )
    bad, good = arm(result, "federated")["search"]
    assert (bad["value"], bad["chosen"], good["chosen"]) == (None, False, True)
    assert "diverged" in bad["error"]
    assert result.status == "finished"


def test_a_single_value_is_used_by_every_arm_that_has_the_key(tmp_path: Path) -> None:
    wanted = config(search={"server.lr": [1e-7, 0.01], "learner.inner_lr": [0.03]}, arms={"own": {}})
    own = wanted.model_copy(
        update={"compare": wanted.compare.model_copy(update={"arms": {"own": {"server.lr": 0.02}}})}
    )
    result = compare(own, arms=["federated", "own"], seeds=1, execution=Execution(tmp_path / "c", 2))
    assert [len(arm(result, name)["search"]) for name in ("federated", "own")] == [2, 1]
    for name in ("federated", "own"):
        [record] = arm(result, name)["runs"]
        assert RunFolder.open(result.folder / record["run"]).config.learner["inner_lr"] == 0.03


def test_an_arm_whose_search_fails_keeps_its_own_settings_and_says_so(tmp_path: Path) -> None:
    notes: list[str] = []
    wild = config(search={"server.lr": [1e30]}).model_copy(update={"validation_clients": 2})
    server = wild.server.model_copy(update={"optimizer": "SGD"})
    execution = Execution(tmp_path / "c", 1, CompareListener(note=notes.append))
    result = compare(
        wild.model_copy(update={"server": server}), arms=["federated"], seeds=1, execution=execution
    )
    assert result.status == "finished"
    assert "arm 'federated': every run of its search failed, so it keeps its own settings" in notes


def test_a_share_of_the_rounds_is_enough_for_a_trial() -> None:
    wanted = config(search=GRID, search_share=0.5)
    arms, _ = choose(planning.resolve(wanted), ["federated"])
    assert {one.config.rounds for one in plan_search(wanted, arms)} == {wanted.rounds // 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"search": {"server.lrr": [1.0]}},
            "compare.search: unknown key 'server.lrr': did you mean 'server.lr'?",
        ),
        ({"search": {"server.lr": 0.1}}, "compare.search.server.lr: must be a list of values to try"),
        ({"search": {"server.lr": [0.1, -1.0]}}, "arm 'federated': server.lr: must be greater than 0"),
        (
            {"search": {"learner.inner_lrr": [0.1, 0.2]}},
            "compare.search: no arm has 'learner.inner_lrr' to search, or each sets it itself",
        ),
        ({"search": {"seed": [1, 2]}}, "arm 'federated': seed: all arms have the same seeds"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(options: Any, said: str, tmp_path: Path) -> None:
    out = tmp_path / "compare-tiny"
    with pytest.raises(ConfigError) as refused:
        compare(config(**options), arms=["federated"], seeds=1, execution=Execution(out, 1))
    assert str(refused.value).startswith(said)
    assert not out.exists()


def test_a_search_needs_validation_clients(tmp_path: Path) -> None:
    wanted = config(search=GRID).model_copy(update={"validation_clients": 0})
    with pytest.raises(ConfigError, match=r"compare\.search needs validation_clients of at least 1"):
        compare(wanted, arms=["federated"], seeds=1, execution=Execution(tmp_path / "compare-tiny", 1))


def test_a_run_that_no_validation_client_answered_has_the_worst_value(tmp_path: Path) -> None:
    unasked = {"rounds": 1, "evaluation": {**TINY["evaluation"], "every": 0}}
    path = run(Config(**TINY | unasked), out=tmp_path / "run").run
    assert validation_value(path, "accuracy", 0.0, 1) == 0.0
    assert validation_value(path, "loss", None, 1) == math.inf
