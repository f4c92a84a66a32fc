"""Flower client, server, strategy, grids and admission gate."""

from typing import TYPE_CHECKING

from fedmeta.lazy import lazy_names

if TYPE_CHECKING:
    from fedmeta.federation.accounts import Preview, Rewards, Scorer, Signatures
    from fedmeta.federation.aggregation import AggregationOptions
    from fedmeta.federation.client import build_client_app
    from fedmeta.federation.codec import tensors_digest
    from fedmeta.federation.engines.deployment import DeploymentOptions
    from fedmeta.federation.engines.ray import RayOptions, require_ray
    from fedmeta.federation.engines.vector.grid import VectorGrid
    from fedmeta.federation.evaluation import (
        EvaluationSums,
        clustered_half_width,
        counting_missing,
        merge,
    )
    from fedmeta.federation.faults import FaultOptions, FaultPlan
    from fedmeta.federation.federation import Federation
    from fedmeta.federation.flower import check_flower
    from fedmeta.federation.gate import AdmissionGate, Update
    from fedmeta.federation.learner import Learner
    from fedmeta.federation.optimizer import ServerOptimizer
    from fedmeta.federation.records import (
        Award,
        ClientRecord,
        RoundRecord,
        SignedUpdate,
        Snapshot,
        StepResult,
    )
    from fedmeta.federation.round_plan import GateOptions, Plan, ServerOptions
    from fedmeta.federation.strategy import MetaStrategy
    from fedmeta.federation.workload import Workload
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "AdmissionGate",
    "AggregationOptions",
    "Award",
    "ClientRecord",
    "DeploymentOptions",
    "EvaluationSums",
    "FaultOptions",
    "FaultPlan",
    "Federation",
    "GateOptions",
    "Learner",
    "MetaStrategy",
    "Plan",
    "Preview",
    "RayOptions",
    "Rewards",
    "RoundRecord",
    "Scorer",
    "ServerOptimizer",
    "ServerOptions",
    "Signatures",
    "SignedUpdate",
    "Snapshot",
    "StepResult",
    "Update",
    "VectorGrid",
    "Workload",
    "build_client_app",
    "check_flower",
    "clustered_half_width",
    "counting_missing",
    "merge",
    "require_ray",
    "tensors_digest",
]
