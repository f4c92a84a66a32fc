from tests.chain.settle.conftest import anvil

__all__ = ["anvil"]
