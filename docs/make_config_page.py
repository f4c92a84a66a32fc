"""Prints docs/config.md, from the code: `python docs/make_config_page.py > docs/config.md`."""

import inspect
import json
from collections.abc import Iterator
from typing import Any

from fedmeta.experiment import Config
from fedmeta.federation.behaviours import BEHAVIOURS
from fedmeta.federation.postprocessors import POSTPROCESSORS
from fedmeta.learning import ALGORITHMS, MODELS
from fedmeta.options import declared
from fedmeta.registry import Registry
from fedmeta.tasks import FAMILIES

INTRODUCTION = """\
# Configuration

A run is a function of its config: a TOML file with the keys below. `-s key=value` replaces a value
from the command line, and `fedmeta.run(name, {"server.lr": 0.01})` from Python; a key within a table
is written with a dot. A value on the command line is TOML, or plain text where it is no TOML. A table
(`-s 'server={optimizer="SGD"}'`) replaces the whole one, so a key below it that was set before is
refused; set it after. An unknown key or a bad value is refused before anything starts.

A part is swapped by one word, `-s model=conv4` or `-s algorithm=protonet`: the options of the
experiment that only the old part had are left out, with a line on stderr, and those that both have
stay. What you set yourself is never left out; if the new part has no such option, it is refused. So
it is for `task`, `algorithm`, `model`, `aggregation.rule` and `server.optimizer`, and in the arms
of a comparison.

A key that is *unset* by default has no value in TOML: leave it out. "None" in a meaning is just that.

`python docs/make_config_page.py` prints this page from the code; `fedmeta list keys` and
`fedmeta list parts` show the same in a terminal."""

TABLES = {
    "": (
        "Keys",
        "The keys outside of any table. `cohort` may not exceed the training clients, those not held\n"
        "out; `quorum` may not exceed `cohort`.",
    ),
    "server": ("`[server]`", "The server's step on the aggregated pseudo-gradient."),
    "gate": ("`[gate]`", "What a client's reply must satisfy to be admitted."),
    "aggregation": (
        "`[aggregation]`",
        "How admitted updates become one; those other than `mean` bear some clients that lie.",
    ),
    "faults": ("`[faults]`", "What goes wrong by plan: see [faults](faults.md)."),
    "evaluation": (
        "`[evaluation]`",
        "How validation and test clients are evaluated. `every` needs validation clients.",
    ),
    "evaluation.stream": (
        "`[evaluation.stream]`",
        "Test clients' tasks as streams, which are predicted and learned from batch by batch: see\n"
        "[streams](report.md#streams).",
    ),
    "incentives": (
        "`[incentives]`",
        "What admitted updates are worth, and how a round's pot is shared: see\n"
        "[incentives](incentives.md). With a chain, a `rule` of `none` becomes `tasks`.",
    ),
    "incentives.shapley": ("`[incentives.shapley]`", 'Settings of `rule = "shapley"`.'),
    "chain": (
        "`[chain]`",
        "The ledger of contributions and rewards ([chain](chain.md)). Keys and passwords are never\n"
        "in a config: they come from the environment or an encrypted keystore.",
    ),
    "chain.staking": ("`[chain.staking]`", "What participants put at stake."),
    "ray": ("`[ray]`", 'Where `engine = "ray"` runs.'),
    "deployment": ("`[deployment]`", 'Where `engine = "deployment"` runs ([real machines](deploy.md)).'),
    "compare": ("`[compare]`", "How `fedmeta compare` judges: see [compare](compare.md)."),
}
PARTS: dict[str, tuple[str, Registry[Any]]] = {
    "[behaviours]": ("a behaviour, `kind`, beside `kind` and `clients`", BEHAVIOURS),
    "[postprocessors]": ("a postprocessor, `kind`, beside `kind` and `stage`", POSTPROCESSORS),
    "data": ("the task family, `task`", FAMILIES),
    "learner": ("the algorithm, `algorithm`", ALGORITHMS),
    "network": ("the model, `model`", MODELS),
}


def main() -> None:
    """Print the page."""
    missing = {one.path for one in declared(Config) if one.options} - TABLES.keys()
    if missing:
        raise SystemExit(f"no title for the tables {sorted(missing)}")
    print(INTRODUCTION)
    for table, (title, what) in TABLES.items():
        print(f"\n## {title}\n\n{what}\n")
        print("\n".join(rows(Config, table)))
    for table, (of, registry) in PARTS.items():
        print(f"\n## `[{table}]`\n\nOptions of {of}.")
        for name in registry:
            part = registry.get(name)
            print(f"\n### `{name}`\n\n{summary(part)}\n")
            print("\n".join(rows(part.Options)) if part.Options.model_fields else "No options.")


def rows(kind: Any, table: str = "") -> Iterator[str]:
    """Yield the Markdown table of an options class, or of a table within it."""
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    for one in declared(kind):
        within, _, name = one.path.rpartition(".")
        if one.options or within != table:
            continue  # a table of its own
        default = "required" if one.field.is_required() else show(one.default)
        if not one.meaning:
            raise SystemExit(f"{one.kind.__qualname__} has no 'Attributes:' entry for '{name}'")
        schema = one.kind.model_json_schema()["properties"][name]
        cells = (f"`{name}`", values(schema), default, one.meaning.replace("``", "`"))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def values(schema: dict[str, Any]) -> str:
    """Say in words which values a JSON schema admits."""
    if "anyOf" in schema:
        return " or ".join(values(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        if places := schema.get("prefixItems"):
            return f"list of {len(places)}, each {values(places[0])}"
        return f"list, each {values(schema['items'])}"
    words = {
        "integer": "integer",
        "boolean": "`true`, `false`",
        "string": "text",
        "object": "table",
    }
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_number(schema[key])}" for key, sign in signs.items() if key in schema]
    return " ".join([words.get(kind or "", "number"), ", ".join(bounds)]).strip()


def show(value: Any) -> str:
    """Return a default as TOML would have it."""
    return "unset" if value is None else f"`{json.dumps(value)}`"


def summary(part: type) -> str:
    """Return the first paragraph of a class's docstring."""
    return " ".join(inspect.cleandoc(part.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}"


if __name__ == "__main__":
    main()
