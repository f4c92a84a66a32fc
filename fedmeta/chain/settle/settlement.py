"""A run's settlement: freezes rounds, and records and pays them on the chain in a thread."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.contracts import NoCodeError
from fedmeta.chain.errors import ChainDownError, ChainError, NotMinedError, PoorAccountError
from fedmeta.chain.keys import open_keys
from fedmeta.chain.options import UNITS, ChainOptions
from fedmeta.chain.settle.campaign import JOURNAL, complete_restart, identify
from fedmeta.chain.settle.claims import claim_all
from fedmeta.chain.settle.deployment import Deployed
from fedmeta.chain.settle.journal import Journal
from fedmeta.chain.settle.journal_rows import FrozenRound
from fedmeta.chain.settle.recording import Recording
from fedmeta.chain.settle.staking import Stakes
from fedmeta.chain.settle.store import ignore
from fedmeta.errors import FedmetaError, RunError, UsageError

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 15.0
LONGEST_PAUSE_AT_END = 1.0
GIVE_UP_AFTER = 8.0
"""Seconds without any success after which a finished run stops waiting for its chain."""
LOOK_EVERY = 5.0
"""Seconds between an idle settlement's checks that the chain still holds its records."""
FAILURES_BEFORE_RECONNECT = 3
SHARE = 0.25
"""Largest share of one processor's time for the thread during training."""
_LONG = 0.1


class StoppedError(Exception):
    """Raised in the thread when it must stop."""


@dataclass(frozen=True)
class Hooks:
    """Hooks into the settlement.

    Attributes:
        connect: Opens the chain.
        step: Called before and after each durable step of the journal.
        note: Called with one line for each problem that delays or ends the settlement.
    """

    connect: Callable[[ChainOptions, Path], Chain] = open_chain
    step: Callable[[str], None] = ignore
    note: Callable[[str], None] = ignore


@dataclass(frozen=True)
class Settled:
    """Result of a settlement.

    Attributes:
        frozen: Last frozen round.
        recorded: Last round on the chain.
        awarded: Token units awarded up to the last frozen round.
        complete: Whether all rounds are recorded, and claimable awards claimed if configured.
        waiting: Token units not claimable yet, during their challenge delay.
        problem: Why it is incomplete, in one line; None if complete.
        refused: Whether a retry cannot help.
    """

    frozen: int
    recorded: int
    awarded: int
    complete: bool
    waiting: int
    problem: str | None
    refused: bool


class Settlement(AbstractContextManager["Settlement"]):
    """Freezes a run's rounds; a thread connects, deploys, records and claims.

    Only `check` and `finish` wait for the chain, for a limited time. The chain's failures are not raised
    in the caller's thread: they are retried, with growing pauses.

    Args:
        folder: The run's ``chain`` folder; created if missing.
        options: Options of the chain, which may be down.
        run: The run's id, 32 bytes.
        budget: Token units in escrow.
        hooks: For tests and messages.

    Raises:
        UsageError: If another process has it open, it is another run's, or the campaign was deployed
            with a smaller budget.
        RunError: If the journal is damaged.
    """

    def __init__(
        self, folder: Path, options: ChainOptions, run: bytes, budget: int, hooks: Hooks = Hooks()
    ) -> None:
        self.folder = folder
        self.options = options
        self.hooks = hooks
        complete_restart(folder)
        self.journal = Journal(folder / JOURNAL, hooks.step)
        try:
            identify(self.journal, options, run, budget)
        except BaseException:
            self.journal.close()
            raise
        self._delay: ChainError | None = None
        self._refusal: FedmetaError | None = None
        self._done = False
        self._waiting = 0
        self._staked: tuple[Deployed, dict[str, bytes | None]] | None = None
        # Set once it is known whether the chain is up and accepts transactions.
        self._tried = threading.Event()
        self._draining = threading.Event()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._until: float | None = None
        self._failing_since: float | None = None
        # A daemon thread, so a hanging node does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="fedmeta-settlement", daemon=True)

    @property
    def frozen(self) -> int:
        """The last frozen round; 0 if there is none."""
        return self.journal.frozen

    @property
    def problem(self) -> str | None:
        """What delays or ended the settlement, in one line, if anything does."""
        error = self._refusal or self._delay
        return str(error) if error else None

    def freeze(self, rounds: Sequence[FrozenRound]) -> None:
        """Freeze finished rounds in order, durably; frozen rounds may be repeated unchanged.

        Raises:
            RunError: If a frozen round would change, one is skipped, or one pays more than the pot.
            ValueError: If a round is malformed.
        """
        cap = self.options.pot * UNITS
        for frozen in rounds:
            if frozen.reward > cap:
                raise RunError(f"round {frozen.round} pays {frozen.reward} units; its pot is {cap}")
        self.journal.freeze(rounds)
        self._wake.set()

    def stake(self, accounts: Sequence[str]) -> None:
        """Request a stake for each account, paid once by the sponsor; needs `staking.enabled`."""
        self.journal.stake(accounts)
        self._wake.set()

    def slash(self, account: str, evidence: bytes) -> None:
        """Request that the committee slashes an account's stake, once in a campaign.

        `evidence` is a hash of 32 bytes, such as a round's evidence hash.
        """
        self.journal.accuse(account, evidence)
        self._wake.set()

    def start(self) -> None:
        """Start settling in the background."""
        self._thread.start()

    def check(self, seconds: float = 30.0) -> None:
        """Wait until the thread has sent a transaction or found that it cannot.

        Raises:
            FedmetaError: If a retry cannot help: the wrong chain, a reset chain, missing keys. A chain
                that is merely down raises nothing.
            UsageError: If an account lacks funds, unless the chain is not `required`.
        """
        self._tried.wait(seconds)
        if self._refusal:
            raise self._refusal
        if isinstance(self._delay, PoorAccountError) and self.options.required:
            raise UsageError(str(self._delay))

    def finish(self, seconds: float) -> Settled:
        """Record and claim what is left, for at most `seconds`, and stop."""
        self._until = time.monotonic() + seconds
        self._draining.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        self._end()
        frozen, recorded = self.journal.frozen, self.journal.recorded
        problem = None if self._done else self.problem or "there was no time to settle all rounds"
        return Settled(
            frozen=frozen,
            recorded=recorded,
            awarded=self.journal.awarded(frozen),
            complete=self._done,
            waiting=self._waiting,
            problem=problem,
            refused=self._refusal is not None,
        )

    def close(self) -> None:
        """Stop, and close the journal. May be called twice."""
        self._end()
        self.journal.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        """Stop the thread after its current request."""
        for event in (self._stop, self._draining, self._wake):
            event.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        try:
            self._settle()
        except StoppedError:
            return
        except FedmetaError as error:
            self._refusal = error
            self.hooks.note(str(error))
        except Exception as error:
            # The thread's failure would go unnoticed: `finish` reports it.
            if not self._stop.is_set():
                self._refusal = FedmetaError(f"settlement failed: {type(error).__name__}: {error}")
                self.hooks.note(str(self._refusal))
        finally:
            self._tried.set()

    def _settle(self) -> None:
        """Connect, and settle; retry what the chain fails, and connect again if the node stays down."""
        recording, failures = None, 0
        with ExitStack() as opened:
            while not self._done:
                try:
                    if recording is None:
                        chain = opened.enter_context(self.hooks.connect(self.options, self.folder))
                        keys = open_keys(self.options, chain.chain_id)
                        recording = Recording(chain, self.journal, self.options, keys, self._sleep)
                    self._step(recording)
                    failures, self._delay, self._failing_since = 0, None, None
                except ChainError as error:
                    self._delayed(error)
                    failures += 1
                    if recording and isinstance(error, NoCodeError):
                        recording.forget()
                    if isinstance(error, ChainDownError) and failures > FAILURES_BEFORE_RECONNECT:
                        opened.close()
                        recording = None
                    self._sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        """Return the seconds until the next attempt: twice as many after each failure, up to a limit."""
        longest = LONGEST_PAUSE_AT_END if self._draining.is_set() else LONGEST_PAUSE
        return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 20), longest)

    def _step(self, recording: Recording) -> None:
        """Perform the next step."""
        began, draining = time.thread_time(), self._draining.is_set()
        # Cleared first, so rounds frozen from here on wake it again.
        self._wake.clear()
        self._stake(recording)
        recorded = recording.step(draining)
        self._tried.set()
        if recorded and not draining:
            # Python threads share one processor, and training must get most of it.
            self._stop.wait(min((time.thread_time() - began) * (1 / SHARE - 1), 0.5))
            self._check()
        elif not recorded and draining:
            if self.options.claim == "end":
                self._waiting = claim_all(recording).waiting
            self._done = True
        elif not recorded:
            self._wake.wait(LOOK_EVERY)
            self._check()

    def _stake(self, recording: Recording) -> None:
        """Bring the stakes up to date if some are new, or the deployment is."""
        wanted = (recording.deployed, self.journal.stakes())
        if recording.deployed.registry is not None and wanted != self._staked:
            Stakes(recording).settle(wanted[1])
            self._staked = wanted

    def _sleep(self, seconds: float) -> None:
        """Sleep, unless the thread must stop."""
        if seconds > _LONG:
            # A transaction was accepted, but its block is slow.
            self._tried.set()
        left = seconds if self._until is None else min(seconds, self._until - time.monotonic())
        # Start of draining interrupts a long pause.
        event = self._stop if self._draining.is_set() else self._draining
        event.wait(max(0.0, left))
        self._check()

    def _check(self) -> None:
        if self._stop.is_set() or (self._until is not None and time.monotonic() >= self._until):
            raise StoppedError

    def _delayed(self, error: ChainError) -> None:
        self._tried.set()
        now = time.monotonic()
        if self._failing_since is None or not self._draining.is_set():
            self._failing_since = now
        if not isinstance(error, NotMinedError) and now - self._failing_since > GIVE_UP_AFTER:
            self._stop.set()
        if str(self._delay) != str(error):
            self.hooks.note(str(error))
        self._delay = error
