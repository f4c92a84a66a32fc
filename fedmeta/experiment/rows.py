"""Typed reading and writing of a run's log files, row by row."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, cast

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from fedmeta.errors import ConfigError, UsageError
from fedmeta.experiment.format_one import code_of_reason
from fedmeta.federation.records import INDUCTIVE, ClientRecord, RoundRecord, StepResult
from fedmeta.federation.refusal import Fault, RefusalCode, kind_of
from fedmeta.files import finite, from_later, parse_json, read_lines, to_json
from fedmeta.tasks.measure import LOSS, Measure

if TYPE_CHECKING:
    from fedmeta.tasks import Objective

FORMAT = 2
"""Format of the logs that this version writes; format 1, without codes of refusals, is read too."""


MEASURES = "measures"
"""Key of a run's measures in ``run.json``."""
_FIRST: Mapping[str, Measure] = {"accuracy": Measure(True, 0.0, 1.0), LOSS: Measure()}
"""The measures of runs that do not record theirs, as far as they have them; the main one first."""
_MOST_MEASURES = 20
_MEASURE = re.compile(r"[A-Za-z][\w@.+-]{0,39}")


def measures_entry(objective: "Objective") -> list[dict[str, Any]]:
    """Return the entry of ``run.json`` about a run's measures, the main one first.

    Raises:
        ConfigError: If a name is that of another column, or not a valid name.
    """
    taken = {*MetricsRow.__annotations__, *ClientRow.__annotations__, *_STEP} - {"accuracy"}
    for name in objective.measures:
        if name in taken or not _MEASURE.fullmatch(name) or name.endswith(_ENDINGS):
            raise ConfigError(
                f"objective '{objective.spec.objective}': a measure cannot be named '{name}': it is the "
                "name of another column, or not a valid name such as 'ndcg@5'"
            )
    named = {**objective.measures, LOSS: objective.all_measures[LOSS]}
    return [{"name": name, **asdict(measure)} for name, measure in named.items()]


def measures_of(info: Mapping[str, Any]) -> dict[str, Measure]:
    """Return the measures of a run by name, the main one first, as its ``run.json`` has them."""
    found = info.get(MEASURES)
    try:
        read = _NAMED.validate_python(found)
    except ValidationError:
        return dict(_FIRST)
    named = {one.name: Measure(one.higher_is_better, one.low, one.high) for one in read}
    sound = LOSS in named and len(named) <= _MOST_MEASURES and all(map(_MEASURE.fullmatch, named))
    return named if sound else dict(_FIRST)


class Scale(BaseModel):
    """Direction and range of a measure in a file; see `Measure`."""

    higher_is_better: bool
    low: FiniteFloat | None
    high: FiniteFloat | None


class _NamedMeasure(Scale):
    name: str


_NAMED = TypeAdapter(list[_NamedMeasure])


def scale_of(measure: str, scale: object) -> Measure:
    """Return the direction and range of a comparison's measure, from its ``compare.json``."""
    try:
        read = Scale.model_validate(scale)
    except ValidationError:
        return _FIRST.get(measure, Measure())
    return Measure(read.higher_is_better, read.low, read.high)


def half_of(field: str) -> str:
    """Return the name of the column with half the confidence interval of a column of a result."""
    if field.startswith(INDUCTIVE):
        return f"{INDUCTIVE}ci95"
    # A name from when accuracy was the only possible main measure.
    return "ci95" if field == "accuracy" else f"{field}_ci95"


_STEP = ("step", "ci95", "tasks_ci95", "diverged", "diverged_clients", "finite_loss", "clients_asked")
_ENDINGS = ("_before", "_ci95")


class ClientRow(TypedDict, total=False):
    """A client's part in a round; the meanings are those of `ClientRecord`.

    Measures other than loss and accuracy have columns with their names.

    A run without a chain has no ``account``, ``update`` and ``signature``; one without an incentive rule
    has no ``score`` and ``reward``.
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
    """A round; the meanings are those of `RoundRecord`. Only a run with a chain has ``model``.

    Measures other than loss and accuracy have columns with their names.
    """

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
"""Most rows to show of an untrusted log: a thousand rounds of three hundred clients."""
MOST_BYTES = 1 << 28
"""Most bytes to show of an untrusted log."""
_MOST_TESTED = 24_000_000
_VALUES_OF_A_LIST = 8


@dataclass
class Limit:
    """How much of a log, or of several, may still be read.

    Attributes:
        values: Remaining numbers, texts and names; a list or table counts by the memory that it takes.
        rows: Remaining lines.
        size: Remaining bytes.
    """

    values: int
    rows: int = MOST_ROWS
    size: int = MOST_BYTES

    def take(self, line: bytes) -> bool:
        """Count a line; return False if it exceeds the limit."""
        lists = line.count(b"{") + line.count(b"[")
        self.values -= line.count(b",") + _VALUES_OF_A_LIST * lists
        self.rows -= 1
        self.size -= len(line)
        return self.left

    @property
    def left(self) -> bool:
        """Whether the limit has not been exceeded."""
        return self.values >= 0 and self.rows >= 0 and self.size >= 0


@dataclass(frozen=True)
class LogFile(Generic[Row]):
    """A file of JSON lines.

    Attributes:
        name: Name of the file.
        key: The integer column that every row must have.
        columns: Columns of every row of a run, with their types.
        adapt: Converts a row from an earlier format.
        most: Most values of a file that is read at once; None: no limit, as the user's run may be long.
    """

    name: str
    key: str
    columns: Mapping[str, type]
    adapt: Callable[[Row], None] = lambda _: None
    most: int | None = None

    def parse(self, line: bytes) -> Row:
        """Parse a line, which needs only the key.

        Raises:
            ValueError: If it is not a row.
        """
        row = parse_json(line)
        if not isinstance(row, dict) or not _is_count(row.get(self.key)):
            raise ValueError
        self.adapt(cast(Row, row))
        return cast(Row, row)

    def read(self, path: Path) -> list[Row]:
        """Return all rows of a log in a folder, without an incomplete last line.

        Raises:
            UsageError: If the file is missing, or a row is damaged or lacks a column; the message names
                it.
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
    """Return a one-line reason why a run's logs cannot be read, if a later version wrote them.

    Args:
        info: The entries of ``run.json``.
    """
    why = from_later(info, "format", FORMAT)
    return why and f"its logs are {why}; use the version that wrote them"


def begun_with_codes(folder: Path) -> bool:
    """Return whether refusals have codes in a run's ``clients.jsonl``, as in a new run.

    A resumed run keeps its format, as a ledger may have hashes of lines that must be written again
    byte for byte.
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
    return cast(ClientRow, _with_others(row, client.measures))


def _with_others(row: Mapping[str, Any], measures: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with columns for further measures."""
    return {**row, **{name: value for name, value in measures.items() if name not in row}}


def metrics_row(record: RoundRecord) -> MetricsRow:
    """Return a round's row, without ``model`` and ``seconds``."""
    names = [name for name in MetricsRow.__annotations__ if name not in ("model", "seconds")]
    row = {name: getattr(record, name) for name in names}
    for name in ("evaluation", "test"):
        if row[name] is not None:
            row[name] = [step.to_json() for step in row[name]]
    return cast(MetricsRow, finite(_with_others(row, record.measures)))


def tested_rows(results: Mapping[int, Sequence[StepResult]]) -> list[TestedRow]:
    """Return the rows of the test clients, by their ids."""
    return [
        TestedRow(client=client, steps=[step.to_json() for step in steps])
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
    """Return why a client was refused, without details that differ between clients and rounds."""
    reason = row.get("reason")
    return kind_of(row["code"] or RefusalCode.UNKNOWN, str(reason)) if reason else "no reason given"


def at_fault(row: ClientRow) -> bool:
    """Return whether a client was refused for something that an honest one does not send."""
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
