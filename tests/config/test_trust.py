"""What a folder from elsewhere may do: each test opens one that tries to do more."""

import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import fedmeta
from fedmeta.config import to_toml
from fedmeta.config.trust import chain_options, code_in, hosts_in
from fedmeta.errors import ConfigError, FedmetaError, UsageError
from fedmeta.experiment import Config, RunFolder, load_config, resume
from fedmeta.experiment.learned.model import Learned
from fedmeta.experiment.swap import load
from fedmeta.report.writing import write_report
from tests.cli.test_main import call
from tests.experiment.helpers import TINY

NODE = "http://127.0.0.1:9/node"
CODE: dict[str, dict[str, Any]] = {
    "model": {"model": "wants:Net"},
    "model within a package": {"model": "a-b.wants.Net"},
    "algorithm": {"algorithm": "wants:Net"},
    "task": {"task": "wants.Net"},
    "mods": {"mods": ["wants:Net"]},
    "behaviours": {"behaviours": [{"kind": "wants:Net", "clients": [0]}]},
    "aggregation": {"aggregation": {"rule": "wants:Net"}},
    "incentives": {"incentives": {"rule": "wants:Net"}},
    "network": {"network": {"layers": [{"norm": "wants:Net"}]}},
    "an installed module": {"model": "subprocess:call"},
}
HOSTS: dict[str, dict[str, Any]] = {
    "chain.provider": {"chain": {"provider": NODE}},
    "chain.keystore": {"chain": {"provider": NODE, "keystore": "~/keys"}},
    "chain.addresses": {"chain": {"provider": "wss://x.example", "addresses": "/etc/hosts"}},
    "ray.address": {"engine": "ray", "ray": {"address": "ray.example:6379"}},
    "deployment.address": {"engine": "deployment"},
    "deployment.certificate": {"deployment": {"certificate": "/etc/ssl/one.pem"}},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a module that leaves a mark when it runs."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "a-b"):
        folder.mkdir(exist_ok=True)
        (folder / "wants.py").write_text(
            f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass Net: pass\n"
        )
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("wants", "a-b"):
            del sys.modules[name]
    sys.path[:] = path


def theirs(path: Path, **changes: Any) -> Path:
    """Make a run folder that was made elsewhere."""
    folder = RunFolder.create(path, Config(**TINY | changes), {"status": "failed", "experiment": "x"})
    (folder.path / "config.seal").unlink()
    return folder.path


OPENED: dict[str, Callable[[Path], object]] = {
    "load": fedmeta.load,
    "open": Learned.open,
    "resume": resume,
    "run of its config": lambda path: fedmeta.run(str(path / "config.toml")),
    "compare of its config": lambda path: fedmeta.compare(str(path / "config.toml")),
}


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("named", CODE)
def test_code_named_only_by_a_config_from_elsewhere_does_not_run(
    here: Path, opened: str, named: str
) -> None:
    path = theirs(here / "theirs", **CODE[named])
    before = sorted(one.name for one in path.iterdir())
    with pytest.raises(UsageError, match="was not made here or was changed since, and its config") as e:
        OPENED[opened](path)
    assert "\n" not in str(e.value)
    assert not (here / "ran").exists()
    assert sorted(one.name for one in path.iterdir()) == before
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    "command", [["export"], ["adapt", "--support", "letters", "--query", "letters"], ["resume"]]
)
def test_the_commands_refuse_it_as_well_until_it_is_trusted(
    here: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = theirs(here / "theirs", model="wants:Net")
    for name in "ab":
        (here / "letters" / name).mkdir(parents=True)
        (here / "letters" / name / "1.png").touch()
    assert call(*command, str(path)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "model = 'wants:Net'" in said
    assert "--trust-code" in said
    assert not (here / "ran").exists()
    assert call(*command, str(path), "--trust-code") != 0
    assert "--trust-code" not in capsys.readouterr().err


def test_code_that_is_trusted_or_named_here_runs(here: Path) -> None:
    for trust_code in (True, False):
        path = here / f"trusted-{trust_code}"
        if trust_code:
            theirs(path, model="wants:Net")
        else:
            RunFolder.create(path, Config(**TINY | {"model": "wants:Net"}), {})
        with pytest.raises(FedmetaError):
            resume(path, trust_code=trust_code)
        assert (here / "ran").exists()
        (here / "ran").unlink()
        del sys.modules["wants"]


def test_a_folder_without_code_and_hosts_opens_without_a_question(here: Path) -> None:
    path = theirs(here / "theirs")
    with pytest.raises(UsageError, match="no checkpoint to load: no round was finished"):
        fedmeta.load(path)
    assert load_config(str(path / "config.toml")).task == "sinusoid"


@pytest.mark.parametrize("named", HOSTS)
def test_hosts_and_keys_named_only_by_a_config_from_elsewhere_are_not_used(
    here: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "create_connection", connect)
    path = theirs(here / "theirs", **HOSTS[named])
    for opened in (resume, lambda one: fedmeta.run(str(one / "config.toml"))):
        with pytest.raises(UsageError, match=f"was not made here or was changed since.*{named} = '"):
            opened(path)


def test_a_reader_who_names_all_of_them_connects(here: Path) -> None:
    path = theirs(here / "theirs", chain={"provider": NODE, "keystore": "~/keys"})
    for given in ({"chain.provider": NODE}, {"chain.keystore": "own"}, {"rounds": 9}):
        with pytest.raises(UsageError, match=r"was not made here.* with -s chain\."):
            resume(path, given)
    with pytest.raises(UsageError, match=r"there is no folder own"):
        resume(path, {"chain.provider": NODE, "chain.keystore": "own"})
    changed = RunFolder.create(here / "ours", Config(**TINY | {"chain": {"provider": NODE}}), {}).path
    text = (changed / "config.toml").read_text()
    (changed / "config.toml").write_text(text.replace("9/node", "9/evil"))
    with pytest.raises(UsageError, match="was changed since"):
        resume(changed)


class _Asked(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def node() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Asked)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("command", ["status", "audit", "claim"])
@pytest.mark.parametrize("variable", ["FEDMETA_SPONSOR_KEY", "FEDMETA_RPC_KEY", "AWS_SECRET_ACCESS_KEY"])
def test_a_run_from_elsewhere_does_not_choose_the_chains_node(
    here: Path,
    node: Any,
    command: str,
    variable: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "s3cret")
    url = f"http://127.0.0.1:{node.server_port}/${{{variable}}}"
    path = theirs(here / "theirs", chain={"provider": url})
    assert call("chain", command, str(path)) == 2
    out, err = capsys.readouterr()
    assert "was not made here or was changed since" in err
    assert "--provider URL" in err
    assert "s3cret" not in out + err
    assert not node.asked
    # A node of the reader's own is taken; there is just no journal to look for on it.
    assert call("chain", command, str(path), "--provider", NODE) == 2
    assert "there is no journal" in capsys.readouterr().err


def test_a_claim_on_a_run_from_elsewhere_needs_a_keystore_option_and_a_status_does_not(
    here: Path,
) -> None:
    path = theirs(here / "theirs", chain={"provider": NODE, "keystore": "~/keys"})
    config = RunFolder(path).config
    assert chain_options(path, config, NODE).keystore == ""
    with pytest.raises(UsageError, match=r"chain\.keystore = '~/keys'.* with --keystore DIR"):
        chain_options(path, config, NODE, None)
    assert chain_options(path, config, NODE, "mine").keystore == "mine"
    ours = RunFolder.create(here / "ours", config, {}).path
    assert chain_options(ours, config, None, None) == config.chain
    with pytest.raises(UsageError, match="no such provider"):
        chain_options(ours, config, "ftp://x")


@pytest.mark.parametrize("mistake", [{"rounds": -1}, {"server.lr": 0}, {"mods": ["no.such:mod"]}])
def test_locating_a_mistake_runs_no_code_of_a_config_from_elsewhere(
    here: Path, mistake: dict[str, Any]
) -> None:
    path = theirs(here / "theirs", model="wants:Net") / "config.toml"
    with pytest.raises(ConfigError, match=rf"^{next(iter(mistake))}[.:]"):
        load(str(path), {"model": "mlp", "network": {}} | mistake)
    assert not (here / "ran").exists()


def test_a_config_below_a_run_folder_is_that_runs(here: Path) -> None:
    path = theirs(here / "theirs", model="wants:Net")
    (path / "chain").mkdir()
    for place in ("config.toml", "other.toml", "chain/config.toml"):
        shutil.copy(path / "config.toml", here / "kept.toml")
        if place != "config.toml":
            shutil.copy(path / "config.toml", path / place)
        with pytest.raises(UsageError, match="copy the file out of the folder"):
            load_config(str(path / place))
        # What the user says again is the user's own.
        assert load_config(str(path / place), {"model": "mlp"}).model == "mlp"
        assert load_config(str(path / place), {"model": "wants:Net"}).model == "wants:Net"
    (here / "link.toml").symlink_to(path / "config.toml")
    with pytest.raises(UsageError, match="copy the file out of the folder"):
        load_config(str(here / "link.toml"))
    assert load_config(str(here / "kept.toml")).model == "wants:Net"
    ours = RunFolder.create(here / "ours", Config(**TINY | {"model": "wants:Net"}), {}).path
    assert load_config(str(ours / "config.toml")).model == "wants:Net"
    shutil.copy(ours / "config.toml", ours / "other.toml")
    with pytest.raises(UsageError, match="copy the file out of the folder"):
        load_config(str(ours / "other.toml"))


@pytest.mark.parametrize(
    "arm",
    [
        {"model": "wants:Net"},
        {"network": {"norm": "wants:Net"}},
        {"chain": {"provider": NODE}},
        {"engine": "ray", "ray": {"address": "ray.example:6379"}},
        {"mods": ["wants:Net"]},
    ],
)
def test_arms_of_a_comparison_from_elsewhere_name_no_code_either(
    here: Path, arm: dict[str, Any]
) -> None:
    path = theirs(here / "theirs", compare={"arms": {"mine": arm}})
    with pytest.raises(UsageError, match=r"compare\.arms\.mine\..*copy the file out"):
        fedmeta.compare(str(path / "config.toml"), arms=["mine"])
    assert not (here / "ran").exists()


def test_a_report_runs_no_code_and_contacts_no_host(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", connect)
    path = theirs(here / "theirs", model="wants:Net", chain={"provider": NODE})
    (path / "config.toml").write_text(
        (path / "config.toml").read_text().replace("sinusoid", "wants:Net")
    )
    write_report([path], here / "report.html")
    assert (here / "report.html").exists()
    assert not (here / "ran").exists()


def test_the_experiments_that_come_with_fedmeta_name_no_code_and_no_hosts() -> None:
    for name in fedmeta.experiment.experiment_names():
        config = load_config(name)
        assert [*code_in(config.model_dump()), *hosts_in(config)] == []


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("run.lock", "../diary"),
        ("metrics.jsonl", "{here}/diary"),
        ("clients.jsonl", "../theirs/../diary"),
        ("checkpoints/round-000006.json", "../../diary"),
        ("chain", "../other"),
        ("report.html.tmp", "../diary"),
        ("tensorboard", "/"),
        ("config.toml", "../kept.toml"),
        ("errors.log", "../not there yet"),
    ],
)
def test_a_link_that_leads_out_of_a_run_folder_is_neither_read_nor_written(
    here: Path, link: str, target: str
) -> None:
    (here / "diary").write_text("dear diary")
    (here / "other").mkdir()
    (here / "kept.toml").write_text(to_toml(Config(**TINY)))
    ours = RunFolder.create(here / "ours", Config(**TINY), {}).path
    for path in (theirs(here / "theirs"), ours):
        (path / link).unlink(missing_ok=True)
        (path / link).symlink_to(target.format(here=here))
        for opened in (resume, fedmeta.load):
            with pytest.raises(UsageError, match="is a link that leads out of the folder"):
                opened(path)
        assert call("chain", "status", str(path)) == 2
    assert (here / "diary").read_text() == "dear diary"
    assert not (here / "not there yet").exists()
    assert list((here / "other").iterdir()) == []


def test_a_link_to_a_run_folder_and_one_within_it_are_followed(here: Path) -> None:
    path = theirs(here / "theirs")
    (path / "newest.jsonl").symlink_to("metrics.jsonl")
    os.symlink(path, here / "latest")
    assert RunFolder.open(here / "latest").config == RunFolder.open(path).config


def test_a_key_may_be_given_in_a_table_as_well(here: Path) -> None:
    path = theirs(here / "theirs", model="wants:Net", chain={"provider": NODE})
    file = str(path / "config.toml")
    given = {"model": "mlp", "chain": {"provider": "http://127.0.0.1:7"}}
    assert load_config(file, given).chain.provider == "http://127.0.0.1:7"
    with pytest.raises(UsageError, match="names code or hosts, chain"):
        load_config(file, {"model": "mlp", "chain.pot": 7})
    (here / "plain.toml").write_text(tomli_w.dumps(TINY))
    assert load_config(str(here / "plain.toml")).rounds == TINY["rounds"]
