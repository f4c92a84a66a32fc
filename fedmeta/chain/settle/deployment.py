"""Deploys a campaign's contracts and puts its budget into escrow; safe to repeat at any point."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from eth_typing import HexAddress, HexStr
from web3.types import Nonce
from web3.utils import get_create_address

from fedmeta.chain.chain import Chain
from fedmeta.chain.contracts import Contract, NoCodeError, load_artifact
from fedmeta.chain.errors import PoorAccountError, WrongCampaignError
from fedmeta.chain.hashing import keccak
from fedmeta.chain.keys import Keys
from fedmeta.chain.options import UNITS, ChainOptions
from fedmeta.chain.settle.campaign import check_chain
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.terms import (
    Terms,
    check_deployed,
    difference,
    expected_terms,
    ledger_views,
    our_contract,
)
from fedmeta.chain.settle.transactions import Action, Transactor
from fedmeta.errors import UsageError

LEAST_SUPPLY = 10**9 * UNITS
_CALL_GAS = 150_000
_COLUMNS = {"FedToken": "token", "RewardLedger": "ledger", "ParticipantRegistry": "registry"}
"""Journal column of each contract's address."""
Views = Mapping[str, object]


@dataclass(frozen=True)
class Deployed:
    """The contracts of a campaign.

    Attributes:
        token: Token of the payments.
        ledger: Records rounds and pays claims.
        registry: Holds participants' stakes; None without staking.
        terms: The ledger's terms.
    """

    token: Contract
    ledger: Contract
    registry: Contract | None
    terms: Terms

    @property
    def contracts(self) -> list[Contract]:
        """All contracts."""
        return [one for one in (self.token, self.ledger, self.registry) if one is not None]


def attach(journal: JournalView, chain: Chain) -> Deployed:
    """Return the contracts of a journal's campaign, which must be on the chain.

    Raises:
        WrongCampaignError: If it is another chain, or the contracts are not on it.
        UsageError: If the campaign was never deployed.
    """
    campaign = journal.campaign
    if campaign is None or not campaign.ledger or not campaign.token or not campaign.terms:
        raise UsageError(f"{journal.path}: nothing of this campaign is on a chain yet")
    check_chain(journal.path, campaign, chain)
    contract = partial(our_contract, journal.path, chain)
    return Deployed(
        token=contract("FedToken", campaign.token),
        ledger=contract("RewardLedger", campaign.ledger),
        registry=contract("ParticipantRegistry", campaign.registry) if campaign.registry else None,
        terms=Terms.from_json(campaign.terms),
    )


def deploy(transactor: Transactor, keys: Keys, options: ChainOptions) -> Deployed:
    """Return the contracts of a journal's campaign, deployed and funded; nothing is done twice.

    Args:
        transactor: Sends transactions, and holds the chain and the journal.
        keys: The sponsor deploys; the committee is named in the terms.
        options: Terms of a new campaign.

    Raises:
        WrongCampaignError: If the existing campaign has other terms or code.
        PoorAccountError: If the sponsor has too few tokens.
        ChainError: See `Transactor.perform`; call again later.
    """
    return _Deployment(transactor, keys, options).ensure()


class _Deployment:
    def __init__(self, transactor: Transactor, keys: Keys, options: ChainOptions) -> None:
        self.transactor = transactor
        self.chain = transactor.chain
        self.journal = transactor.journal
        self.keys = keys
        self.options = options

    def ensure(self) -> Deployed:
        code = load_artifact("RewardLedger").code_hash
        campaign = self.journal.founded
        if campaign.code not in (None, code):
            raise WrongCampaignError(
                "the campaign's ledger was deployed by another version of fedmeta: resume with that "
                "one, or start over with --new-campaign"
            )
        terms = self._terms()
        # The name is unique to the campaign, so no other campaign's token has the same transaction.
        name, supply = f"fedmeta {campaign.campaign.hex()[:16]}", max(LEAST_SUPPLY, 2 * campaign.budget)
        views: Views = {"name": name, "totalSupply": supply}
        token = self._created("FedToken", (name, "FED", supply), views)
        struct = terms.struct(token.address)
        ledger = self._created("RewardLedger", (struct,), ledger_views(struct))
        registry = self._registry(ledger.address) if self.options.staking.enabled else None
        found = {"token": token.address, "ledger": ledger.address, "code": code}
        found |= {"registry": registry.address} if registry else {}
        if not vars(self.journal.founded).items() >= found.items():
            self.journal.note("deployed", **found)
        deployed = Deployed(token, ledger, registry, terms)
        self._fund(deployed)
        return deployed

    def _terms(self) -> Terms:
        """Return the terms, the same at every attempt to deploy."""
        campaign = self.journal.founded
        if campaign.terms is None and self.options.addresses:
            return self._deployed_terms(campaign)
        block = self.chain.eth.get_block("latest")
        if campaign.terms is None:
            deadline = block["timestamp"] + self.options.deadline
            terms = expected_terms(self.options, self.keys, campaign, deadline)
            self.journal.note("terms", terms=terms.to_json(), block=block["number"])
            return terms
        if block["number"] < campaign.block:
            # The chain was rolled back to before the deployment.
            self.journal.note("block", block=block["number"])
        terms = Terms.from_json(campaign.terms)
        if wrong := difference(terms, expected_terms(self.options, self.keys, campaign)):
            raise WrongCampaignError(f"the campaign in {self.journal.path} has other terms: {wrong}")
        return terms

    def _deployed_terms(self, campaign: Campaign) -> Terms:
        """Use the campaign in the addresses file.

        Raises:
            WrongCampaignError: If it is not the one that the config asks for.
        """
        path = Path(self.options.addresses)
        addresses, terms = check_deployed(path, self.chain, self.options, self.keys, campaign)
        self.journal.note(
            "terms",
            terms=terms.to_json(),
            token=addresses.token,
            ledger=addresses.ledger,
            registry=addresses.registry,
            code=load_artifact("RewardLedger").code_hash,
            block=addresses.block,
        )
        return terms

    def _registry(self, ledger: str) -> Contract:
        staking = self.options.staking
        stake = staking.stake * UNITS
        cap = int(stake * Fraction(repr(staking.slash_share)))
        views: Views = {
            "ledger": ledger,
            "stake": stake,
            "slashCap": cap,
            "unbonding": staking.unbonding,
        }
        return self._created("ParticipantRegistry", tuple(views.values()), views)

    def _created(self, name: str, arguments: tuple[object, ...], views: Views) -> Contract:
        """Return a contract; create it unless it is at an address where we created it before.

        Args:
            name: The contract.
            arguments: Of its constructor.
            views: What it answers if it is ours.
        """
        artifact, known = load_artifact(name), getattr(self.journal.founded, _COLUMNS[name])
        creation = artifact.creation(*arguments)
        key = f"deploy {name} {keccak(creation).hex()[:16]}"

        def find() -> Contract | None:
            tried = self.journal.transactions(key)
            addresses = [created_address(t.sender, t.nonce) for t in tried]
            for address in ([known] if known else []) + addresses:
                contract = Contract(self.chain, artifact, address)
                if contract.exists and contract.many(*views) == list(views.values()):
                    return contract
            return None

        found = find()
        if found is None and self.options.addresses:
            raise WrongCampaignError(f"{self.options.addresses}: there is no such {name} at {known}")
        if found is None:
            action = Action(key, None, creation)
            self.transactor.perform(action, self.keys.sponsor, lambda: find() is not None)
            found = find()
        if found is None:
            raise NoCodeError(f"{name} was deployed, but is not on the chain")
        return found

    def _fund(self, deployed: Deployed) -> None:
        """Bring the escrow up to the budget.

        It first approves exactly the missing amount, so an accidental second funding has no allowance.
        """
        ledger, token, sponsor = deployed.ledger, deployed.token, self.keys.sponsor
        # The first funding sets one unit aside, which must not be missing at the end.
        budget = self.journal.founded.budget + int(ledger.call("DUST"))

        def missing() -> int:
            return max(0, budget - int(ledger.call("funded")))

        lacking = missing()
        # After the deadline the sponsor may have taken back the unawarded tokens.
        if not lacking or self.chain.is_past(deployed.terms.deadline + 1):
            return
        if (held := int(token.call("balanceOf", sponsor.address))) < lacking:
            raise PoorAccountError(
                f"the escrow lacks {lacking / UNITS:g} tokens and the sponsor {sponsor.address} "
                f"has {held / UNITS:g}"
            )

        def allowed() -> bool:
            allowance = int(token.call("allowance", sponsor.address, ledger.address))
            return allowance >= lacking or not missing()

        step = f"{lacking} of {budget} to {ledger.address}"
        if not allowed():
            data = token.data("approve", ledger.address, lacking)
            approve = Action(f"approve {step}", token.address, data, _CALL_GAS)
            self.transactor.perform(approve, sponsor, allowed)
        fund = Action(f"fund {step}", ledger.address, ledger.data("fund", lacking), _CALL_GAS)
        self.transactor.perform(fund, sponsor, lambda: not missing())


def created_address(sender: str, nonce: int) -> str:
    """Return the address of a contract created by a transaction of `sender` with this nonce."""
    return get_create_address(HexAddress(HexStr(sender)), Nonce(nonce))
