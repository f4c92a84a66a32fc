"""Pydantic's validation errors in plain words."""

import re

from pydantic_core import ErrorDetails

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "model_type": "must be a table of keys",
    "dict_type": 'must be a table of keys, such as {{a = 1, b = "text"}}',
    "tuple_type": 'must be a list, such as [1, 2] or ["a", "b"]',
    "list_type": 'must be a list, such as [1, 2] or ["a", "b"]',
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer of fewer digits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "none_required": "must be left out",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
}
"""What a value must be, by the type of the error; names in braces are of its context."""


def requirement(error: ErrorDetails) -> str:
    """Return what the value must be: ``must be at least 1``; for a validator's own error its message."""
    context = {
        name: f"{value:g}" if isinstance(value, float) else value
        for name, value in error.get("ctx", {}).items()
    }
    if context.get("min_length") == 1:
        return "must not be empty"
    if "expected" in context and " or " not in context["expected"]:
        return f"must be {context['expected']}"
    if error["type"] in _WORDS:
        return _WORDS[error["type"]].format(**context)
    said = re.sub(r"^(Value|Assertion) error, ", "", error["msg"])
    said = re.sub(r"^[A-Z]\w*( \w+)? should ", "must ", said)
    return said[:1].lower() + said[1:]


def either(requirements: list[str]) -> str:
    """Return what a value of several possible types must be."""
    first, *others = dict.fromkeys(requirements)
    alike = [one.removeprefix("must be ") for one in others if one.startswith("must be ")]
    return " or ".join([first, *alike]) if first.startswith("must be ") else first
