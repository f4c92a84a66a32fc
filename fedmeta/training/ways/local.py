"""Local training: every client alone, with its own model and optimizer."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Protocol

import torch
from typing_extensions import override

from fedmeta.errors import LearnersFailedError
from fedmeta.federation import (
    ClientRecord,
    EvaluationSums,
    Learner,
    Plan,
    RoundRecord,
    ServerOptimizer,
    Snapshot,
)
from fedmeta.federation.cohort import sample_cohort
from fedmeta.federation.failures import report
from fedmeta.learning import Tensors, expand_state
from fedmeta.tasks import Split
from fedmeta.training.ways import Way

BY_ELEMENT = frozenset(
    ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "ASGD")
)
"""Optimizers of `torch.optim` that step each value independently."""


class Local(Way):
    """Trains each client alone, in the rounds and on the tasks that it would have in the federation.

    Every client starts from the same state and has its own optimizer, with the server's options. Clients
    of a round are still computed in one stack.
    """

    model_per_client = True

    @cached_property
    def _models(self) -> "Models":
        clients = self.learner.workload.population.train
        return build_models(self.learner, clients, self.plan, self.start)

    @property
    @override
    def state(self) -> Tensors:
        return self._models.state

    @override
    def train(self, round_: int) -> RoundRecord:
        workload = self.learner.workload
        cohort = sample_cohort(workload.seed, round_, workload.population.train, self.plan.cohort)
        updates, metrics = self._updates(round_, cohort)
        self._models.step(round_, cohort, updates)
        norms = _norms(updates)
        after = {k: v.tolist() for k, v in metrics.items() if not k.endswith("_before")}
        measures = [
            dict(zip(after, values, strict=True)) for values in zip(*after.values(), strict=True)
        ]
        each = workload.tasks_per_round
        clients = tuple(
            ClientRecord(round_, client, each, norm, True, None, own)
            for client, norm, own in zip(cohort, norms, measures, strict=True)
        )
        return self.describe_round(round_, each, metrics, norms, clients)

    @override
    def export(self) -> Tensors:
        return self._models.export()

    @override
    def evaluate_client(self, state: Tensors, round_: int, client: int) -> EvaluationSums:
        """Evaluate the clients' models on one held-out client, each task with one model.

        Models take turns over a client's tasks, so the mean over tasks is also a mean over models, at
        the cost of evaluating one.
        """
        learner, models = self.learner, len(next(iter(state.values())))
        tasks = learner.evaluation_count(client, round_)
        owners = (torch.arange(tasks) + model_for(client, models)) % models
        rows = {key: value[owners] for key, value in state.items()}
        return learner.evaluate_each(rows, client, round_)

    @override
    def test(self, state: Tensors, split: Split) -> Mapping[int, EvaluationSums]:
        return self.evaluate(state, 0, self.learner.workload.population.clients(split))

    def _starts(self, state: Tensors, round_: int, clients: Sequence[int]) -> tuple[Tensors, Tensors]:
        return _rows(state, clients), self.remembered(self.learner, round_, clients)

    def _updates(self, round_: int, cohort: Sequence[int]) -> tuple[Tensors, Tensors]:
        """Return the updates of a cohort, ``[cohort, ...]`` each, and its metrics, ``[cohort]`` each."""
        size, state = self.learner.chunk_clients, self.state
        parts = []
        for first in range(0, len(cohort), size):
            stack = list(cohort[first : first + size])
            update = self.learner.train_from(partial(self._starts, state, round_), round_, stack)
            for client, failure in update.failures.items():
                report(round_, client, failure)
                raise LearnersFailedError(
                    f"round {round_}: client {client} cannot train: {failure.reason}"
                )
            self.remember(self.learner, round_, update)
            parts.append((update.updates, update.metrics))
        updates, metrics = (
            {key: torch.cat([part[i][key] for part in parts]) for key in parts[0][i]} for i in (0, 1)
        )
        return updates, metrics


class Models(Protocol):
    """The models of C training clients, which are the first axis of every tensor."""

    @property
    def state(self) -> Tensors:
        """A copy of the states of all clients, ``[C, ...]`` each."""
        ...

    def step(self, round_: int, clients: Sequence[int], updates: Tensors) -> None:
        """Step some clients along their updates, ``[clients, ...]`` each, at the rate of `round_`."""
        ...

    def export(self) -> Tensors:
        """Return the optimizers' own states as flat tensors, for a checkpoint."""
        ...


def build_models(learner: Learner, clients: int, plan: Plan, start: Snapshot | None) -> Models:
    """Build a model and optimizer for each client.

    Args:
        learner: Gives the initial state.
        clients: Number of clients.
        plan: Gives the optimizer's options.
        start: Snapshot to continue from; None: the initial state.
    """
    state = expand_state(learner.template, clients)
    by_element = plan.server.clip_norm is None and not learner.postprocessing("server")
    everybody = plan.cohort == clients and by_element
    kind = _Together if everybody and plan.server.optimizer in BY_ELEMENT else _Apart
    return kind(start.state if start else state, start.optimizer if start else {}, plan, learner)


class _Together:
    """One optimizer over the stacked states, for when all clients train in every round."""

    def __init__(self, state: Tensors, optimizer: Tensors, plan: Plan, learner: Learner) -> None:
        self._optimizer = ServerOptimizer(plan.server, state, plan.rounds, learner.added_keys)
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
    """One optimizer per client, which only steps in the client's rounds."""

    def __init__(self, state: Tensors, optimizer: Tensors, plan: Plan, learner: Learner) -> None:
        clients = len(next(iter(state.values())))
        states = [{key: value[c] for key, value in state.items()} for c in range(clients)]
        more = learner.added_keys, learner.postprocessing("server")
        self._own = [ServerOptimizer(plan.server, one, plan.rounds, *more) for one in states]
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


def model_for(client: int, models: int) -> int:
    """Return the model for a held-out client's first task; its next task uses the next model."""
    return client % models


def _rows(state: Tensors, clients: Sequence[int]) -> Tensors:
    """Pick the rows of some clients out of ``[C, ...]``."""
    return {key: value[list(clients)] for key, value in state.items()}


def _norms(updates: Tensors) -> list[float]:
    """Return the Euclidean norm of each client's update."""
    squares = [value.double().flatten(1).square().sum(1) for value in updates.values()]
    norms: list[float] = torch.stack(squares).sum(0).sqrt().tolist()
    return norms
