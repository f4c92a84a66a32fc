"""The run config of the Flower app: the same config in every process, and keys that do not go stale."""

import io
import json
import time
import tomllib
import typing
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid

from fedmeta.app import (
    EXPERIMENT,
    OUT,
    SET,
    client_app,
    config_of,
    require_nodes,
    server_app,
    settings_of,
)
from fedmeta.chain import recover
from fedmeta.chain.signing import presence_digest
from fedmeta.config import to_toml
from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment import Config, RunFolder, load_config, run
from fedmeta.experiment.node_keys import NodeFiles, join
from fedmeta.experiment.planning import resolve, workload
from fedmeta.federation import Learner
from fedmeta.federation.accounts import NONCE, PROOF
from fedmeta.federation.behaviours import BEHAVIOURS
from fedmeta.federation.client import CONFIG, PARTITION, request_content
from fedmeta.federation.codec import Codec
from fedmeta.federation.engines.client_app import TooLongError, at_most
from fedmeta.federation.engines.deployment.local import Layout, free_port, run_local
from fedmeta.federation.engines.deployment.superlink import CONNECTION, flwr
from fedmeta.federation.flower import as_server, stamp
from fedmeta.learning.algorithm import ALGORITHMS, MODELS
from fedmeta.options import Options
from fedmeta.tasks import FAMILIES
from tests.experiment.deployed import wait_until
from tests.experiment.helpers import TINY

TABLES = ("server", "gate", "aggregation", "evaluation")


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


def test_the_keys_of_flwr_run_are_plain_config_keys() -> None:
    known = plain_keys(Config) | {EXPERIMENT, OUT, SET}
    for table in TABLES:
        kind = Config.model_fields[table].annotation
        assert kind is not None
        known |= plain_keys(kind, f"{table}.")
    assert set(listed()) <= known
    assert {EXPERIMENT, OUT, SET, "rounds", "seed", "server.lr"} <= set(listed())


@pytest.mark.parametrize("key", sorted(plain_keys(Config) - {"engine"}))
def test_any_other_key_can_be_set_by_set(key: str) -> None:
    """A key that is not listed, such as a new one, is set so."""
    value = Config(task="sinusoid", algorithm="maml", model="mlp", rounds=1, clients=3, cohort=1)
    said = json.dumps(getattr(value, key))
    assert settings_of({EXPERIMENT: "quickstart", SET: f"{key}={said}"})[key] == getattr(value, key)


def test_listed_keys_at_their_defaults_change_nothing() -> None:
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


def test_a_client_reports_its_partition() -> None:
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


CALLED: list[str] = []
OWN_FILES = {"Images", "Audio", "Table", "Text", "Arrays"}


@pytest.fixture
def hostile_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that says that it was imported."""
    (tmp_path / "hostile_module.py").write_text(
        "from tests.test_app import CALLED\nCALLED.append('imported')\nclass Part: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    CALLED.clear()
    return "hostile_module:Part"


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("task", "task 'hostile_module:Part' is not imported"),
        ("model", "model 'hostile_module:Part' is not imported"),
        ("algorithm", "algorithm 'hostile_module:Part' is not imported"),
        ("mods", "mods.0 'hostile_module:Part' is not imported"),
        ("behaviours", "behaviour 'hostile_module:Part' is not imported"),
    ],
)
def test_a_node_imports_nothing_that_a_server_names(key: str, what: str, hostile_module: str) -> None:
    value: Any = hostile_module
    if key == "mods":
        value = (hostile_module,)
    if key == "behaviours":
        value = [{"kind": hostile_module, "clients": [0]}]
    config = to_toml(resolve(Config(**TINY)).model_copy(update={key: value}))
    reply = ask({PARTITION: 0}, {"config": config})
    assert reply.has_error()
    assert what in str(reply.error.reason)
    assert CALLED == []


def test_its_owner_may_allow_it(hostile_module: str) -> None:
    config = to_toml(resolve(Config(**TINY)).model_copy(update={"model": hostile_module}))
    ask({PARTITION: 0, "allow-code": True}, {"config": config})
    assert CALLED == ["imported"]


@pytest.mark.parametrize("said", ["true", 1, "yes", False])
def test_nothing_but_true_allows_it(said: object, hostile_module: str) -> None:
    config = to_toml(resolve(Config(**TINY)).model_copy(update={"model": hostile_module}))
    ask({PARTITION: 0, "allow-code": said}, {"config": config, "allow-code": True})
    assert CALLED == []


def test_a_run_config_that_names_an_experiment_may_not_either(hostile_module: str) -> None:
    reply = ask({PARTITION: 0}, listed() | {"model": hostile_module})
    assert "is not imported: this node runs no code" in str(reply.error.reason)
    assert CALLED == []


def test_no_part_of_fedmetas_own_reads_a_file_that_a_config_names() -> None:
    """Their options are numbers, flags and choices: none is a text or a path for a server to fill.

    Families of a user's own files have a path; nodes refuse them, as the test below says.
    """
    parts = [FAMILIES.get(name) for name in FAMILIES] + [ALGORITHMS.get(name) for name in ALGORITHMS]
    parts += [BEHAVIOURS.get(name) for name in BEHAVIOURS]
    kinds = [part.Options for part in parts] + [MODELS.get(name).Options for name in MODELS]
    assert len(kinds) > 10
    named = [kind for kind in kinds if "path" in kind.model_fields]
    assert {kind.__name__.removesuffix("Options") for kind in named} == OWN_FILES
    for kind in (kind for kind in kinds if kind not in named):
        for name, field in kind.model_fields.items():
            types = typing.get_args(field.annotation) or (field.annotation,)
            if name.endswith("_alphabets"):
                continue  # looked up among those of the data set
            assert not {str, Path, bytes, Any} & set(types), f"{kind.__qualname__}.{name}"


@pytest.mark.parametrize("task", ["images", "table"])
def test_a_node_reads_no_files_that_a_server_names(task: str, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    data = {"path": str(tmp_path / "secret")}
    config = to_toml(resolve(Config(**TINY)).model_copy(update={"task": task, "data": data}))
    reply = ask({PARTITION: 0}, {"config": config})
    assert reply.has_error()
    assert f"task '{task}': this node reads no files that a server names" in str(reply.error.reason)
    allowed = ask({PARTITION: 0, "allow-code": True}, {"config": config})
    assert "reads no files" not in str(allowed.error.reason)


def signed_ask(account: Path | None, run: object, nonce: object) -> Message:
    node_config: dict[str, Any] = {PARTITION: 3} | ({"account": str(account)} if account else {})
    run_config = {"config": to_toml(resolve(Config(**TINY))), "signed-run": run}
    with as_server():
        message = Message(RecordDict({CONFIG: ConfigRecord({NONCE: nonce})}), 5, MessageType.QUERY)  # type: ignore[dict-item]
        stamp(message, "1")
        return client_app(message, Context(1, 5, node_config, RecordDict(), run_config))  # type: ignore[arg-type]


def test_a_nodes_proof_is_only_valid_for_its_own_partition(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    address = join(files, "ours", 3).account
    run, nonce = bytes(range(32)), b"\x05" * 32
    answer = signed_ask(files.account, run.hex(), nonce).content[CONFIG]
    assert isinstance(answer, ConfigRecord)
    proof = answer[PROOF]
    assert isinstance(proof, bytes)
    assert recover(presence_digest(run, 5, 3, nonce), proof) == address


@pytest.mark.parametrize("run", ["", 0])
def test_nothing_is_signed_where_no_run_asks_for_it(run: object, tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    join(files, "ours", 3)
    assert PROOF not in signed_ask(files.account, run, bytes(32)).content[CONFIG]  # type: ignore[operator]
    assert PROOF not in signed_ask(None, bytes(32).hex(), bytes(32)).content[CONFIG]  # type: ignore[operator]


@pytest.mark.parametrize("run", ["ab", "zz" * 32, "00" * 33, 12])
@pytest.mark.parametrize("nonce", [bytes(32)])
def test_an_id_that_is_not_a_run_id_is_not_signed(run: object, nonce: bytes, tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    join(files, "ours", 3)
    reply = signed_ask(files.account, run, nonce)
    assert "an id to sign under has 32 bytes" in str(reply.error.reason)


@pytest.mark.parametrize("nonce", [b"", bytes(31), bytes(4096)])
def test_a_question_of_another_length_is_not_signed(nonce: bytes, tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    join(files, "ours", 3)
    assert signed_ask(files.account, bytes(32).hex(), nonce).has_error()


@pytest.mark.parametrize("seconds", [0, -1, "60", True])
def test_an_invalid_bound_is_refused_in_one_line(seconds: object) -> None:
    reply = ask({PARTITION: 0, "max-seconds": seconds}, {"config": to_toml(resolve(Config(**TINY)))})
    assert "max-seconds = " in str(reply.error.reason)


@pytest.mark.parametrize(
    ("asked", "device", "answer"),
    [
        ("cpu", "cuda", "device: no CUDA device found"),
        ("cuda", None, "device: no CUDA device found"),
        ("cpu", "gpu", "device: must be one of 'auto', 'cpu' or 'cuda' (got 'gpu')"),
        ("cuda", "cpu", ""),
        ("cuda", "auto", ""),
    ],
)
def test_a_node_computes_on_its_owners_device(
    asked: str, device: str | None, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = to_toml(resolve(Config(**TINY)).model_copy(update={"device": asked}))
    node = {PARTITION: 0} | ({} if device is None else {"device": device})
    reply = ask(node, {"config": config})
    assert reply.has_error() is bool(answer)
    assert not answer or answer in str(reply.error.reason)


def test_code_that_catches_errors_is_cut_short_as_well() -> None:
    def work() -> None:
        with at_most(0.05):
            while True:
                try:
                    while True:
                        pass
                except Exception:
                    continue

    with pytest.raises(TooLongError):
        work()


def test_endless_work_is_interrupted() -> None:
    def work() -> None:
        with at_most(0.05):
            while True:
                pass

    with pytest.raises(TooLongError, match=r"works on a message for 0\.05 s at most"):
        work()
    with at_most(None), at_most(30):
        pass


def test_a_node_says_that_a_message_took_too_long() -> None:
    endless = TINY | {"algorithm": "fomaml", "learner": {"inner_steps": 10**8}, "kernels": "eager"}
    with as_server():
        config = {"config": to_toml(resolve(Config(**endless)))}
        node = {PARTITION: 0, "max-seconds": 1}
        template = Learner.build(workload(resolve(Config(**TINY)))).template
        content = request_content(Codec(template).encode(template), 1)
        message = Message(content, 5, MessageType.TRAIN)
        stamp(message, "1")
        reply = client_app(message, Context(1, 5, node, RecordDict(), config))  # type: ignore[arg-type]
    assert "this node works on a message for 1 s at most" in str(reply.error.reason)


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_the_app_that_flower_packs_holds_every_module_of_fedmeta() -> None:
    root = Path(__file__).parents[1]
    packed = set(zipfile.ZipFile(io.BytesIO(build_fab_from_disk(root))).namelist())
    modules = {str(path.relative_to(root)) for path in (root / "fedmeta").rglob("*.py")}
    assert len(modules) > 100
    assert modules - packed == set(), "Flower leaves out names such as x_test.py and test_x.py"
    assert "simulations/quickstart.toml" in packed


def test_a_simulation_with_too_few_nodes_is_refused_at_once() -> None:
    grid = InMemoryGrid.__new__(InMemoryGrid)
    grid.get_node_ids = lambda: range(2)  # type: ignore[method-assign]
    require_nodes(grid, 2)
    with pytest.raises(UsageError, match=r'simulates 2 SuperNodes.* 7 clients: .*"num-supernodes=7"'):
        require_nodes(grid, 7)


def test_the_server_app_refuses_such_a_simulation_before_it_makes_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = InMemoryGrid.__new__(InMemoryGrid)
    grid.get_node_ids = lambda: range(2)  # type: ignore[method-assign]
    context = Context(1, 0, {}, RecordDict(), {EXPERIMENT: "quickstart"})
    with pytest.raises(UsageError, match="simulates 2 SuperNodes, and the experiment has 30 clients"):
        server_app(grid, context)
    assert list(tmp_path.iterdir()) == []


def test_nodes_of_real_machines_may_join_later() -> None:
    require_nodes(cast("Grid", SimpleNamespace(get_node_ids=list)), 7)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flwr_run_in_the_repository_is_a_run_like_any_other(tmp_path: Path) -> None:
    root, out = Path(__file__).parents[1], tmp_path / "run"
    settings = {"rounds": 2, "clients": 2, "test_clients": 1, "cohort": 1, "evaluation.tasks": 5}
    # As a deployment, whose nodes may be other machines, has it.
    run("quickstart", settings | {"kernels": "eager"}, out=tmp_path / "vector")
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
