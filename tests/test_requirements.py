"""What `make setup` installs is known by its hash, and nothing is built with tools that are fetched."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNHASHED = ("torch", "triton", "nvidia-", "cuda-")
"""PyTorch and its CUDA libraries: their builds differ between indexes."""


def locked() -> dict[str, list[str]]:
    """Return the hashes of each requirement of the lock."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if pinned := re.match(r"([A-Za-z0-9._-]+)==[^ ]+", line):
            found[pinned[1]] = []
        elif not line.startswith("#") and line.strip():
            hash_ = re.fullmatch(r" +--hash=sha256:([0-9a-f]{64})(?: \\)?", line)
            assert hash_, line
            found[next(reversed(found))].append(hash_[1])
    return found


def test_every_requirement_has_one_version_and_hashes() -> None:
    found = locked()
    assert len(found) > 100
    assert [name for name, hashes in found.items() if not hashes] == []
    assert [name for name in found if name.startswith(UNHASHED)] == []


def test_the_tool_that_builds_fedmeta_is_among_them() -> None:
    assert "hatchling" in locked()


def test_pip_is_asked_for_nothing_else() -> None:
    asked = re.findall(r"^\t\$\(PIP\) (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    hashed, torch, ours = asked
    assert {"--require-hashes", "--no-deps", "--only-binary :all:"} <= set(re.split(r" (?=-)", hashed))
    assert re.fullmatch(r"torch==[0-9.]+", torch)
    assert ours == "--no-deps --no-build-isolation -e ."
    assert "npm ci --prefix contracts --ignore-scripts" in (ROOT / "Makefile").read_text()
