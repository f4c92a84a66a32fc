"""Foundry's tests of the contracts: rules, fuzzing, invariants, gas, coverage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.workshop import forge, workshop


def test_the_sources_are_formatted(tmp_path: Path) -> None:
    done = forge(workshop(tmp_path), "fmt", "--check")
    assert done.returncode == 0, done.stdout


def test_the_shipped_bytecode_passes_foundrys_tests(broken: Path) -> None:
    # The tests deploy the artifacts: of the sources they need the interfaces.
    done = forge(broken, "test", FOUNDRY_FUZZ_RUNS="16", FOUNDRY_INVARIANT_RUNS="1")
    assert done.returncode == 0, done.stdout[-10_000:]
    assert " 0 failed, 0 skipped" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_passes_with_10000_fuzz_runs_and_500_walks_of_250_calls(tmp_path: Path) -> None:
    done = forge(workshop(tmp_path), "test", FOUNDRY_PROFILE="all")
    assert done.returncode == 0, done.stdout[-10_000:]
    assert "invariant_moneyIsConserved() (runs: 500, calls: 125000, reverts: 0)" in done.stdout
    assert "invariant_stakesAreConserved() (runs: 500, calls: 125000, reverts: 0)" in done.stdout
    fuzzed = [line for line in done.stdout.splitlines() if "testFuzz_" in line]
    assert fuzzed
    assert all("(runs: 10000," in line for line in fuzzed)


@pytest.mark.slow
def test_the_unit_tests_reach_every_line_and_branch(tmp_path: Path) -> None:
    contracts = workshop(tmp_path)
    report = tmp_path / "lcov.info"
    # Gas is another without the optimizer; invariants reach a line without saying what it should do.
    unit = ("--no-match-contract", "GasTest|Invariants")
    lcov = ("--report", "lcov", "--report-file", str(report))
    done = forge(contracts, "coverage", *unit, *lcov, CONTRACTS="source", FOUNDRY_FUZZ_RUNS="16")
    assert done.returncode == 0, done.stdout[-10_000:]
    sources = {f"src/{file.name}" for file in (contracts / "src").iterdir()}
    covered = {file: counts for file, counts in read_lcov(report) if file in sources}
    assert set(covered) == sources
    for file, counts in covered.items():
        assert counts["LF"] > 0
        assert (counts["LH"], counts["BRH"]) == (counts["LF"], counts["BRF"]), file


def read_lcov(report: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield each file with its totals: lines and branches found (LF, BRF) and hit (LH, BRH)."""
    file, counts = "", {}
    for line in report.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "SF":
            file, counts = value, {}
        elif key in ("LF", "LH", "BRF", "BRH"):
            counts[key] = int(value)
        elif key == "end_of_record":
            yield file, counts
