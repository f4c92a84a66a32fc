"""Options of parts are read from their source as importing the part would give them."""

from pathlib import Path
from typing import Any

import pytest

from fedmeta import parts
from fedmeta.options import Options, attribute_docs
from fedmeta.part_options import read_options
from fedmeta.registry import Registry

KINDS = {kind: registry for kind, registry in vars(parts).items() if isinstance(registry, Registry)}
PARTS = [(kind, name) for kind, registry in KINDS.items() for name in registry]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_the_options_read_are_those_that_the_part_declares(kind: str, name: str) -> None:
    part: Any = KINDS[kind].get(name)
    declared = getattr(part, "Options", None)
    found = read_options(part.__module__, part.__name__)
    if declared is None or found is None:
        assert declared is found
        return
    assert (
        found.model_json_schema()["properties" if declared.model_fields else "type"]
        == (declared.model_json_schema()["properties" if declared.model_fields else "type"])
    )
    assert attribute_docs(found) == attribute_docs(declared)


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("class Part(Base):\n    class Options(Options):\n        size: int = SIZE\n", {"size": 3}),
        (
            "class Own(Options):\n    rate: float = 0.5\n\nclass Part(Base):\n    Options = Own\n",
            {"rate": 0.5},
        ),
        ("class Part(Base): ...\n", {"given": True}),
    ],
)
def test_only_what_the_options_need_is_run(
    source: str, fields: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    head = "import no_such_library\nfrom fedmeta.options import Options\n\nSIZE = 3\nraise SystemExit\n"
    base = "@no_such_library.wrap\nclass Base:\n"
    package = tmp_path / f"invented_{len(source)}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").write_text(
        f"{head}\n{base}    class Options(Options):\n        given: bool = True\n\n{source}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = read_options(f"{package.name}.part", "Part")
    assert found is not None
    assert issubclass(found, Options)
    assert found().model_dump() == fields
