"""The ledger as a run sees it: rounds are frozen, and settle themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import Campaign, PoorAccountError
from fedmeta.chain.settle.rounds import FrozenRound
from fedmeta.chain.settle.settler import Hooks, Settler
from fedmeta.chain.settle.store import ignore
from fedmeta.chain.settle.terms import JOURNAL, UNITS, campaign_id, complete_restart, counter_of
from fedmeta.errors import RunError, UsageError


@dataclass(frozen=True)
class Settled:
    """How far a settlement came.

    Attributes:
        frozen: Last frozen round.
        recorded: Last round that the chain holds.
        awarded: Token units awarded up to the last frozen round.
        complete: Whether all was recorded, and what is claimable claimed if that was to be.
        waiting: Token units that could not be claimed yet, because their challenge delay runs.
        problem: Why not, in one line; None if complete.
        refused: Whether trying again cannot help.
    """

    frozen: int
    recorded: int
    awarded: int
    complete: bool
    waiting: int
    problem: str | None
    refused: bool


class Settlement:
    """Freezes a run's rounds, and settles them on the chain in the background.

    Nothing here waits for the chain but `check` and `finish`, and those only so long.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain.
        journal: In that folder.
        hooks: Seams for tests.
    """

    def __init__(self, folder: Path, options: ChainOptions, journal: Journal, hooks: Hooks) -> None:
        self.folder = folder
        self.options = options
        self.journal = journal
        self._settler = Settler(journal, options, folder, hooks)

    @classmethod
    def open(
        cls, folder: Path, options: ChainOptions, run: bytes, budget: int, hooks: Hooks | None = None
    ) -> "Settlement":
        """Open a run's settlement, or begin one; the chain need not be there.

        Args:
            folder: The run's ``chain`` folder; made if missing.
            options: Of the chain.
            run: The run's id, 32 bytes.
            budget: Token units in escrow.
            hooks: Seams for tests.

        Raises:
            UsageError: If another process has it open, it is another run's, or the campaign was
                deployed with a smaller budget.
            RunError: If the journal is damaged.
        """
        hooks = hooks or Hooks()
        complete_restart(folder)
        journal = Journal(folder / JOURNAL, hooks.step or ignore)
        try:
            _identify(journal, options, run, budget)
        except BaseException:
            journal.close()
            raise
        return cls(folder, options, journal, hooks)

    @property
    def frozen(self) -> int:
        """The last frozen round; 0 if there is none."""
        return self.journal.frozen

    @property
    def problem(self) -> str | None:
        """What delays or ended the settlement, in one line; None if nothing does."""
        error = self._settler.refusal or self._settler.delay
        return str(error) if error else None

    def freeze(self, rounds: Sequence[FrozenRound]) -> None:
        """Freeze finished rounds: on the disk when this returns, and never changed again.

        Args:
            rounds: In order, from the one after `frozen`; frozen ones may come again with equal content.

        Raises:
            RunError: If a frozen round would change, one is left out, or one pays more than the pot.
            ValueError: If a round is malformed.
        """
        cap = self.options.pot * UNITS
        for frozen in rounds:
            if frozen.awarded > cap:
                raise RunError(f"round {frozen.round} pays {frozen.awarded} units; its pot is {cap}")
        self.journal.freeze(rounds)
        self._settler.wake()

    def stake(self, accounts: Sequence[str]) -> None:
        """Ask that the sponsor puts down a stake for each account, once; needs `staking.enabled`."""
        self.journal.stake(accounts)
        self._settler.wake()

    def slash(self, account: str, evidence: bytes) -> None:
        """Ask that the committee takes its share of an account's stake, once in a campaign.

        Args:
            account: Which was staked.
            evidence: Hash of what shows the misbehaviour, 32 bytes, such as a round's evidence hash.
        """
        self.journal.accuse(account, evidence)
        self._settler.wake()

    def start(self) -> None:
        """Start to settle in the background."""
        self._settler.start()

    def check(self, seconds: float = 30.0) -> None:
        """Wait until the settler has sent something, or found that it cannot now or ever.

        Raises:
            FedmetaError: If what it found can never work: the wrong chain, a chain that was reset, keys
                that are missing. A chain that is merely away raises nothing.
            UsageError: If an account lacks funds, unless the chain is not `required`.
        """
        self._settler.tried.wait(seconds)
        if self._settler.refusal:
            raise self._settler.refusal
        if isinstance(self._settler.delay, PoorAccountError) and self.options.required:
            raise UsageError(str(self._settler.delay))

    def finish(self, seconds: float) -> Settled:
        """Record and claim what is left, for so long at most, and stop.

        Returns:
            How far it came; a chain that is down is said there, and is no error.
        """
        self._settler.finish(seconds)
        frozen, recorded = self.journal.frozen, self.journal.recorded
        problem = None if self._settler.done else self.problem or "there was no time to settle it all"
        return Settled(
            frozen=frozen,
            recorded=recorded,
            awarded=self.journal.awarded(frozen),
            complete=self._settler.done,
            waiting=self._settler.waiting,
            problem=problem,
            refused=self._settler.refusal is not None,
        )

    def close(self) -> None:
        """Stop, and close the journal. Twice is fine."""
        self._settler.stop()
        self.journal.close()

    def __enter__(self) -> "Settlement":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _identify(journal: Journal, options: ChainOptions, run: bytes, budget: int) -> None:
    """Make a new journal this run's, and refuse another run's.

    Raises:
        UsageError: If it is another's, or its campaign's budget is too small now.
    """
    found, cap = journal.campaign, options.pot * UNITS
    if found is None:
        counter = counter_of(journal.path.parent)
        journal.found(Campaign(campaign_id(run, counter), run, cap, budget))
        return
    if found.run != run:
        raise UsageError(f"{journal.path} is the journal of another run")
    if found.round_cap != cap:
        raise UsageError(
            f"chain.pot: the campaign pays {found.round_cap / UNITS:g} tokens a round, not {options.pot}"
        )
    if budget > found.budget and found.terms is not None:
        raise UsageError(
            f"chain.budget: the campaign was deployed with {found.budget / UNITS:g} tokens and needs "
            f"{budget / UNITS:g} now: keep the rounds, or start over with --new-campaign"
        )
    if found.terms is None and budget != found.budget:
        journal.note("budget", budget=budget)
