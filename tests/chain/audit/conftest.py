from tests.chain.ledger.conftest import anvil

__all__ = ["anvil"]
