"""The invariants catch bugs: one is planted at a time, and the right assertion fails."""

import json
from pathlib import Path

import pytest

from tests.contracts.workshop import ALWAYS, CONTRACTS, MUTANTS, forge, planted


def failures(output: str) -> list[str]:
    """Return the assertions that failed, without the values after the colon."""
    suites = json.loads(output).values()
    results = [result for suite in suites for result in suite["test_results"].values()]
    assert len(results) == 2
    return [result["reason"].partition(":")[0] for result in results if result["status"] != "Success"]


def caught(contracts: Path) -> list[str]:
    """Return the assertions that fail in a workshop of planted bugs."""
    invariants = ("--match-path", "test/invariants/*", "--match-test", "^invariant_", "--json")
    # A shorter walk to the same failure would be of use to a reader only.
    done = forge(
        contracts, "test", *invariants, CONTRACTS="source", FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT="0"
    )
    assert done.stdout, done.stderr
    return sorted(failures(done.stdout))


def test_two_planted_bugs_are_caught_by_the_invariants_that_they_break(broken: Path) -> None:
    assert len({mutant["file"] for mutant in ALWAYS}) == 2
    assert caught(broken) == sorted(name for mutant in ALWAYS for name in mutant["caught_by"])


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant["name"]) for mutant in MUTANTS])
def test_a_planted_bug_is_caught_by_the_invariant_it_breaks(mutant: dict, tmp_path: Path) -> None:
    contracts = planted([mutant], tmp_path)
    for unit in (contracts / "test").glob("*.t.sol"):
        # Not run, and half of what there is to compile.
        unit.unlink()
    assert caught(contracts) == sorted(mutant["caught_by"])


def test_every_assertion_of_the_invariants_catches_a_bug() -> None:
    known = {name for mutant in MUTANTS for name in mutant["caught_by"]}
    for suite in ("Ledger", "Registry"):
        text = (CONTRACTS / "test" / "invariants" / f"{suite}.t.sol").read_text()
        body = text[text.index("function invariant_") : text.index("function test_")]
        said = {part.split('"')[1] for part in body.split("vm.assert")[1:]}
        assert said
        assert said <= known, f"no planted bug shows that these catch anything: {sorted(said - known)}"
