"""Checks of all tokens: awards, claims, funding and balances."""

from collections import Counter
from functools import cached_property

from web3.types import EventData

from fedmeta.chain.audit.findings import DisagreementError, counted, require_equal
from fedmeta.chain.contracts import Contract
from fedmeta.chain.settle.deployment import Deployed
from fedmeta.chain.settle.journal import JournalView

_NOBODY = "0x" + 40 * "0"


class TokenChecks:
    """Checks of all token movements; each returns a summary, or raises where values differ."""

    def __init__(self, deployed: Deployed, journal: JournalView) -> None:
        self.deployed = deployed
        self.ledger = deployed.ledger
        self.token = deployed.token
        self.journal = journal
        self.clients = journal.clients()

    def _events(self, contract: Contract, name: str) -> list[EventData]:
        return contract.events(name, self.journal.founded.block)

    @cached_property
    def _transfers(self) -> list[tuple[str, str, int]]:
        """The sender, receiver and units of each transfer."""
        found = (event["args"] for event in self._events(self.token, "Transfer"))
        return [(one["from"].lower(), one["to"].lower(), one["value"]) for one in found]

    @cached_property
    def _awarded(self) -> dict[str, int]:
        """Units awarded to each account by the rounds on the chain."""
        last = self.ledger.call("nextRound") - 1
        return self.journal.rewards(min(last, self.journal.frozen))

    @cached_property
    def _claimed(self) -> dict[str, int]:
        return self.ledger.each("claimed", list(self.clients))

    def awards(self) -> str:
        """Check that the ledger awarded exactly what the rounds award."""
        awarded, dust = self.ledger.many("awarded", "DUST")
        expected = sum(self._awarded.values())
        # The ledger keeps one unit for itself from its first funding on.
        found = max(0, awarded - dust)
        require_equal("the ledger", "awarded", (found, expected), ("it", "the rounds"))
        return f"{found} units to {counted(len(self._awarded), 'account')}"

    def claims(self) -> str:
        """Check that no account claimed more than its award, and that each claim went to the account."""
        received: Counter[str] = Counter()
        for sender, receiver, units in self._transfers:
            if sender == self.ledger.address.lower():
                received[receiver] += units
        known = {account.lower() for account in self.clients} | {self.ledger.call("reserve").lower()}
        for account, units in received.items():
            if account not in known:
                raise DisagreementError(f"{account} was paid {units} units and contributed nothing")
        for account, client in self.clients.items():
            claimed, awarded = self._claimed[account], self._awarded.get(account, 0)
            where = f"client {client} ({account})"
            paid = received[account.lower()]
            require_equal(where, "claimed", (claimed, paid), ("the ledger", "the token's transfers"))
            if claimed > awarded:
                raise DisagreementError(f"{where}: claimed {claimed} units, and was awarded {awarded}")
        total, waiting = sum(self._claimed.values()), sum(self._awarded.values())
        return f"{total} units claimed, {waiting - total} unclaimed"

    def tokens(self) -> str:
        """Check that balances match the transfers, and sum to the supply."""
        balances: Counter[str] = Counter()
        for sender, receiver, units in self._transfers:
            balances[sender] -= units
            balances[receiver] += units
        supply = -balances.pop(_NOBODY, 0)
        found = self.token.call("totalSupply")
        require_equal("the token", "supply", (found, supply), ("it", "its transfers"))
        for account, held in self.token.each("balanceOf", sorted(balances)).items():
            values = (held, balances[account])
            require_equal(account, "balance", values, ("the token", "its transfers"))
        return f"{supply} units in {counted(len(balances), 'account')}"

    def escrow(self) -> str:
        """Check that escrow and payments together equal the funding."""
        awarded, paid, unawarded = self.ledger.many("awarded", "paid", "unawarded")
        funded, swept = (
            sum(event["args"]["amount"] for event in self._events(self.ledger, name))
            for name in ("Funded", "Swept")
        )
        found = awarded + unawarded + swept
        if found < funded:
            raise DisagreementError(f"{funded} units were funded, and {found} are there or were paid")
        claimed = sum(self._claimed.values())
        require_equal("the ledger", "paid", (paid, claimed), ("it", "the participants' claims"))
        given = f" + {found - funded} given" if found > funded else ""
        kept = f"{paid} paid + {found - paid - swept} in escrow + {swept} taken back"
        return f"{funded} units funded{given} = {kept}"

    def stakes(self) -> str:
        """Check that the registry holds all stakes."""
        registry = self.deployed.registry
        if registry is None:
            return "none"
        joined = {event["args"]["account"] for event in self._events(registry, "Joined")}
        stakes = sum(member[0] for member in registry.each("members", sorted(joined)).values())
        held = self.token.call("balanceOf", registry.address)
        if held < stakes:
            raise DisagreementError(f"the registry holds {held} units, and the stakes are {stakes}")
        return f"{stakes} units of {counted(len(joined), 'account')}"
