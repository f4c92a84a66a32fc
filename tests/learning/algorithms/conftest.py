import pytest

from tests.kernels import needs_kernels
from tests.learning import cases


@pytest.fixture(autouse=True, params=["eager", pytest.param("native", marks=needs_kernels)])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make each claim about an algorithm hold with autograd and with native kernels."""
    chosen: str = request.param
    monkeypatch.setattr(cases, "KERNELS", chosen)
    return chosen
