"""`Refusal`: why a client's reply is not used, as a code with details and a fault."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Outcome = Literal["admitted", "quarantined", "late", "lost", "surplus"]
"""Outcome of a request to a client: the reply was aggregated; refused; after the deadline; never came;
or was not needed, as enough others had answered before."""

_EXCEPTION = re.compile(r"client failed: [\w.]+: ")


class Fault(StrEnum):
    """Who is at fault for a refusal."""

    CLIENT = "client"
    """The client: an honest one does not send this."""
    CHANCE = "chance"
    """Can happen to an honest client: its machine or network failed or was slow, it diverged, or a
    client with a lower id copied it."""
    NOBODY = "nobody"
    """Nothing went wrong."""


_PLACE = re.compile(r"'\{[^}]*\}'|\{[^}]*\}")


class RefusalCode(StrEnum):
    """Why a reply is not used: a code with a fault and a message.

    Attributes:
        fault: Who is at fault.
        template: The message, with the names of details in braces.
        label: The message with … for each detail.
    """

    fault: Fault
    template: str
    label: str

    def __new__(cls, code: str, fault: Fault, template: str) -> "RefusalCode":
        """Make a member whose value is `code` alone."""
        member = str.__new__(cls, code)
        member._value_, member.fault, member.template = code, fault, template
        member.label = _PLACE.sub("…", template)
        return member

    NOT_ASKED = "not_asked", Fault.CHANCE, "was not asked in this round"
    LOST = "lost", Fault.CHANCE, "no reply within {timeout:g} s"
    LATE = "late", Fault.CHANCE, "reply after {arrival:g} s, not {timeout:g} s"
    SURPLUS = "surplus", Fault.NOBODY, "not needed: {cohort} answered before"
    SEVERAL_REPLIES = "several_replies", Fault.CLIENT, "{count} replies in one round, none counts"
    CLIENT_ERROR = "client_error", Fault.CHANCE, "client failed: {line}"
    NO_CONTENT = "no_content", Fault.CLIENT, "reply without content"
    MISSING_RECORD = "missing_record", Fault.CLIENT, "'{key}' is missing or not of type {kind}"
    EXTRA_RECORD = "extra_record", Fault.CLIENT, "unexpected record {key}"
    WRONG_ROUND = "wrong_round", Fault.CLIENT, "reply to round {claimed}, not {round}"
    NO_TASK_COUNT = "no_task_count", Fault.CLIENT, "metric '{key}' is missing"
    TASK_COUNT_TYPE = "task_count_type", Fault.CLIENT, "task count {value} is not an integer"
    TASK_COUNT = "task_count", Fault.CLIENT, "task count {value} is not within 1 and {most}"
    METRIC_TYPE = "metric_type", Fault.CLIENT, "metric '{key}' is {value}, not a number"
    METRIC_RANGE = (
        "metric_range",
        Fault.CLIENT,
        "metric '{key}' is {value:.6g}, not within {low:.6g} and {high:.6g}",
    )
    METRIC_DIVERGED = "metric_diverged", Fault.CHANCE, "metric '{key}' diverged: {value}"
    EXTRA_METRIC = "extra_metric", Fault.CLIENT, "unexpected metric {key}"
    MISSING_KEY = "missing_key", Fault.CLIENT, "'{key}' is missing"
    EXTRA_KEY = "extra_key", Fault.CLIENT, "unexpected key '{key}'"
    SERIALIZATION = "serialization", Fault.CLIENT, "'{key}' is serialized as '{found}', not '{expected}'"
    WRONG_SHAPE = "wrong_shape", Fault.CLIENT, "'{key}' has shape {found}, not {expected}"
    WRONG_DTYPE = "wrong_dtype", Fault.CLIENT, "'{key}' has dtype {found:.40}, not {expected}"
    UNDECODABLE = "undecodable", Fault.CLIENT, "'{key}' cannot be decoded"
    HELD_SHAPE = "held_shape", Fault.CLIENT, "'{key}' holds shape {found}, not {expected} as declared"
    HELD_DTYPE = (
        "held_dtype",
        Fault.CLIENT,
        "'{key}' holds dtype {found:.40}, not {expected} as declared",
    )
    WRONG_LENGTH = "wrong_length", Fault.CLIENT, "'{key}' is {found} bytes long, not {expected}"
    EXTRA_CONFIG = "extra_config", Fault.CLIENT, "unexpected config {key}"
    NAN = "nan", Fault.CHANCE, "NaN in '{key}'"
    INFINITE = "infinite", Fault.CHANCE, "Inf in '{key}'"
    NORM = "norm", Fault.CLIENT, "norm {norm:.4g} exceeds max_norm {limit:.4g}"
    NOT_SIGNED = "not_signed", Fault.CLIENT, "not signed"
    WRONG_SIGNATURE = "wrong_signature", Fault.CLIENT, "not signed by the account of its client"
    COPY = "copy", Fault.CHANCE, "the same update as client {first}'s"
    UNREADABLE = "unreadable", Fault.CLIENT, "unreadable reply ({error})"

    EVALUATION_RECORDS = "evaluation_records", Fault.CLIENT, "no metrics or config"
    EVALUATION_TASKS = "evaluation_tasks", Fault.CLIENT, "task count {value}"
    EVALUATION_LIST = "evaluation_list", Fault.CLIENT, "'{key}' is not a list of {count}"
    EVALUATION_COUNTS = "evaluation_counts", Fault.CLIENT, "'{key}' is not a list of counts up to {most}"
    EVALUATION_NOT_FINITE = "evaluation_not_finite", Fault.CLIENT, "'{key}' is not finite"
    EVALUATION_SQUARES = (
        "evaluation_squares",
        Fault.CLIENT,
        "'{name}-sum' and '{name}-squares' are not those of {tasks} values",
    )
    EVALUATION_SUM = (
        "evaluation_sum",
        Fault.CLIENT,
        "'{name}-sum' is not that of {tasks} values from {low:.6g} to {high:.6g}",
    )

    METRIC_NOT_FINITE = "metric_not_finite", Fault.CLIENT, "metric '{key}' is {value}"
    """Old logs have this instead of `METRIC_DIVERGED`, from when it still cost stake."""
    OTHER = "other", Fault.CLIENT, "another reason"
    """An unrecognized reason in an old log without codes."""
    UNKNOWN = "unknown", Fault.CHANCE, "a reason of a later version"
    """A code that this version does not know; it costs no stake."""

    @property
    def outcome(self) -> Outcome:
        """The outcome of a reply that is refused with this code."""
        return _OUTCOMES.get(self, "quarantined")


_OUTCOMES: Mapping[RefusalCode, Outcome] = {
    RefusalCode.LOST: "lost",
    RefusalCode.LATE: "late",
    RefusalCode.SURPLUS: "surplus",
}
_DIVERGED = frozenset(
    {
        RefusalCode.NAN,
        RefusalCode.INFINITE,
        RefusalCode.METRIC_DIVERGED,
        RefusalCode.METRIC_NOT_FINITE,
    }
)


@dataclass(frozen=True)
class Refusal:
    """Why a client's reply, or its absence, does not count.

    Attributes:
        code: The kind of reason.
        details: Plain values by name, such as what was found and expected.
    """

    code: RefusalCode
    details: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """The reason in one short line."""
        return self.code.template.format(**self.details)

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason

    @property
    def norm(self) -> float | None:
        """Norm of the pseudo-gradient, if it could be read and is finite."""
        norm = self.details.get("norm")
        return norm if isinstance(norm, float) and math.isfinite(norm) else None

    @property
    def non_finite(self) -> bool:
        """Whether NaN or Inf is the reason, a sign of divergence rather than malice."""
        return self.code in _DIVERGED


class RefusedError(ValueError):
    """A reply is refused.

    Args:
        code: The kind of reason.
        details: As in `Refusal`.
    """

    def __init__(self, code: RefusalCode, **details: str | int | float) -> None:
        self.refusal = Refusal(code, details)
        super().__init__(self.refusal.reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return _refused, (type(self), self.refusal)


def _refused(kind: type[RefusedError], refusal: Refusal) -> RefusedError:
    return kind(refusal.code, **refusal.details)


def kind_of(code: RefusalCode, reason: str) -> str:
    """Return a refusal's message without details that differ between clients and rounds.

    Where a client failed, it includes the type of the exception.
    """
    if code is RefusalCode.CLIENT_ERROR and (raised := _EXCEPTION.match(reason)):
        return f"{raised[0]}…"
    return code.label
