"""Configs: what is read and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from torch.nn import Linear

import fedmeta
from fedmeta.config import merge, to_toml
from fedmeta.errors import ConfigError
from fedmeta.experiment import Config, experiment_names, load_config, parse_settings
from fedmeta.experiment.planning import resolve
from fedmeta.incentives import Game, IncentiveRule
from fedmeta.learning.algorithms import MAML

MINIMAL = """
task = "sinusoid"
algorithm = "maml"
model = "mlp"
rounds = 3
clients = 6
test_clients = 2
cohort = 4
"""


@pytest.fixture
def minimal(tmp_path: Path) -> str:
    path = tmp_path / "minimal.toml"
    path.write_text(MINIMAL)
    return str(path)


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_that_comes_with_fedmeta_resolves(name: str) -> None:
    config = resolve(load_config(name))
    assert config.description
    assert config.rounds >= 1


def test_the_resolved_config_reads_back_as_an_equal_one(minimal: str, tmp_path: Path) -> None:
    config = resolve(load_config(minimal, {"server.lr": 0.5, "data.shots": 7}))
    copy = tmp_path / "copy.toml"
    copy.write_text(to_toml(config))
    assert load_config(str(copy)) == config
    assert config.data["shots"] == 7
    assert config.server.lr == 0.5
    assert config.quorum == 2, "half of the cohort of 4"


def test_settings_are_toml_values_or_plain_text() -> None:
    pairs = ["rounds=5", "server.lr=1e-2", "compile=true", "task=digits", "x=[1, 2]", 'y="a=b"']
    assert parse_settings(pairs) == {
        "rounds": 5,
        "server.lr": 0.01,
        "compile": True,
        "task": "digits",
        "x": [1, 2],
        "y": "a=b",
    }


def test_merging_leaves_the_original_and_its_other_keys_alone() -> None:
    values = {"a": 1, "server": {"lr": 1, "clip_norm": 2}}
    assert merge(values, {"server.lr": 3}) == {"a": 1, "server": {"lr": 3, "clip_norm": 2}}
    assert values["server"] == {"lr": 1, "clip_norm": 2}


@pytest.mark.parametrize(
    ("pairs", "lost"),
    [
        (["gate.max_norm=2.0", "gate={}"], "gate.max_norm"),
        (["compare.arms.x.cohort=3", "compare={points=5}"], "compare.arms.x.cohort"),
        (["learner={a=1}", "learner.b=2", "learner={c=3}"], "learner.b"),
    ],
)
def test_a_table_that_would_undo_an_earlier_setting_is_refused(pairs: list[str], lost: str) -> None:
    with pytest.raises(ConfigError, match=f"'{lost}' that was set before it would be lost"):
        merge({"gate": {"quorum": 1}}, parse_settings(pairs))


@pytest.mark.parametrize(
    ("pairs", "merged"),
    [
        (["gate={a=1}", "gate.b=2"], {"gate": {"a": 1, "b": 2}}),
        (["gate.b=2", "gate={a=1}", "gate.b=3"], {"gate": {"a": 1, "b": 3}}),
        (["gates.b=2", "gate={a=1}"], {"gates": {"b": 2}, "gate": {"a": 1}}),
    ],
)
def test_a_key_set_after_its_table_is_one_of_it(pairs: list[str], merged: dict[str, object]) -> None:
    assert merge({"gate": {"old": 0}}, parse_settings(pairs)) == merged


@pytest.mark.parametrize(
    ("pair", "other"),
    [
        ("rounds=5\nseed=3", "seed"),
        ('task="digits"\n[server]\nlr=1', "server"),
        ("learner={inner_lr=1}\n\n# and\nclients=4", "clients"),
    ],
)
def test_a_value_followed_by_another_key_is_refused(pair: str, other: str) -> None:
    with pytest.raises(ConfigError, match=f"a further line that sets '{other}'"):
        parse_settings([pair])


@pytest.mark.parametrize(
    "pair",
    [
        "rounds=5,cohort=3",
        "server.lr=0.1; server.optimizer=SGD",
        "compile=true, seed = 3",
        "rounds=5 data.ways=3",
    ],
)
def test_a_second_key_in_a_value_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match=r"^.*: give each key its own -s$") as refused:
        parse_settings([pair])
    assert str(refused.value).startswith(pair)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("description=first, rounds=3 in all", "first, rounds=3 in all"),
        ("model=x:Net", "x:Net"),
        ("network={a=1, rounds=2}", {"a": 1, "rounds": 2}),
        ("description=5, other=3", "5, other=3"),
    ],
)
def test_a_value_may_hold_what_looks_like_a_key(pair: str, value: object) -> None:
    assert list(parse_settings([pair]).values()) == [value]


def test_values_of_several_lines_are_read_whole() -> None:
    pairs = ["x=[1,\n2]", 'y="""a\nb"""', "description=first\nsecond"]
    assert parse_settings(pairs) == {"x": [1, 2], "y": "a\nb", "description": "first\nsecond"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"round": 5}, "unknown key 'round': did you mean 'rounds'?"),
        ({"server.ls": 5}, "unknown key 'server.ls': did you mean 'server.lr'?"),
        ({"data.shot": 5}, "unknown key 'data.shot': did you mean 'data.shots'?"),
        ({"learner.iner_lr": 5}, "unknown key 'learner.iner_lr': did you mean 'learner.inner_lr'?"),
        ({"network.hiden": 5}, "unknown key 'network.hiden': did you mean 'network.hidden'?"),
        (
            {"algorithm": "protonet", "learner": {"inner_lr": 0.1}},
            "unknown key 'learner.inner_lr': algorithm 'protonet' has no options",
        ),
        ({"lr": 5}, "unknown key 'lr': did you mean 'server.lr'?"),
        ({"shots": 5}, "unknown key 'shots': did you mean 'data.shots'?"),
        ({"hidden": [5]}, "unknown key 'hidden': did you mean 'network.hidden'?"),
        ({"gpu": True}, "unknown key 'gpu': did you mean 'device'?"),
        ({"behaviours": "sign-flip"}, "behaviours: must be a list of tables, such as behaviours = [{"),
        ({"stake": 5}, "unknown key 'stake': did you mean 'chain.staking.stake'?"),
        ({"enabled": 5}, "unknown key 'enabled': did you mean 'chain.staking.enabled'?"),
        (
            {"beta1": 5},
            "unknown key 'beta1': an option of a part is set in its table ('data.beta1', "
            "'network.beta1', 'learner.beta1'); `fedmeta list keys` shows all keys",
        ),
        ({"server.zzz": 5}, "unknown key 'server.zzz': choose from: clip_norm, lr, optimizer"),
        ({"gate.zzz": 5}, "unknown key 'gate.zzz': choose from: "),
        ({"task": "sinusiod"}, "unknown task 'sinusiod': did you mean 'sinusoid'?"),
        ({"algorithm": "mamml"}, "unknown algorithm 'mamml': did you mean 'maml'?"),
        ({"model": "mlpp"}, "unknown model 'mlpp': did you mean 'mlp'?"),
        ({"clients": 0}, "clients: a federation needs at least one client"),
        (
            {"clients": 2},
            "clients = 2 leaves no training clients: 0 are held out for validation and 2 for test",
        ),
        ({"cohort": 5}, "cohort = 5 is larger than the population of 4 training clients"),
        ({"quorum": 5}, "quorum = 5 is larger than cohort = 4"),
        ({"rounds": True}, "rounds: must be an integer (got True)"),
        ({"rounds": "2"}, "rounds: must be an integer (got '2')"),
        ({"cohort": 4.0}, "cohort: must be an integer (got 4.0)"),
        ({"workers": True}, "workers: must be an integer or 'auto' (got True)"),
        ({"task": 3}, "task: must be text (got 3)"),
        ({"data": 3}, 'data: must be a table of keys, such as {a = 1, b = "text"} (got 3)'),
        ({"server": 3}, "server: must be a table of keys, such as 'server.optimizer' (got 3)"),
        (
            {"aggregation": "median"},
            "aggregation: must be a table of keys, such as 'aggregation.rule' (got 'median')",
        ),
        ({"chain": "anvil"}, "chain: must be a table of keys, such as 'chain.provider' (got 'anvil')"),
        ({"gate": 1.0}, "gate: must be a table of keys, such as 'gate.max_norm' (got 1.0)"),
        (
            {"evaluation.steps": 3},
            'evaluation.steps: must be a list, such as [1, 2] or ["a", "b"] (got 3)',
        ),
        ({"algorithm": "MAML"}, "unknown algorithm 'MAML': did you mean 'maml'?"),
        ({"task": "Digits"}, "unknown task 'Digits': did you mean 'digits'?"),
        ({"server.optimizer": "sgd"}, "server.optimizer: unknown torch.optim optimizer 'sgd': did you "),
        ({"chain.provider": "localhost:8545"}, "chain.provider: did you mean 'http://localhost:8545'?"),
        ({"chain.provider": "10.0.0.7:80"}, "chain.provider: did you mean 'http://10.0.0.7:80'?"),
        ({"server.optimizer": "Adma"}, "server.optimizer: unknown torch.optim optimizer 'Adma'"),
        ({"server.lr": -1}, "server.lr: must be greater than 0"),
        ({"learner.inner_lr": -1}, "learner.inner_lr: must be greater than 0"),
        ({"rounds": -1}, "rounds: must be at least 0"),
        ({"evaluation.steps": [3, 1]}, "evaluation.steps: must be increasing"),
        ({"rounds.lr": 1}, "unknown key 'rounds.lr': 'rounds' is a value, not a table"),
        ({"engine": "vectr"}, "engine: must be one of 'vector'"),
        ({"model": "no.such.module:Net"}, "model 'no.such.module:Net' cannot be imported"),
        (
            {"model": "torch.nn:Liner"},
            "model 'torch.nn:Liner': no 'Liner' there; did you mean 'Linear'",
        ),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(
    minimal: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(load_config(minimal, settings))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_experiment_gets_a_hint_of_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="unknown experiment 'quickstat': did you mean 'quickstart'"):
        load_config("quickstat")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quickstart.toml", "did you mean 'quickstart', which comes with fedmeta?"),
        ("simulations/sinusoid-maml", "did you mean 'sinusoid-maml', which comes with fedmeta?"),
        ("min.toml", "did you mean 'mine.toml'?"),
        ("studies/fist.toml", "did you mean 'studies/first.toml'?"),
        (
            "runs/one",
            "it is a run; `fedmeta resume runs/one` resumes it, runs/one/config.toml has its config",
        ),
    ],
)
def test_a_missing_experiment_file_gets_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("mine.toml", "studies/first.toml", "runs/one/config.toml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(MINIMAL)
    with pytest.raises(ConfigError) as refused:
        load_config(name)
    assert str(refused.value) == f"no experiment file at '{name}': {hint}"


def test_data_in_place_of_an_experiment_are_told_how_to_become_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    (tmp_path / "doses.csv").write_text("patient,score\n")
    init = "`fedmeta init {}` writes a config for your own data"
    with pytest.raises(ConfigError) as refused:
        load_config("my photos")
    assert str(refused.value).endswith(f"'my photos': it is a folder; {init.format(repr('my photos'))}")
    with pytest.raises(ConfigError) as refused:
        load_config("doses.csv")
    assert str(refused.value).endswith(f"'doses.csv': it is a file; {init.format('doses.csv')}")


def test_runs_and_comparisons_in_place_of_an_experiment_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("runs/one/run.json", "both/compare.json", "both/federated-seed0/run.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(ConfigError, match="'runs': it is a folder of runs; `fedmeta list runs "):
        load_config("runs")
    with pytest.raises(ConfigError, match="'both': it is a comparison; `fedmeta report both` shows it"):
        load_config("both")


@pytest.mark.parametrize("name", ["", "a" * 300])
def test_no_file_has_a_name_like_that(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown experiment '.*': "):
        load_config(name)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no experiment file at"):
        load_config(str(tmp_path / "none.toml"))
    (tmp_path / "studies").mkdir()
    with pytest.raises(ConfigError, match=r"no experiment file at .*: it is a folder; `fedmeta init "):
        load_config(str(tmp_path / "studies"))
    broken = tmp_path / "broken.toml"
    broken.write_text("rounds = ")
    with pytest.raises(ConfigError, match=r"broken\.toml: line 1: 'rounds' has no value$"):
        load_config(str(broken))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(MINIMAL.replace("rounds = 3", ""))
    with pytest.raises(ConfigError, match="missing key 'rounds'"):
        load_config(str(path))


def test_a_config_cannot_be_changed(minimal: str) -> None:
    config: Config = load_config(minimal)
    with pytest.raises(ValueError, match="frozen"):
        config.rounds = 4  # type: ignore[misc]


class Scores(IncentiveRule):
    """Measures on held-out tasks, as fedmeta's Shapley values do."""

    needs_held_out = True

    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        return [1.0] * len(game.players)


def test_a_part_may_be_given_as_its_class_from_python(minimal: str) -> None:
    assert load_config(minimal, {"model": Linear}).model == "torch.nn.modules.linear:Linear"
    rule = {"incentives.rule": Scores, "incentives.cap": 0.5}
    assert load_config(minimal, rule).incentives.rule == f"{__name__}:Scores"
    assert Config(**load_config(minimal).model_dump() | {"algorithm": MAML}).algorithm == ("maml")


def test_a_class_that_no_other_process_could_import_is_refused(minimal: str) -> None:
    class Local(MAML):
        pass

    with pytest.raises(ConfigError, match="define it at the top level of its own module") as refusal:
        load_config(minimal, {"algorithm": Local})
    assert "\n" not in str(refusal.value)


def test_a_users_own_rule_is_checked_before_the_run(minimal: str, tmp_path: Path) -> None:
    settings = {"incentives.rule": Scores, "validation_clients": 0}
    with pytest.raises(ConfigError, match="needs validation_clients of at least 1"):
        fedmeta.run(minimal, settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
