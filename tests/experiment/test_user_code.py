"""What counts as a user's code: their modules and the modules those import, read but never run."""

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmeta.errors import ConfigError
from fedmeta.experiment import Config
from fedmeta.experiment.user_code import Code, code_of, fedmeta_digest
from fedmeta.registry import import_dotted
from tests.experiment.helpers import TINY

FILES = {
    "lab/__init__.py": "",
    "lab/nets.py": "import json\nimport torch\nfrom lab.blocks.wide import width\nclass Net: ...\n",
    "lab/blocks/__init__.py": "",
    "lab/blocks/wide.py": "from ..units import scale\ndef width():\n    import labtools\n",
    "lab/units.py": "scale = 1\n",
    "lab/unrelated.py": "raise SystemExit\n",
    "labtools.py": "from lab import unrelated_too as _\n",
    "lab/unrelated_too.py": "value = 1\n",
}
USED = ["lab", "lab.blocks", "lab.blocks.wide", "lab.nets", "lab.units", "lab.unrelated_too", "labtools"]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user's modules on the path, removed from `sys.modules` afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("lab", "labtools", "zipped", "shop"):
            del sys.modules[name]


def code(**settings: object) -> Code:
    return code_of(Config(**TINY | settings))


@pytest.mark.usefixtures("lab")
def test_a_modules_digest_covers_the_users_modules_that_it_imports() -> None:
    assert list(code(model="lab.nets:Net")) == USED
    assert "labtools" not in sys.modules, "it was read, and not run"


@pytest.mark.parametrize("name", USED)
def test_an_edit_of_any_of_them_is_reported_by_name(lab: Path, name: str) -> None:
    before = code(model="lab.nets.Net")
    file = lab / (name.replace(".", "/") + ".py")
    file = file if file.exists() else lab / name.replace(".", "/") / "__init__.py"
    file.write_text(file.read_text() + "# more\n")
    after = code(model="lab.nets.Net")
    assert [key for key in before if before[key] != after[key]] == [name]


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "lab.units:scale"},
        {"algorithm": "lab.units.scale"},
        {"behaviours": [{"kind": "lab.units:scale", "clients": [1]}]},
        {"network": {"layers": [{"activation": "lab.units:scale"}]}},
    ],
)
@pytest.mark.usefixtures("lab")
def test_any_key_of_a_config_may_lead_to_code(settings: dict[str, object]) -> None:
    assert list(code(**settings)) == ["lab", "lab.units"]


@pytest.mark.usefixtures("lab")
def test_words_that_import_nothing_and_the_description_are_not_code() -> None:
    words = {"description": "lab.units:scale", "data": {"file": "photo.jpg", "host": "a.b.example"}}
    assert code(**words, compare={"arms": {"x": {"model": "lab.units:scale"}}}) == {}


def test_a_package_that_passes_a_part_on_leads_to_where_it_is_written(lab: Path) -> None:
    (lab / "shop").mkdir()
    lazy = "import importlib\nToys = importlib.import_module('shop.' + 'toys').Toys\n"
    (lab / "shop/__init__.py").write_text(lazy)
    (lab / "shop/toys.py").write_text("class Toys: ...\n")
    import_dotted("shop:Toys", "task")
    assert list(code(task="shop:Toys")) == ["shop", "shop.toys"]


def test_a_module_in_an_archive_is_read_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for version in (1, 2):
        archive = tmp_path / f"v{version}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("zipped.py", f"class Net: width = {version}\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(archive))
            import_dotted("zipped:Net", "model")
            digests.append(code(model="zipped:Net"))
            forget()
    assert list(digests[0]) == list(digests[1]) == ["zipped"]
    assert None not in (digests[0]["zipped"], digests[1]["zipped"])
    assert digests[0] != digests[1]


def test_an_installed_modules_digest_covers_only_itself() -> None:
    assert list(code(model="torch.nn:Linear")) == [
        "torch",
        "torch.nn",
        "torch.nn.modules",
        "torch.nn.modules.linear",
    ]
    assert code(model="json:JSONDecoder") == {}, "known by Python's version"


def test_a_module_that_was_made_in_memory_has_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shop", type(sys)("shop"))
    assert code(model="shop:Net") == {"shop": None}


def test_an_edit_after_the_import_is_refused_until_it_is_reloaded(lab: Path) -> None:
    module = importlib.import_module("lab.units")
    before = code(model="lab.units:scale")
    (lab / "lab/units.py").write_text("scale = 1000\n")
    with pytest.raises(ConfigError, match=r"units\.py was edited after this process imported it"):
        code(model="lab.units:scale")
    importlib.reload(module)
    assert code(model="lab.units:scale") != before


def test_fedmetas_own_code_is_one_digest() -> None:
    assert len(fedmeta_digest()) == 64
    assert fedmeta_digest() == fedmeta_digest.__wrapped__()
