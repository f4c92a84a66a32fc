"""`make setup` installs packages by hash, and builds nothing with downloaded tools."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNHASHED = ("torch", "triton", "nvidia-", "cuda-")
"""PyTorch and its CUDA libraries: their builds differ between indexes."""


def locked(name: str = "requirements.lock") -> dict[str, list[str]]:
    """Return the hashes of each requirement of a lock."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if pinned := re.match(r"([A-Za-z0-9._-]+)==[^ ]+", line):
            found[pinned[1]] = []
        elif not line.startswith("#") and line.strip():
            hash_ = re.fullmatch(r" +--hash=sha256:([0-9a-f]{64})(?: \\)?", line)
            assert hash_, line
            found[next(reversed(found))].append(hash_[1])
    return found


def test_every_requirement_has_one_version_and_hashes() -> None:
    found, tools = locked(), locked("requirements-dev.lock")
    assert found.keys().isdisjoint(tools)
    found |= tools
    assert len(found) > 180
    assert [name for name, hashes in found.items() if not hashes] == []
    assert [name for name in found if name.startswith(UNHASHED)] == []


def test_the_tool_that_builds_fedmeta_is_among_them() -> None:
    assert "hatchling" in locked()


def test_the_demo_installs_no_ray_mlflow_or_browser() -> None:
    large = {"ray", "mlflow-skinny", "tensorboard", "playwright", "pytest", "mypy", "ruff"}
    assert large.isdisjoint(locked())
    assert large <= locked("requirements-dev.lock").keys()


def test_the_set_up_says_how_many_packages_come() -> None:
    made = (ROOT / "Makefile").read_text()
    assert f"PyTorch and {len(locked())} other packages" in made
    assert f"Installing {len(locked('requirements-dev.lock'))} more packages" in made


def test_pip_is_asked_for_nothing_else() -> None:
    asked = re.findall(r"^\t\$\(PIP\) (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    hashed, torch, ours, tools = asked
    for one in (hashed, tools):
        assert {"--require-hashes", "--no-deps", "--only-binary :all:"} <= set(re.split(r" (?=-)", one))
    assert re.fullmatch(
        r"torch==[0-9.]+ \$\(if \$\(TORCH_INDEX\),--index-url \$\(TORCH_INDEX\)\)", torch
    )
    assert ours == "--no-deps --no-build-isolation -e ."
    assert "npm ci --prefix contracts --ignore-scripts" in (ROOT / "Makefile").read_text()
