"""Speed, measured against a rival in the same process run."""

from fedmeta.bench.cases import CASES, find_cases
from fedmeta.bench.result import Case, Goal, Result

__all__ = ["CASES", "Case", "Goal", "Result", "find_cases"]
