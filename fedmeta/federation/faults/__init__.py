"""Injected faults: which client meets which fault in which round, in training or delivery."""

from typing import TYPE_CHECKING

from fedmeta.lazy import lazy_names

if TYPE_CHECKING:
    from fedmeta.federation.faults.delivery import FaultyDelivery, SimulatedDelivery, with_faults
    from fedmeta.federation.faults.mods import fault_mod, mods_in
    from fedmeta.federation.faults.plan import KINDS, Fault, FaultOptions, FaultPlan, read_faults
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "KINDS",
    "Fault",
    "FaultOptions",
    "FaultPlan",
    "FaultyDelivery",
    "SimulatedDelivery",
    "fault_mod",
    "mods_in",
    "read_faults",
    "with_faults",
]
