"""The journal's records against its rounds: roots, totals, and the committee's signatures."""

from fedmeta.chain.audit.findings import DisagreementError, counted
from fedmeta.chain.ledger.entries import Campaign, SignedRecord
from fedmeta.chain.ledger.journal import JournalView
from fedmeta.chain.ledger.terms import Terms
from fedmeta.chain.ledger.totals import Content, Totals, content_of
from fedmeta.chain.signer import SIGNATURE_LENGTH, recover
from fedmeta.chain.typed_data import ledger_domain, record_digest


class RecordChecks:
    """Works out again what each record has to say.

    Args:
        journal: The run's journal.
    """

    def __init__(self, journal: JournalView) -> None:
        self.journal = journal
        self.frozen = journal.frozen
        self._totals = Totals()

    def totals(self, last: int) -> Totals:
        """Return what each account was awarded up to a round."""
        if self._totals.round > last:
            self._totals = Totals()
        if self._totals.round < last:
            self._totals.add(self.journal.contents(self._totals.round + 1, last))
        return self._totals

    def content(self, first: int, last: int) -> Content:
        """Return what a record of rounds `first` to `last` has to say.

        Raises:
            DisagreementError: If not all of them were frozen.
        """
        if not 1 <= first <= last <= self.frozen:
            raise DisagreementError(
                f"there is a record of rounds {first} to {last}, and {self.frozen} were frozen"
            )
        return content_of(self.journal.contents(first, last), self.totals(last))

    def journaled(self) -> str:
        """Each record in the journal says what its rounds say, and enough members signed it."""
        records, campaign = self.journal.records(), self.journal.campaign
        for record in records:
            where = f"rounds {record.first} to {record.last}"
            stated = {name: getattr(record, name) for name in Content.__dataclass_fields__}
            differs = Content(**stated).differs(self.content(record.first, record.last))
            if differs:
                raise DisagreementError(f"{where}: in the journal's record and its rounds {differs}")
            if campaign and campaign.terms and record.signatures:
                _check_journaled(where, record, campaign)
        return counted(len(records), "record")


def _check_journaled(where: str, record: SignedRecord, campaign: Campaign) -> None:
    stated = {name: getattr(record, name) for name in Content.__dataclass_fields__}
    to_sign = Content(**stated).to_sign(campaign.campaign, record.epoch)
    digest = record_digest(ledger_domain(campaign.chain_id or 0, record.ledger), to_sign)
    require_signed(where, digest, record.signatures, Terms.from_json(campaign.terms or "{}"))


def require_signed(where: str, digest: bytes, signatures: bytes, terms: Terms) -> None:
    """Raise unless enough different members of the committee signed a digest.

    Raises:
        DisagreementError: Naming the signer that is none, or how many there are.
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
