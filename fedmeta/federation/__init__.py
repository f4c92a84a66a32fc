"""Who learns and how updates travel: Flower client, server, strategy, grid and admission gate."""

from fedmeta.federation.client import build_client_app
from fedmeta.federation.engine import build_server_app, evaluate, simulate
from fedmeta.federation.flower import check_flower
from fedmeta.federation.records import ClientRecord, RoundRecord, Snapshot, StepResult
from fedmeta.federation.server.gate import AdmissionGate, GateOptions
from fedmeta.federation.server.optimizer import ServerOptimizer, ServerOptions
from fedmeta.federation.server.plan import Plan
from fedmeta.federation.server.strategy import MetaStrategy
from fedmeta.federation.vector.grid import VectorGrid
from fedmeta.federation.workload import Learner, Workload

__all__ = [
    "AdmissionGate",
    "ClientRecord",
    "GateOptions",
    "Learner",
    "MetaStrategy",
    "Plan",
    "RoundRecord",
    "ServerOptimizer",
    "ServerOptions",
    "Snapshot",
    "StepResult",
    "VectorGrid",
    "Workload",
    "build_client_app",
    "build_server_app",
    "check_flower",
    "evaluate",
    "simulate",
]
