import pytest

from tests.kernels import needs_kernels
from tests.learning import cases

AUTOGRAD_ALONE = {"resnet12", "lstm-features", "tdnn", "mpn", "user-module"}
"""Cases whose models have no kernels: ``native`` computes them as ``eager`` does."""


@pytest.fixture(autouse=True, params=["eager", pytest.param("native", marks=needs_kernels)])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make each claim about an algorithm hold with autograd and with native kernels."""
    chosen: str = request.param
    monkeypatch.setattr(cases, "KERNELS", chosen)
    return chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Compute each case without kernels once."""
    twice = [item for item in items if _is_native_in_name_alone(item)]
    if twice:
        config.hook.pytest_deselected(items=twice)
        items[:] = [item for item in items if item not in set(twice)]


def _is_native_in_name_alone(item: pytest.Item) -> bool:
    given = getattr(getattr(item, "callspec", None), "params", {})
    words = [value for value in given.values() if isinstance(value, str)]
    return given.get("kernels") == "native" and not AUTOGRAD_ALONE.isdisjoint(words)
