"""What a run's transactions cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmeta.chain.ledger.contract import quantity
from fedmeta.chain.ledger.entries import Transaction
from fedmeta.chain.ledger.journal import JournalView
from fedmeta.chain.ledger.restart import JOURNAL
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.providers.opening import open_chain

_AT_ONCE = 200


@dataclass(frozen=True)
class Spent:
    """Gas of one transaction.

    Attributes:
        action: What it was for, as the journal says it.
        block: Where it was mined.
        gas: Units of gas that it used.
    """

    action: str
    block: int
    gas: int


def gas_spent(folder: Path, options: ChainOptions) -> list[Spent]:
    """Ask the chain what each mined transaction of a run used, in the order of signing.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain.

    Raises:
        UsageError: If there is no journal.
        RunError: If it is damaged.
        ChainError: If the node is away.
    """
    journal = JournalView(folder / JOURNAL)
    try:
        landed = journal.landed()
    finally:
        journal.close()
    with open_chain(options, folder) as chain:
        spent: list[Spent] = []
        for first in range(0, len(landed), _AT_ONCE):
            some = landed[first : first + _AT_ONCE]
            calls = [("eth_getTransactionReceipt", ("0x" + one.hash.hex(),)) for one in some]
            answers = zip(some, chain.batch(calls), strict=True)
            spent += [_spent(one, receipt) for one, receipt in answers if isinstance(receipt, dict)]
        return spent


def _spent(transaction: Transaction, receipt: dict[str, Any]) -> Spent:
    block = quantity(receipt["blockNumber"])
    return Spent(transaction.action, block, quantity(receipt["gasUsed"]))
