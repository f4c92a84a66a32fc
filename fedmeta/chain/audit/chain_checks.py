"""The chain against the journal: every record, who signed it, and that nothing is missing."""

from functools import cached_property

from fedmeta.chain import abi as solidity
from fedmeta.chain.audit.findings import DisagreementError, counted, require_equal
from fedmeta.chain.audit.record_checks import RecordChecks, require_signed
from fedmeta.chain.ledger.contract import Event, unhex
from fedmeta.chain.ledger.deployment import Deployed
from fedmeta.chain.ledger.entries import Campaign
from fedmeta.chain.ledger.recording import recorded_content
from fedmeta.chain.ledger.terms import difference, read_terms
from fedmeta.chain.typed_data import ledger_domain, record_digest

_RECORD_SELECTOR = 4


class ChainChecks:
    """Checks of what the ledger contract holds; each returns what it saw, or raises.

    Args:
        deployed: The campaign's contracts.
        campaign: From the journal.
        records: Work out what each record has to say.
    """

    def __init__(self, deployed: Deployed, campaign: Campaign, records: RecordChecks) -> None:
        self.deployed = deployed
        self.ledger = deployed.ledger
        self.campaign = campaign
        self.records = records

    def contracts(self) -> str:
        """The contracts are ours, and have the terms that the journal says."""
        token, terms = read_terms(self.ledger)
        wrong = difference(terms, self.deployed.terms)
        if wrong:
            raise DisagreementError(f"the ledger's {wrong}")
        require_equal("the ledger", "token", (token, self.campaign.token), ("it", "the journal"))
        return f"ledger {self.ledger.address}, token {token}, chain {self.campaign.chain_id}"

    @cached_property
    def events(self) -> list[Event]:
        """The event of each record that counts, in order; those of vetoed records do not."""
        newest = {
            int(event.arguments["firstRound"]): event
            for event in self.ledger.events("Recorded", self.campaign.block)
        }
        next_round, found, first = int(self.ledger.call("nextRound")), [], 1
        while first < next_round:
            if first not in newest:
                raise DisagreementError(f"the chain has no event of a record that begins with {first}")
            found.append(newest[first])
            first = int(newest[first].arguments["lastRound"]) + 1
        return found

    def recorded(self) -> str:
        """Every record says what the frozen rounds say, and no round is missing."""
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
        """Enough members of the committee signed what each record's transaction carries."""
        seen = sum(self._endorsed(event) for event in self.events)
        unseen = len(self.events) - seen
        more = f"; {unseen} came through another contract, which shows none" if unseen else ""
        return f"signatures of {counted(seen, 'record')}{more}"

    def _endorsed(self, event: Event) -> bool:
        asked = ("0x" + event.transaction.hex(),)
        transaction = self.ledger.chain.request("eth_getTransactionByHash", asked)
        where = f"rounds {event.arguments['firstRound']} to {event.arguments['lastRound']}"
        if transaction is None:
            raise DisagreementError(f"{where}: the node has no transaction {asked[0]}")
        if str(transaction["to"]).lower() != self.ledger.address.lower():
            return False
        data = unhex(transaction["input"])
        entry = next(e for e in self.ledger.artifact.abi if e.get("name") == "record")
        if data[:_RECORD_SELECTOR] != solidity.selector(entry):
            return False
        _, signatures = solidity.decode(entry["inputs"], data[_RECORD_SELECTOR:])
        to_sign = recorded_content(event).to_sign(self.campaign.campaign, int(event.arguments["epoch"]))
        domain = ledger_domain(self.ledger.chain.chain_id, self.ledger.address)
        require_signed(where, record_digest(domain, to_sign), signatures, self.deployed.terms)
        return True
