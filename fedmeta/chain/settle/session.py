"""One connection of a settlement to its chain."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from web3.exceptions import BlockNotFound

from fedmeta.chain.chain import Chain, open_chain, require_rules
from fedmeta.chain.contracts import NoCodeError
from fedmeta.chain.errors import RpcError
from fedmeta.chain.keys import Keys, open_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.addresses import WrongCampaignError
from fedmeta.chain.settle.claims import Claims
from fedmeta.chain.settle.deployment import Deployment
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign, Stake
from fedmeta.chain.settle.recording import Recording
from fedmeta.chain.settle.staking import Stakes
from fedmeta.chain.settle.transactions import Transactor

FINAL_AFTER = 64
"""Blocks on top of a transaction after which it counts as final where a node names no final block."""

_LOOK_FOR_FINAL_EVERY = 10.0


@dataclass(frozen=True)
class SessionSetup:
    """What a session works with, but for its chain.

    Attributes:
        journal: Open for writing.
        options: Of the chain.
        folder: Where a chain of ours keeps its state.
        connect: Opens the chain.
        wait: Sleeps for so many seconds; raises what ends the session early.
    """

    journal: Journal
    options: ChainOptions
    folder: Path
    connect: Callable[[ChainOptions, Path], Chain] = open_chain
    wait: Callable[[float], None] = time.sleep


@contextmanager
def open_session(site: SessionSetup) -> Iterator["Session"]:
    """Connect to the chain of a settlement.

    Raises:
        WrongCampaignError: If the chain is not the one of the journal.
        UsageError: If keys are missing.
        ChainError: If the node is away.
    """
    with site.connect(site.options, site.folder) as chain:
        yield Session(chain, site)


class Session:
    """What a settlement does on one connected chain.

    Args:
        chain: Connected.
        site: The journal, the options, and the waiting.
    """

    def __init__(self, chain: Chain, site: SessionSetup) -> None:
        self.chain = chain
        self.journal = site.journal
        self.options = site.options
        self.keys = self._bind()
        self.transactor = Transactor(chain, self.journal, site.wait)
        self._recording: Recording | None = None
        self._staked: list[Stake] = []
        self._looked = 0.0

    def _bind(self) -> Keys:
        bind(self.journal, self.chain)
        campaign = self.journal.campaign
        if campaign is None:
            raise ValueError("a journal without a campaign")
        return open_keys(self.options, self.chain.chain_id)

    @property
    def recording(self) -> Recording:
        """What records on the campaign's ledger, which is deployed by then."""
        if self._recording is None:
            deployed = Deployment(self.transactor, self.keys, self.options).ensure()
            self._recording = Recording(deployed, self.transactor, self.keys, self.options.batch)
            # What was staked is looked at again: the deployment may be another one.
            self._staked = []
        return self._recording

    def _stake(self, recording: Recording) -> None:
        stakes, deployed = self.journal.stakes(), recording.deployed
        if deployed.registry is not None and stakes != self._staked:
            Stakes(recording, deployed.token, deployed.registry).settle(stakes)
            self._staked = stakes

    def record(self, draining: bool) -> bool:
        """Record the next rounds; return whether there were any."""
        try:
            recording = self.recording
            self._stake(recording)
            recorded = recording.step(draining)
        except NoCodeError:
            # The chain went back to before the deployment.
            self._recording = None
            raise
        if time.monotonic() - self._looked > _LOOK_FOR_FINAL_EVERY:
            self._looked = time.monotonic()
            note_final(self.chain, self.journal)
        return recorded

    def claim(self) -> int:
        """Claim for everybody, if that is what the config says; return the units that have to wait."""
        return Claims(self.recording).claim().waiting if self.options.claim == "end" else 0


def bind(journal: Journal, chain: Chain) -> None:
    """Tie a journal to the chain that it is used with first, and to no other ever after.

    Raises:
        WrongCampaignError: If it is tied to another chain.
        UsageError: If nothing is deployed yet, and the contracts cannot run there.
    """
    campaign = journal.campaign
    if campaign is None or campaign.ledger is None:
        require_rules(chain)
    if campaign is None or campaign.genesis is None:
        journal.note("bind", chain_id=chain.chain_id, genesis=chain.genesis)
    else:
        check_chain(journal.path, campaign, chain)


def check_chain(path: Path, campaign: Campaign, chain: Chain) -> None:
    """Refuse a chain that is not the one of a campaign.

    Raises:
        WrongCampaignError: Naming both.
    """
    if campaign.chain_id != chain.chain_id:
        raise WrongCampaignError(
            f"{path} is about chain {campaign.chain_id}, and the node has chain {chain.chain_id}: "
            "point at the right one, or start over with --new-campaign"
        )
    genesis = campaign.genesis or b""
    if genesis != chain.genesis:
        raise WrongCampaignError(
            f"the chain was reset (its genesis is 0x{chain.genesis.hex()[:8]}, in {path} "
            f"0x{genesis.hex()[:8]}): nothing is paid again; start over with --new-campaign"
        )


def note_final(chain: Chain, journal: Journal) -> None:
    """Mark what is too deep to be taken back, and send back to ``sent`` what was taken back."""
    mined = [t for t in journal.pending() if t.state == "mined" and t.block_number is not None]
    if not mined:
        return
    deepest = _final_block(chain)
    for transaction in mined:
        receipt = chain.receipt(transaction.hash)
        if receipt is None:
            journal.mark(transaction, "sent")
        elif bytes(receipt["blockHash"]) != transaction.block_hash:
            journal.mined(transaction, bytes(receipt["blockHash"]), receipt["blockNumber"])
        elif receipt["blockNumber"] <= deepest:
            journal.mark(transaction, "final")


def _final_block(chain: Chain) -> int:
    newest = chain.eth.block_number
    try:
        return min(chain.eth.get_block("finalized")["number"], newest)
    except (RpcError, BlockNotFound):
        return newest - FINAL_AFTER
