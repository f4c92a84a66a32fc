"""The run's files against the journal: what was frozen is what was logged, signed and saved."""

import json
from collections.abc import Mapping
from typing import Any

from fedmeta.chain.audit.files import LoggedRound, RunFiles, model_hash
from fedmeta.chain.audit.findings import DisagreementError, counted, require_equal
from fedmeta.chain.settle.journal import JournalView
from fedmeta.chain.settle.journal_rows import Contribution, FrozenRound
from fedmeta.chain.signing import recover
from fedmeta.chain.typed_data import update_digest

_LOG, _JOURNAL = "clients.jsonl", "the journal"


class RunChecks:
    """Checks of one run's files; each method returns what it saw, or raises where things disagree.

    Args:
        files: The run's files.
        journal: Its journal.
    """

    def __init__(self, files: RunFiles, journal: JournalView) -> None:
        self.files = files
        self.journal = journal
        self.frozen = journal.frozen

    def identity(self) -> str:
        """The journal is this run's."""
        campaign = self.journal.campaign
        if campaign is None:
            raise DisagreementError("the journal is empty")
        require_equal("the run", "id", (self.files.run, campaign.run), ("run.json", _JOURNAL))
        return f"run 0x{campaign.run.hex()[:16]}, campaign 0x{campaign.campaign.hex()[:16]}"

    def rounds(self) -> str:
        """What was frozen is what stands in the logs, to the byte."""
        number = 0
        for frozen in self.journal.rounds():
            logged = self.files.rounds.get(frozen.round)
            if logged is None:
                raise DisagreementError(f"round {frozen.round} is frozen and not in {_LOG}")
            _same_contributions(logged, frozen)
            where = f"round {frozen.round}"
            _same(where, "hash of its lines", logged.evidence, frozen.evidence)
            model = self.files.models.get(frozen.round)
            require_equal(where, "model", (model, frozen.model.hex()), ("metrics.jsonl", _JOURNAL))
            number += len(frozen.contributions)
        self._all_frozen()
        return f"{counted(self.frozen, 'round')}, {counted(number, 'contribution')}, as frozen"

    def _all_frozen(self) -> None:
        logged = max(self.files.rounds, default=0)
        if logged > self.frozen and self.files.info.get("status") == "finished":
            raise DisagreementError(
                f"rounds {self.frozen + 1} to {logged} are in {_LOG} and were never frozen"
            )

    def signatures(self) -> str:
        """Each update was signed by the account that is paid for it, and a client has one account."""
        number, accounts = 0, dict[int, str]()
        for frozen in self.journal.rounds():
            for c in frozen.contributions:
                where = f"round {frozen.round}, client {c.client}"
                known = accounts.setdefault(c.client, c.account)
                require_equal(where, "account", (c.account, known), (_JOURNAL, "earlier rounds"))
                digest = update_digest(self.files.run, frozen.round, c.tasks, c.update)
                signer = _signer(digest, c.signature)
                require_equal(where, "signer", (signer, c.account), ("the signature", "the account"))
                number += 1
        return f"{counted(number, 'update signature')} of {counted(len(accounts), 'account')}"

    def checkpoints(self) -> str:
        """Each kept checkpoint is the model that its round says."""
        paths = self.files.checkpoints()
        for round_, path in paths.items():
            stated = self.files.models.get(round_)
            if stated is None:
                raise DisagreementError(f"{path.name}: round {round_} is not in metrics.jsonl")
            found = model_hash(path).hex()
            require_equal(f"round {round_}", "model", (found, stated), (path.name, "metrics.jsonl"))
        rounds = ", ".join(str(round_) for round_ in sorted(paths))
        return f"{counted(len(paths), 'checkpoint')} (rounds {rounds})" if paths else "none is kept"


def _signer(digest: bytes, signature: bytes) -> str | None:
    try:
        return recover(digest, signature)
    except ValueError:
        return None


def _same_contributions(logged: LoggedRound, frozen: FrozenRound) -> None:
    rows = {int(row["client"]): row for row in logged.admitted}
    contributions = {c.client: c for c in frozen.contributions}
    for client in sorted(rows.keys() | contributions.keys()):
        where = f"round {frozen.round}, client {client}"
        if client not in rows:
            raise DisagreementError(f"{where} is in {_JOURNAL} and was not admitted in {_LOG}")
        if client not in contributions:
            raise DisagreementError(f"{where} was admitted in {_LOG} and is not in {_JOURNAL}")
        _same_row(where, rows[client], contributions[client])


def _same_row(where: str, row: Mapping[str, Any], frozen: Contribution) -> None:
    _same(where, "account", str(row.get("account")).lower(), frozen.account.lower())
    _same(where, "tasks", row.get("tasks"), frozen.tasks)
    _same(where, "update", row.get("update"), frozen.update.hex())
    _same(where, "signature", row.get("signature"), frozen.signature.hex())
    _same(where, "score", _number(row.get("score")), _number(frozen.score))
    _same(where, "reward", row.get("reward") or 0, frozen.reward)


def _same(where: str, name: str, logged: object, frozen: object) -> None:
    require_equal(where, name, (logged, frozen), (_LOG, _JOURNAL))


def _number(value: object) -> str | None:
    return None if value is None else json.dumps(float(str(value)))
