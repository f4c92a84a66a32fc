"""The rows of a run's logs: one typed reader and one writer for each of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, cast

from fedmeta.errors import UsageError
from fedmeta.experiment.format_one import code_of_reason
from fedmeta.federation import ClientRecord, RoundRecord, StepResult
from fedmeta.federation.refusal import Fault, RefusalCode, kind_of
from fedmeta.files import finite, from_later, parse_json, read_lines, to_json

FORMAT = 2
"""Of the logs that this version writes. Format 1, in which refusals have no codes, is read as well."""


class ClientRow(TypedDict, total=False):
    """A client's part in a round; the meanings are those of `ClientRecord`.

    A run without a chain has no ``account``, ``update`` and ``signature``, one without an incentive rule
    no ``score`` and ``reward``.
    """

    round: int
    client: int
    tasks: int
    norm: float | None
    admitted: bool
    code: RefusalCode | None
    reason: str | None
    loss: float | None
    accuracy: float | None
    outcome: str
    account: str | None
    update: str | None
    signature: str | None
    score: float | None
    reward: int | None


class MetricsRow(TypedDict, total=False):
    """A round; the meanings are those of `RoundRecord`. ``model`` is there with a chain alone."""

    round: int
    skipped: bool
    cohort: int
    admitted: int
    quarantined: int
    late: int
    lost: int
    surplus: int
    tasks: int
    loss: float | None
    loss_before: float | None
    accuracy: float | None
    accuracy_before: float | None
    update_norm: float | None
    lr: float | None
    bytes_down: int
    bytes_up: int
    evaluation: list[dict[str, Any]] | None
    test: list[dict[str, Any]] | None
    model: str
    seconds: float


class TestedRow(TypedDict, total=False):
    """A test client, and its results by adaptation step, each a `StepResult`."""

    client: int
    steps: list[dict[str, Any]]


Row = TypeVar("Row", ClientRow, MetricsRow, TestedRow)
_LARGEST = 2**53
MOST_ROWS = 300_000
"""Rows of a stranger's log that are shown; those of a thousand rounds of three hundred clients."""
MOST_BYTES = 1 << 28
"""Bytes of a stranger's log that are shown."""
_MOST_TESTED = 24_000_000
_VALUES_OF_A_LIST = 8


@dataclass
class Limit:
    """How much of a log, or of several, may still be read.

    Attributes:
        values: Numbers, texts and names in lines; a list or table counts as the memory that it takes.
        rows: Lines.
        size: Bytes.
    """

    values: int
    rows: int = MOST_ROWS
    size: int = MOST_BYTES

    def take(self, line: bytes) -> bool:
        """Count a line; False: it is more than may be read."""
        lists = line.count(b"{") + line.count(b"[")
        self.values -= line.count(b",") + _VALUES_OF_A_LIST * lists
        self.rows -= 1
        self.size -= len(line)
        return self.values >= 0 and self.rows >= 0 and self.size >= 0

    @property
    def left(self) -> bool:
        """Whether no more was read than may be."""
        return self.values >= 0 and self.rows >= 0 and self.size >= 0


@dataclass(frozen=True)
class LogFile(Generic[Row]):
    """A file of JSON lines.

    Attributes:
        name: Of the file.
        key: The count that tells rows apart; what has none is no row.
        columns: What every row of a run has, and of which type.
        adapt: Brings a row of an earlier format to this one's.
        most: Values that it may have to be read whole; None: any number, as one's own run may be long.
    """

    name: str
    key: str
    columns: Mapping[str, type]
    adapt: Callable[[Row], None] = lambda _: None
    most: int | None = None

    def parse(self, line: bytes) -> Row:
        """Return the row of a line, of which only the key must be there.

        Raises:
            ValueError: If it is not a row.
        """
        row = parse_json(line)
        if not isinstance(row, dict) or not _is_count(row.get(self.key)):
            raise ValueError
        self.adapt(cast(Row, row))
        return cast(Row, row)

    def read(self, path: Path) -> list[Row]:
        """Return all rows of a log in a folder; a last line that was cut off is left out.

        Raises:
            UsageError: If the file is missing, or a row is damaged or lacks a column; it is named.
        """
        rows: list[Row] = []
        limit = Limit(self.most or 0)
        try:
            for line in read_lines(path / self.name):
                if self.most and not limit.take(line):
                    break
                row = self.parse(line)
                if not all(isinstance(row.get(key), kind) for key, kind in self.columns.items()):
                    raise ValueError
                rows.append(row)
        except OSError as error:
            raise UsageError(f"{path / self.name}: {error.strerror}") from None
        except ValueError:
            raise UsageError(f"{path / self.name}: line {len(rows) + 1} is damaged") from None
        if self.most and not limit.left:
            raise UsageError(f"{path / self.name} is too long after line {len(rows):,}")
        return rows

    @staticmethod
    def write(rows: Sequence[Row]) -> bytes:
        """Return rows as lines."""
        return b"".join(to_json(row).encode() + b"\n" for row in rows)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def later_format(info: Mapping[str, Any]) -> str | None:
    """Return why a run's logs cannot be read, in one line, if a later version wrote them.

    Args:
        info: What ``run.json`` says.
    """
    why = from_later(info, "format", FORMAT)
    return why and f"its logs are {why}; use the version that wrote them"


def begun_with_codes(folder: Path) -> bool:
    """Tell whether refusals have codes in a run's ``clients.jsonl``, as they have in a new run's.

    A run goes on in the format that it was begun in: a ledger may hold hashes of lines that are to be
    written again, to the byte.
    """
    try:
        first = parse_json(next(read_lines(folder / CLIENTS.name)))
    except (OSError, ValueError, StopIteration):
        return True
    return not isinstance(first, dict) or "code" in first


def client_row(client: ClientRecord, *, coded: bool, signed: bool, paid: bool) -> ClientRow:
    """Return a client's row.

    Args:
        client: Its part in a round.
        coded: Whether refusals have codes in this run.
        signed: Whether replies are signed in this run.
        paid: Whether clients are paid in this run.
    """
    refusal, proof, award = client.refusal, client.signed, client.award
    row = ClientRow(
        round=client.round,
        client=client.client,
        tasks=client.tasks,
        norm=client.norm,
        admitted=client.admitted,
        code=refusal.code if refusal else None,
        reason=refusal.reason if refusal else None,
        loss=client.loss,
        accuracy=client.accuracy,
        outcome=client.outcome,
    )
    if not coded:
        del row["code"]
    if signed:
        row["account"] = proof.account if proof else None
        row["update"] = proof.digest.hex() if proof else None
        row["signature"] = proof.signature.hex() if proof else None
    if paid:
        row["score"] = award.score if award else None
        row["reward"] = award.reward if award else None
    return row


def metrics_row(record: RoundRecord) -> MetricsRow:
    """Return a round's row, without ``model`` and ``seconds``."""
    row = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "clients"}
    for name in ("evaluation", "test"):
        if row[name] is not None:
            row[name] = [asdict(step) for step in row[name]]
    return cast(MetricsRow, finite(row))


def tested_rows(results: Mapping[int, Sequence[StepResult]]) -> list[TestedRow]:
    """Return the rows of the test clients, by their ids."""
    return [
        TestedRow(client=client, steps=[asdict(step) for step in steps])
        for client, steps in results.items()
    ]


_CODES = {code.value: code for code in RefusalCode}


def _with_code(row: ClientRow) -> None:
    if row.get("admitted") is True:
        row["code"] = None
        return
    code, reason = row.get("code"), row.get("reason")
    if isinstance(code, str):
        row["code"] = _CODES.get(code, RefusalCode.UNKNOWN)
    elif isinstance(reason, str):
        row["code"] = code_of_reason(reason[:300])
    else:
        row["code"] = RefusalCode.OTHER


def kind(row: ClientRow) -> str:
    """Return why a client was refused, without what differs from client to client and round to round."""
    reason = row.get("reason")
    return kind_of(row["code"] or RefusalCode.UNKNOWN, str(reason)) if reason else "no reason given"


def at_fault(row: ClientRow) -> bool:
    """Tell whether a client was refused for what an honest one does not send."""
    code = row["code"]
    return code is not None and code.fault is Fault.CLIENT


METRICS = LogFile[MetricsRow](
    "metrics.jsonl",
    "round",
    dict.fromkeys(("round", "tasks", "cohort", "admitted", "bytes_down", "skipped"), int),
)
CLIENTS = LogFile[ClientRow](
    "clients.jsonl",
    "client",
    dict.fromkeys(("round", "client", "tasks", "admitted"), int),
    _with_code,
)
TEST = LogFile[TestedRow]("test.jsonl", "client", {"client": int, "steps": list}, most=_MOST_TESTED)
LOGS = (METRICS.name, CLIENTS.name)
"""The logs that grow with the rounds."""
