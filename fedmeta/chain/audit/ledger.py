"""Checks of the journal's records against its rounds and against the chain."""

from functools import cached_property

from web3.exceptions import TransactionNotFound
from web3.types import EventData

from fedmeta.chain.audit.findings import DisagreementError, counted, require_equal
from fedmeta.chain.settle.deployment import Deployed
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import Content
from fedmeta.chain.settle.recording import newest_records, recorded_content
from fedmeta.chain.settle.terms import Terms, difference, read_terms
from fedmeta.chain.signing import SIGNATURE_LENGTH, recover
from fedmeta.chain.typed_data import ledger_domain


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
    """Checks of the ledger contract's content; each returns a summary, or raises."""

    def __init__(self, deployed: Deployed, journal: JournalView) -> None:
        self.deployed = deployed
        self.ledger = deployed.ledger
        self.journal = journal
        self.campaign = journal.founded

    def contracts(self) -> str:
        """Check that the contracts are ours and have the journal's terms."""
        token, terms = read_terms(self.ledger)
        wrong = difference(terms, self.deployed.terms)
        if wrong:
            raise DisagreementError(f"the ledger's {wrong}")
        require_equal("the ledger", "token", (token, self.campaign.token), ("it", "the journal"))
        return f"ledger {self.ledger.address}, token {token}, chain {self.campaign.chain_id}"

    @cached_property
    def events(self) -> list[EventData]:
        """The events of all records that were not vetoed, in order."""
        last = self.ledger.call("nextRound") - 1
        return list(newest_records(self.ledger, self.campaign.block, 1, last))

    def recorded(self) -> str:
        """Check that every record matches the frozen rounds, and that no round is missing."""
        last = 0
        for event in self.events:
            found = recorded_content(event)
            last = found.last
            _require_same(found, self.journal, "on the chain and in the journal")
        if last < self.journal.frozen:
            raise DisagreementError(
                f"rounds {last + 1} to {self.journal.frozen} are frozen and not on the chain yet: "
                "`fedmeta resume` catches up"
            )
        return f"{counted(len(self.events), 'record')} of {counted(last, 'round')}"

    def endorsed(self) -> str:
        """Check that enough committee members signed the content of each record's transaction."""
        seen = sum(self._endorsed(event) for event in self.events)
        unseen = len(self.events) - seen
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
