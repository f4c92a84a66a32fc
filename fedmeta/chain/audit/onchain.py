"""Checks of the journal's records against its rounds, and of the contracts against the journal."""

from collections import Counter
from functools import cached_property

from web3.exceptions import TransactionNotFound
from web3.types import EventData

from fedmeta.chain.audit.findings import DisagreementError, counted, require_equal
from fedmeta.chain.contracts import Contract
from fedmeta.chain.settle.deployment import Deployed
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import Content
from fedmeta.chain.settle.recording import newest_records, recorded_content
from fedmeta.chain.settle.terms import Terms, difference, read_terms
from fedmeta.chain.signing import SIGNATURE_LENGTH, ledger_domain, recover

_NOBODY = "0x" + 40 * "0"


def journaled(journal: JournalView) -> str:
    """Check that each record in the journal matches its rounds and has enough signatures."""
    records, campaign = journal.records(), journal.founded
    for record in records:
        _require_same(record, journal, "in the journal's record and its rounds")
        if campaign.terms and record.signatures:
            domain = ledger_domain(campaign.chain_id or 0, record.ledger)
            digest = record.digest(domain, campaign.campaign, record.epoch)
            _require_signed(record, digest, record.signatures, Terms.from_json(campaign.terms))
    return counted(len(records), "record")


def _require_same(found: Content, journal: JournalView, where: str) -> None:
    """Raise unless a record matches the frozen rounds."""
    if not 1 <= found.first <= found.last <= journal.frozen:
        raise DisagreementError(f"there is a record of {found.rounds}, and {journal.frozen} were frozen")
    differs = found.differs(journal.content(found.first, found.last))
    if differs:
        raise DisagreementError(f"{found.rounds}: {where} {differs}")


def _require_signed(record: Content, digest: bytes, signatures: bytes, terms: Terms) -> None:
    """Raise unless enough distinct committee members signed a record."""
    signers: set[str] = set()
    for start in range(0, len(signatures), SIGNATURE_LENGTH):
        try:
            signer = recover(digest, signatures[start : start + SIGNATURE_LENGTH])
        except ValueError as error:
            raise DisagreementError(f"{record.rounds}: signature {len(signers) + 1}: {error}") from None
        if signer not in terms.committee:
            raise DisagreementError(f"{record.rounds}: signed by {signer}, who is not in the committee")
        signers.add(signer)
    if len(signers) < terms.threshold:
        raise DisagreementError(
            f"{record.rounds}: {len(signers)} members signed; {terms.threshold} have to"
        )


class ChainChecks:
    """Checks of the contracts' records and tokens; each returns a summary, or raises."""

    def __init__(self, deployed: Deployed, journal: JournalView) -> None:
        self.deployed = deployed
        self.ledger = deployed.ledger
        self.token = deployed.token
        self.journal = journal
        self.campaign = journal.founded
        self.clients = journal.clients()

    def contracts(self) -> str:
        """Check that the contracts are ours and have the journal's terms."""
        token, terms = read_terms(self.ledger)
        wrong = difference(terms, self.deployed.terms)
        if wrong:
            raise DisagreementError(f"the ledger's {wrong}")
        require_equal("the ledger", "token", (token, self.campaign.token), ("it", "the journal"))
        return f"ledger {self.ledger.address}, token {token}, chain {self.campaign.chain_id}"

    @cached_property
    def _last(self) -> int:
        """The last round on the chain."""
        return int(self.ledger.call("nextRound")) - 1

    @cached_property
    def _records(self) -> list[EventData]:
        """The events of all records that were not vetoed, in order."""
        return list(newest_records(self.ledger, self.campaign.block, 1, self._last))

    def recorded(self) -> str:
        """Check that every record matches the frozen rounds, and that no round is missing."""
        last = 0
        for event in self._records:
            found = recorded_content(event)
            last = found.last
            _require_same(found, self.journal, "on the chain and in the journal")
        if last < self.journal.frozen:
            raise DisagreementError(
                f"rounds {last + 1} to {self.journal.frozen} are frozen and not on the chain yet: "
                "`fedmeta resume` catches up"
            )
        return f"{counted(len(self._records), 'record')} of {counted(last, 'round')}"

    def endorsed(self) -> str:
        """Check that enough committee members signed the content of each record's transaction."""
        seen = sum(self._endorsed(event) for event in self._records)
        unseen = len(self._records) - seen
        more = f"; {unseen} came through another contract, which shows none" if unseen else ""
        return f"signatures of {counted(seen, 'record')}{more}"

    def _endorsed(self, event: EventData) -> bool:
        chain, asked, found = self.ledger.chain, event["transactionHash"], recorded_content(event)
        try:
            transaction = chain.eth.get_transaction(asked)
        except TransactionNotFound:
            raise DisagreementError(
                f"{found.rounds}: the node has no transaction {asked.to_0x_hex()}"
            ) from None
        if str(transaction.get("to")).lower() != self.ledger.address.lower():
            return False
        function, values = self.ledger.web3.decode_function_input(transaction["input"])
        if function.fn_name != "record":
            return False
        domain = ledger_domain(chain.chain_id, self.ledger.address)
        digest = found.digest(domain, self.campaign.campaign, event["args"]["epoch"])
        _require_signed(found, digest, values["signatures"], self.deployed.terms)
        return True

    def _events(self, contract: Contract, name: str) -> list[EventData]:
        return contract.events(name, self.campaign.block)

    @cached_property
    def _transfers(self) -> list[tuple[str, str, int]]:
        """The sender, receiver and units of each transfer."""
        found = (event["args"] for event in self._events(self.token, "Transfer"))
        return [(one["from"].lower(), one["to"].lower(), one["value"]) for one in found]

    @cached_property
    def _awarded(self) -> dict[str, int]:
        """Units awarded to each account by the rounds on the chain."""
        return self.journal.rewards(min(self._last, self.journal.frozen))

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
