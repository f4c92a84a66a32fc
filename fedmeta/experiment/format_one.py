"""Reads logs of format 1, in which refusals have messages but no codes."""

import re
from functools import lru_cache

from fedmeta.federation.refusal import RefusalCode

_BEFORE_CODES = re.compile(
    "|".join(
        f"(?P<{code}>{begins})"
        for code, begins in {
            RefusalCode.NORM: "norm ",
            RefusalCode.LOST: "no reply within ",
            RefusalCode.LATE: "reply after ",
            RefusalCode.SURPLUS: "not needed: ",
            RefusalCode.CLIENT_ERROR: "client failed: ",
            RefusalCode.NAN: "NaN in ",
            RefusalCode.INFINITE: "Inf in ",
            RefusalCode.COPY: "the same update as ",
            RefusalCode.NOT_ASKED: "was not asked ",
            RefusalCode.SEVERAL_REPLIES: r"\d+ replies in ",
            RefusalCode.NO_CONTENT: "reply without content",
            RefusalCode.WRONG_ROUND: "reply to round ",
            RefusalCode.EXTRA_RECORD: "unexpected record ",
            RefusalCode.EXTRA_METRIC: "unexpected metric ",
            RefusalCode.EXTRA_KEY: "unexpected key ",
            RefusalCode.EXTRA_CONFIG: "unexpected config ",
            RefusalCode.WRONG_SIGNATURE: "not signed by ",
            RefusalCode.NOT_SIGNED: "not signed",
            RefusalCode.UNREADABLE: "unreadable reply ",
            RefusalCode.TASK_COUNT_TYPE: "task count .* is (?:no whole number|not an integer)",
            RefusalCode.TASK_COUNT: "task count ",
            RefusalCode.NO_TASK_COUNT: "metric '[^']*' is missing",
            RefusalCode.METRIC_TYPE: "metric '[^']*' is .*, not a number",
            RefusalCode.METRIC_RANGE: "metric '[^']*' is .*, not within ",
            RefusalCode.METRIC_DIVERGED: "metric '[^']*' diverged: ",
            RefusalCode.METRIC_NOT_FINITE: "metric '[^']*' is ",
            RefusalCode.MISSING_RECORD: "'[^']*' is missing or no",
            RefusalCode.MISSING_KEY: "'[^']*' is missing",
            RefusalCode.SERIALIZATION: "'[^']*' is serialized ",
            RefusalCode.WRONG_SHAPE: "'[^']*' has shape ",
            RefusalCode.WRONG_DTYPE: "'[^']*' has dtype ",
            RefusalCode.UNDECODABLE: "'[^']*' cannot be decoded",
            RefusalCode.HELD_SHAPE: "'[^']*' holds shape ",
            RefusalCode.HELD_DTYPE: "'[^']*' holds dtype ",
            RefusalCode.WRONG_LENGTH: r"'[^']*' is \d+ bytes long",
        }.items()
    )
)
"""How the reasons of format 1 begin, as those versions wrote them; two also match today's wording."""
_BY_GROUP = {code.value: code for code in RefusalCode}


@lru_cache(maxsize=1000)
def code_of_reason(reason: str) -> RefusalCode:
    """Return the code of a refusal from its message in a log of format 1.

    Args:
        reason: The message or its beginning.

    Returns:
        The code; `RefusalCode.OTHER` if the message is unknown.
    """
    found = _BEFORE_CODES.match(reason)
    return _BY_GROUP[found.lastgroup] if found and found.lastgroup else RefusalCode.OTHER
