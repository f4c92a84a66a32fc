"""Checks of the journal's records against its rounds and against the chain."""

from functools import cached_property

from web3.exceptions import TransactionNotFound
from web3.types import EventData

from fedmeta.chain.audit.findings import DisagreementError, counted, require_equal
from fedmeta.chain.settle.deployment import Deployed
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import Content
from fedmeta.chain.settle.recording import recorded_content
from fedmeta.chain.settle.terms import Terms, difference, read_terms
from fedmeta.chain.signing import SIGNATURE_LENGTH, recover
from fedmeta.chain.typed_data import ledger_domain, record_digest


class RecordChecks:
    """Recomputes the expected content of each record.

    Args:
        journal: The run's journal.
    """

    def __init__(self, journal: JournalView) -> None:
        self.journal = journal
        self.frozen = journal.frozen

    def content(self, first: int, last: int) -> Content:
        """Return the expected content of a record of rounds `first` to `last`.

        Raises:
            DisagreementError: If some of them were not frozen.
        """
        if not 1 <= first <= last <= self.frozen:
            raise DisagreementError(
                f"there is a record of rounds {first} to {last}, and {self.frozen} were frozen"
            )
        return self.journal.content(first, last)

    def journaled(self) -> str:
        """Check that each record in the journal matches its rounds and has enough signatures."""
        records, campaign = self.journal.records(), self.journal.campaign
        for record in records:
            where = f"rounds {record.first} to {record.last}"
            differs = record.differs(self.content(record.first, record.last))
            if differs:
                raise DisagreementError(f"{where}: in the journal's record and its rounds {differs}")
            if campaign and campaign.terms and record.signatures:
                domain = ledger_domain(campaign.chain_id or 0, record.ledger)
                digest = record_digest(domain, record.to_sign(campaign.campaign, record.epoch))
                require_signed(where, digest, record.signatures, Terms.from_json(campaign.terms))
        return counted(len(records), "record")


def require_signed(where: str, digest: bytes, signatures: bytes, terms: Terms) -> None:
    """Raise unless enough distinct committee members signed a digest.

    Raises:
        DisagreementError: Names a signer outside the committee, or the number of signatures.
    """
    signers: set[str] = set()
    for start in range(0, len(signatures), SIGNATURE_LENGTH):
        try:
            signer = recover(digest, signatures[start : start + SIGNATURE_LENGTH])
        except ValueError as error:
            raise DisagreementError(f"{where}: signature {len(signers) + 1}: {error}") from None
        if signer not in terms.committee:
            raise DisagreementError(f"{where}: signed by {signer}, who is not in the committee")
        signers.add(signer)
    if len(signers) < terms.threshold:
        raise DisagreementError(f"{where}: {len(signers)} members signed; {terms.threshold} have to")


class ChainChecks:
    """Checks of the ledger contract's content; each returns a summary, or raises.

    Args:
        deployed: The campaign's contracts.
        records: Recomputes the expected content of each record.
    """

    def __init__(self, deployed: Deployed, records: RecordChecks) -> None:
        self.deployed = deployed
        self.ledger = deployed.ledger
        self.campaign = records.journal.founded
        self.records = records

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
        newest = {
            int(event["args"]["firstRound"]): event
            for event in self.ledger.events("Recorded", self.campaign.block)
        }
        next_round, found, first = int(self.ledger.call("nextRound")), [], 1
        while first < next_round:
            if first not in newest:
                raise DisagreementError(f"the chain has no event of a record that begins with {first}")
            found.append(newest[first])
            first = int(newest[first]["args"]["lastRound"]) + 1
        return found

    def recorded(self) -> str:
        """Check that every record matches the frozen rounds, and that no round is missing."""
        last = 0
        for event in self.events:
            found = recorded_content(event)
            last = found.last
            where = f"rounds {found.first} to {last}"
            differs = found.differs(self.records.content(found.first, last))
            if differs:
                raise DisagreementError(f"{where}: on the chain and in the journal {differs}")
        if last < self.records.frozen:
            raise DisagreementError(
                f"rounds {last + 1} to {self.records.frozen} are frozen and not on the chain yet: "
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
        chain, asked = self.ledger.chain, event["transactionHash"]
        found = recorded_content(event)
        where = f"rounds {found.first} to {found.last}"
        try:
            transaction = chain.eth.get_transaction(asked)
        except TransactionNotFound:
            raise DisagreementError(
                f"{where}: the node has no transaction {asked.to_0x_hex()}"
            ) from None
        if str(transaction.get("to")).lower() != self.ledger.address.lower():
            return False
        function, values = self.ledger.web3.decode_function_input(transaction["input"])
        if function.fn_name != "record":
            return False
        to_sign = found.to_sign(self.campaign.campaign, int(event["args"]["epoch"]))
        domain = ledger_domain(chain.chain_id, self.ledger.address)
        require_signed(where, record_digest(domain, to_sign), values["signatures"], self.deployed.terms)
        return True
