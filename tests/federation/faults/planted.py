"""Deliberate bugs, each of which the thousand random plans must find."""

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


def _no_lost_clients(close: Callable[..., Any]) -> Callable[..., Any]:
    def shorter(self: RoundTally, *arguments: Any) -> None:
        self._awaited.clear()
        close(self, *arguments)

    return shorter


def _keeps_unfinished_rounds(rewind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, manifest: None


BUGS: dict[str, tuple[type, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "the first of two replies counts": (AdmissionGate, "check", _first_of_two),
    "NaN is admitted": (AdmissionGate, "_check_norm", _any_norm),
    "late replies count": (SimulatedDelivery, "_on_time", _no_deadline),
    "lost clients are not logged": (RoundTally, "close", _no_lost_clients),
    "a resumed log keeps unfinished rounds": (Recorder, "rewind", _keeps_unfinished_rounds),
}
"""By name: the class and method that it breaks, and how."""


def plant(name: str, patch: pytest.MonkeyPatch) -> None:
    """Break the method of one of the bugs until `patch` is undone."""
    owner, attribute, spoil = BUGS[name]
    patch.setattr(owner, attribute, spoil(getattr(owner, attribute)))
