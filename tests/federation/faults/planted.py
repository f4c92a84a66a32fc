"""Bugs to plant in fedmeta; the thousand random plans must find each of them."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from fedmeta.experiment.recorder import Recorder
from fedmeta.federation.faults import SimulatedDelivery
from fedmeta.federation.gate import AdmissionGate
from fedmeta.federation.tally import RoundTally


def _first_of_two(check: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, client, round_, replies: check(self, client, round_, replies[:1])


def _any_norm(check: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: 1.0


def _no_deadline(delivered: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, replies, round_, timeout: delivered(self, replies, round_, math.inf)


def _forgetful(close: Callable[..., Any]) -> Callable[..., Any]:
    def shorter(self: RoundTally, *arguments: Any) -> None:
        self._awaited.clear()
        close(self, *arguments)

    return shorter


def _keeps_unfinished_rounds(rewind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, manifest: None


MISTAKES: dict[str, tuple[type, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "one of two replies counts": (AdmissionGate, "check", _first_of_two),
    "NaN is let in": (AdmissionGate, "_check_norm", _any_norm),
    "late replies count": (SimulatedDelivery, "_on_time", _no_deadline),
    "who did not reply is forgotten": (RoundTally, "close", _forgetful),
    "a resumed log keeps unfinished rounds": (Recorder, "rewind", _keeps_unfinished_rounds),
}
"""By name: where it goes, and what it makes of what is there."""


def plant(name: str, patch: pytest.MonkeyPatch) -> None:
    """Plant one of the bugs, until `patch` is undone."""
    owner, attribute, spoil = MISTAKES[name]
    patch.setattr(owner, attribute, spoil(getattr(owner, attribute)))
