"""What goes wrong with clients and on the way to them, by plan: which client, which round, what."""

from fedmeta.federation.faults.delivery import FaultyDelivery, SimulatedDelivery, with_faults
from fedmeta.federation.faults.mods import fault_mod, mods_in
from fedmeta.federation.faults.plan import KINDS, Fault, FaultOptions, FaultPlan, read_faults

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
