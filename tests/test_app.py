"""The run config of the Flower app: the same config in every process, and keys that do not go stale."""

import time
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from fedmeta.app import EXPERIMENT, OUT, SET, client_app, config_of, settings_of
from fedmeta.errors import ConfigError
from fedmeta.experiment import Config, RunFolder, load_config, run
from fedmeta.experiment.config import to_toml
from fedmeta.experiment.plan import resolve
from fedmeta.federation.client import CONFIG, PARTITION
from fedmeta.federation.deployment.local import Layout, free_port, run_local
from fedmeta.federation.deployment.submission import CONNECTION, flwr
from fedmeta.federation.flower import as_server, stamp
from fedmeta.options import Options

from .experiment.deployed import wait_until
from .experiment.helpers import TINY

TABLES = ("server", "gate", "aggregation", "evaluation")
OTHERWISE = {"description", "engine", "training", "tracking", "workers"}
"""What a Flower app has no use for: where it runs is decided by who starts it."""


def listed() -> dict[str, Any]:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    flat: dict[str, Any] = {}
    for key, value in project["tool"]["flwr"]["app"]["config"].items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def is_plain(kind: Any) -> bool:
    return all(
        one in (int, float, str, bool, type(None)) or isinstance(one, str)
        for one in typing.get_args(kind) or (kind,)
    )


def plain_keys(model: type[Options], prefix: str = "") -> set[str]:
    return {
        f"{prefix}{name}" for name, field in model.model_fields.items() if is_plain(field.annotation)
    }


def test_every_plain_key_of_a_config_can_be_set_by_flwr_run() -> None:
    expected = plain_keys(Config) - OTHERWISE | {EXPERIMENT, OUT, SET}
    for table in TABLES:
        kind = Config.model_fields[table].annotation
        assert kind is not None
        expected |= plain_keys(kind, f"{table}.")
    assert set(listed()) == expected


def test_what_is_listed_changes_nothing_of_its_experiment() -> None:
    assert settings_of(listed()) == {"engine": "deployment"}
    assert config_of(listed()) == resolve(load_config("quickstart", {"engine": "deployment"}))


def test_settings_and_any_other_key_by_set() -> None:
    given = listed() | {"rounds": 7, "server.lr": 0.5, SET: "data.shots=2, evaluation.steps=[0, 7]"}
    config = config_of(given)
    assert (config.rounds, config.server.lr) == (7, 0.5)
    assert (config.data["shots"], config.evaluation.steps) == (2, (0, 7))


def test_a_resolved_config_comes_back_as_it_was() -> None:
    config = resolve(Config(**TINY))
    assert config_of(listed() | {"config": to_toml(config)}) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({SET: "server.rate=1"}, r"unknown key 'server\.rate': choose from: clip_norm"),
        ({SET: "data.shots='2"}, r"set = .* is not TOML \(.*\): write 'data\.shots=5, "),
        ({EXPERIMENT: "mine.toml"}, r"no experiment 'mine\.toml' in simulations/"),
        ({"fedmeta": "0.0.1"}, r"this node has fedmeta .*, and the server 0\.0\.1"),
    ],
)
def test_a_mistake_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(listed() | given)


def ask(node_config: dict[str, Any], run_config: dict[str, Any]) -> Message:
    with as_server():
        message = Message(RecordDict(), 5, MessageType.QUERY)
        stamp(message, "1")
        return client_app(message, Context(1, 5, node_config, RecordDict(), run_config))


def test_a_client_says_which_partition_it_holds() -> None:
    config = to_toml(resolve(Config(**TINY)))
    held = ask({PARTITION: 3}, {"config": config}).content[CONFIG]
    assert isinstance(held, ConfigRecord)
    assert held[PARTITION] == 3


def test_a_client_without_its_data_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMETA_DATA", "elsewhere")
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
    omniglot = resolve(load_config("omniglot-5way-1shot-maml"))
    reply = ask({PARTITION: 0, "data": str(tmp_path)}, {"config": to_toml(omniglot)})
    assert reply.has_error()
    assert reply.error.reason is not None
    assert reply.error.reason.startswith("MissingDataError: ")
    assert "\n" not in reply.error.reason


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flwr_run_in_the_repository_is_a_run_like_any_other(tmp_path: Path) -> None:
    root, out = Path(__file__).parents[1], tmp_path / "run"
    settings = {"rounds": 2, "clients": 2, "test_clients": 1, "cohort": 1, "evaluation.tasks": 5}
    run("quickstart", settings, out=tmp_path / "vector")
    given = " ".join(f"{key}={value}" for key, value in settings.items()) + f' out="{out}"'
    with run_local(Layout(tmp_path / "federation", 2, free_port())) as federation:
        started = flwr(federation.home, "run", str(root), CONNECTION, "--run-config", given)
        asked = ("list", "--run-id", started["run-id"], CONNECTION)

        def ended() -> bool:
            time.sleep(2)
            status: str = flwr(federation.home, *asked)["runs"][0]["status"]
            return status.startswith("finished")

        wait_until(ended, 300)
        assert flwr(federation.home, *asked)["runs"][0]["status"] == "finished:completed"
    ours, theirs = RunFolder.open(out), RunFolder.open(tmp_path / "vector")
    assert ours.status == "finished"
    assert ours.config.engine == "deployment"
    assert [row["loss"] for row in ours.metrics()] == [row["loss"] for row in theirs.metrics()]
    assert ours.info["final"] == theirs.info["final"]
