import pytest

from tests.learning import cases


@pytest.fixture(autouse=True, params=["eager", "native"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make each claim about an algorithm hold with autograd and with native kernels."""
    chosen: str = request.param
    monkeypatch.setattr(cases, "KERNELS", chosen)
    return chosen
