"""The thousand plans find deliberate bugs, and a failing seed prints how to replay it."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.federation.faults import replay
from tests.federation.faults.planted import BUGS, plant
from tests.federation.faults.test_thousand import test_invariants_hold_under_random_faults as holds

HOME = Path(__file__).resolve().parents[3]
FOUND_BY = dict(zip(BUGS, (5, 0, 11, 0, 2), strict=True))
"""The first seed that finds each bug."""


@pytest.mark.parametrize("bug", BUGS)
def test_each_planted_bug_is_found_by_a_seed_and_by_its_replay(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = FOUND_BY[bug]
    plant(bug, monkeypatch)
    command = f"replay it: python -m tests.federation.faults.replay {seed}"
    with pytest.raises(AssertionError, match=f"^{re.escape(command)}$"):
        holds(seed, tmp_path)
    with pytest.raises(AssertionError):
        replay.main(seed)


def test_a_failing_seed_prints_a_command_that_replays_it() -> None:
    # In a process of its own, as pytest changes how modules are imported.
    script = (
        "import sys, pytest\n"
        "from tests.federation.faults import planted\n"
        "planted.plant('the first of two replies counts', pytest.MonkeyPatch())\n"
        "sys.exit(pytest.main(['-p', 'no:cacheprovider', "
        "'-W', 'ignore::pytest.PytestAssertRewriteWarning', 'tests/federation/faults/test_thousand.py', "
        "'-k', '[5] or [6]']))"
    )
    failing = processes.run([sys.executable, "-c", script], cwd=HOME)
    assert failing.returncode == 1, failing.stdout + failing.stderr
    commands = set(re.findall(r"^E +AssertionError: replay it: (.+)$", failing.stdout, re.M))
    assert commands == {"python -m tests.federation.faults.replay 5"}
    assert "1 failed, 1 passed" in failing.stdout

    python, *arguments = shlex.split(commands.pop())
    assert python == "python"
    sound = processes.run([sys.executable, *arguments], cwd=HOME)
    assert sound.returncode == 0, sound.stderr
    lines = sound.stdout.splitlines()
    assert lines[-1] == "seed 5: all holds"
    # Without the bug, the replay shows that both replies are refused.
    assert any(re.match(r"round \d client +\d twice +quarantined +2 replies", line) for line in lines)
