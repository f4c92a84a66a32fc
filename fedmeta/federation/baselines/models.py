"""A model and an optimizer for each of many clients that train alone."""

from collections.abc import Sequence
from typing import Protocol

import torch

from fedmeta.federation.records import Snapshot
from fedmeta.federation.server.optimizer import ServerOptimizer
from fedmeta.federation.server.plan import Plan
from fedmeta.learning import Tensors

BY_ELEMENT = frozenset(
    ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "ASGD")
)
"""Optimizers of `torch.optim` whose step on a value depends on no other value."""


class Models(Protocol):
    """The models of C training clients; every tensor of a state has their axis first."""

    @property
    def state(self) -> Tensors:
        """A copy of the states of all clients, ``[C, ...]`` each."""
        ...

    def step(self, round_: int, clients: Sequence[int], updates: Tensors) -> None:
        """Descend the updates of some clients, ``[clients, ...]`` each, at the rate of `round_`."""
        ...

    def export(self) -> Tensors:
        """Return the optimizers' own states as flat tensors, for a checkpoint."""
        ...


def build_models(template: Tensors, clients: int, plan: Plan, start: Snapshot | None) -> Models:
    """Return a model for each client.

    Args:
        template: The state that all begin with, without the axis of clients.
        clients: How many there are.
        plan: The server's side of the federated run: the optimizer's options.
        start: Where an earlier run stood; None: at the beginning.
    """
    state = {key: value.expand(clients, *value.shape) for key, value in template.items()}
    everybody = plan.cohort == clients and plan.server.clip_norm is None
    kind = _Together if everybody and plan.server.optimizer in BY_ELEMENT else _Apart
    return kind(start.state if start else state, start.optimizer if start else {}, plan)


class _Together:
    """One optimizer over the stacked states: the same steps, where all clients train in every round."""

    def __init__(self, state: Tensors, optimizer: Tensors, plan: Plan) -> None:
        self._optimizer = ServerOptimizer(plan.server, state, plan.rounds)
        self._optimizer.restore(optimizer)

    @property
    def state(self) -> Tensors:
        """See `Models.state`."""
        return self._optimizer.state

    def step(self, round_: int, clients: Sequence[int], updates: Tensors) -> None:  # noqa: ARG002
        """See `Models.step`; `clients` are all there are."""
        self._optimizer.step(round_, updates)

    def export(self) -> Tensors:
        """See `Models.export`."""
        return self._optimizer.export()


class _Apart:
    """An optimizer for each client, which stands still while its client is not asked."""

    def __init__(self, state: Tensors, optimizer: Tensors, plan: Plan) -> None:
        clients = len(next(iter(state.values())))
        self._own = [
            ServerOptimizer(plan.server, {key: value[c] for key, value in state.items()}, plan.rounds)
            for c in range(clients)
        ]
        for client, own in enumerate(self._own):
            mine = f"{client}/"
            own.restore({k.removeprefix(mine): v for k, v in optimizer.items() if k.startswith(mine)})

    @property
    def state(self) -> Tensors:
        """See `Models.state`."""
        states = [own.state for own in self._own]
        return {key: torch.stack([state[key] for state in states]) for key in states[0]}

    def step(self, round_: int, clients: Sequence[int], updates: Tensors) -> None:
        """See `Models.step`."""
        for row, client in enumerate(clients):
            self._own[client].step(round_, {key: value[row] for key, value in updates.items()})

    def export(self) -> Tensors:
        """See `Models.export`; those of client 3 are under ``3/``."""
        return {f"{c}/{k}": v for c, own in enumerate(self._own) for k, v in own.export().items()}
