"""Deploys a campaign's contracts and puts its budget into escrow; safe to repeat at any point."""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path

from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.contracts import Contract, NoCodeError, load_artifact
from fedmeta.chain.errors import PoorAccountError, WrongCampaignError
from fedmeta.chain.hashing import created_address, keccak
from fedmeta.chain.keys import Keys, open_keys
from fedmeta.chain.options import UNITS, ChainOptions
from fedmeta.chain.settle.campaign import bind, campaign_id, check_chain
from fedmeta.chain.settle.journal import Journal, JournalView
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.chain.settle.terms import (
    LEDGER_VIEWS,
    Addresses,
    Terms,
    check_deployed,
    difference,
    expected_terms,
    our_contract,
)
from fedmeta.chain.settle.transactions import Action, Transactor, Wait
from fedmeta.errors import UsageError
from fedmeta.files import write_atomically

LEAST_SUPPLY = 10**9 * UNITS
_CALL_GAS = 150_000
_COLUMNS = {"FedToken": "token", "RewardLedger": "ledger", "ParticipantRegistry": "registry"}
"""Journal column of each contract's address."""


@dataclass(frozen=True)
class Deployed:
    """The contracts of a campaign, and the ledger's terms; there is no registry without staking."""

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


class Deployment:
    """A journal's campaign on a chain, with the terms that a config and keys give.

    A new journal is bound to the chain. `wait` waits for a block.
    """

    def __init__(
        self, chain: Chain, journal: Journal, options: ChainOptions, keys: Keys, wait: Wait = time.sleep
    ) -> None:
        bind(journal, chain)
        self.chain = chain
        self.journal = journal
        self.options = options
        self.keys = keys
        self.transactor = Transactor(chain, journal, wait)

    @cached_property
    def deployed(self) -> Deployed:
        """The contracts, deployed and funded if necessary; nothing is done twice.

        Raises:
            WrongCampaignError: If the existing campaign has other terms or code.
            PoorAccountError: If the sponsor has too few tokens.
            ChainError: See `Transactor.perform`; call again later.
        """
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
        views = {"name": name, "totalSupply": supply}
        token = self._created("FedToken", (name, "FED", supply), views)
        struct = terms.struct(token.address)
        ledger = self._created("RewardLedger", (struct,), dict(zip(LEDGER_VIEWS, struct, strict=True)))
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
        """Use the campaign in the addresses file, if it is the one that the config asks for."""
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
        views = {"ledger": ledger, "stake": stake, "slashCap": cap, "unbonding": staking.unbonding}
        return self._created("ParticipantRegistry", tuple(views.values()), views)

    def _created(
        self, name: str, arguments: tuple[object, ...], views: Mapping[str, object]
    ) -> Contract:
        """Return a contract that answers with `views`; create it unless we did so before."""
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


def deploy_to_file(
    path: Path, options: ChainOptions, run: bytes, budget: int, folder: Path
) -> tuple[Addresses, bool]:
    """Deploy a campaign and write its addresses, unless this was done before.

    Safe to kill at any point and run again: until the file is written, a journal beside it records the
    transactions. An existing file is only checked against the chain and the options.

    Args:
        path: The addresses file.
        options: Options of the chain, including the terms of the campaign.
        run: Id of the campaign's run, 32 bytes.
        budget: Token units in escrow.
        folder: See `open_chain`.

    Returns:
        The addresses, and whether they are new.

    Raises:
        UsageError: No node, missing keys, an account without funds, or a file of another chain, another
            version's contracts, or a campaign with other terms.
        ChainError: If the node fails meanwhile; run it again.
    """
    campaign = Campaign(campaign_id(run), run, options.pot * UNITS, budget)
    with open_chain(options, folder) as chain:
        keys = open_keys(options, chain.chain_id)
        if path.exists():
            addresses, _ = check_deployed(path, chain, options, keys, campaign)
            ledger = Contract(chain, load_artifact("RewardLedger"), addresses.ledger)
            if ledger.call("funded") < budget:
                tokens = f"{budget / UNITS:g} tokens"
                raise WrongCampaignError(f"{path}: the escrow holds less than the budget of {tokens}")
            return addresses, False
        beside = journal_beside(path)
        with closing(Journal(beside)) as journal:
            addresses = _deploy_new(journal, campaign, options, keys, chain)
        try:
            write_atomically(path, addresses.to_json())
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
    for leftover in path.parent.glob(beside.name + "*"):
        leftover.unlink()
    return addresses, True


def journal_beside(path: Path) -> Path:
    """Return the path of a deployment's journal, kept until its addresses file is written."""
    return path.with_name(path.name + ".journal")


def _deploy_new(
    journal: Journal, campaign: Campaign, options: ChainOptions, keys: Keys, chain: Chain
) -> Addresses:
    found = journal.campaign
    if found is None:
        journal.found(campaign)
    elif campaign != Campaign(found.campaign, found.run, found.round_cap, found.budget):
        raise WrongCampaignError(
            f"{journal.path} is an unfinished deployment with other settings: "
            "finish it with those, or remove the file"
        )
    try:
        deployed = Deployment(chain, journal, options, keys).deployed
    except PoorAccountError as error:
        raise UsageError(str(error)) from None
    return Addresses(
        chain_id=chain.chain_id,
        genesis=f"0x{chain.genesis.hex()}",
        run_id=f"0x{campaign.run.hex()}",
        campaign=f"0x{campaign.campaign.hex()}",
        token=deployed.token.address,
        ledger=deployed.ledger.address,
        registry=deployed.registry.address if deployed.registry else None,
        block=journal.founded.block,
        code={c.artifact.name: f"0x{c.artifact.code_hash.hex()}" for c in deployed.contracts},
    )
