"""No data leaves a client: nothing that crosses the grid holds a piece of a support or query set."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from fedmeta.federation import Federation, Learner, MetaStrategy, Plan, VectorGrid, Workload
from fedmeta.federation.cohort import requests
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server
from fedmeta.learning.device import one_thread
from fedmeta.tasks import TaskBatch, stream
from tests.federation.helpers import algorithm, train

WINDOW = 12
"""Bytes: three float32 values in a row, which no two unrelated tensors share by chance."""
PLAN = Plan(rounds=3, cohort=6, evaluate_every=1)
METRIC_NAMES = {"num-tasks", "loss", "loss_before", "loss-sum", "loss-squares", "diverged"}


class Recording(VectorGrid):
    """Keeps a copy of all bytes that cross it, in both directions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.crossed: list[bytes] = []
        self.names: set[str] = set()

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        for message in asked:
            self.keep(message)
        for reply in super().send_and_receive(asked, timeout=timeout):
            self.keep(reply)
            yield reply

    def keep(self, message: Message) -> None:
        for record in message.content.values():
            for key, value in record.items():
                if isinstance(record, MetricRecord):
                    self.names.add(key)
                if isinstance(value, Array):
                    self.crossed.append(value.data)
                else:
                    # A number may have been rounded to single precision on its way.
                    self.crossed += [
                        np.asarray(value, dtype).tobytes() for dtype in (np.float32, np.float64)
                    ]


def windows(tasks: TaskBatch) -> set[bytes]:
    found = set()
    for _, tensor in tasks.tensors():
        values = tensor.numpy()
        for data in (values.tobytes(), values.astype(np.float64).tobytes()):
            step = 4 if len(data) == values.nbytes else 8
            found |= {data[at : at + WINDOW] for at in range(0, len(data) - WINDOW + 1, step)}
    return found


def leaks(workload: Workload, mods: dict[int, list[Callable[..., Message]]] | None = None) -> int:
    """Count the windows of private data that cross the grid in a run with evaluation."""
    with one_thread(), as_server():
        learner = Learner.build(workload)
        grid = Recording(learner, InProcess(learner), mods)
        train(Federation(learner, grid), PLAN)
    private = set[bytes]()
    for client in workload.population.clients("train"):
        for round_ in range(1, PLAN.rounds + 1):
            private |= windows(learner.sample(round_, client))
    for client in workload.population.clients("validation"):
        rng = stream(workload.seed, "evaluate", client)
        private |= windows(learner.family.sample(client, workload.evaluation_tasks, rng))
    assert len(private) > 1000
    assert mods or grid.names <= METRIC_NAMES
    assert sum(map(len, grid.crossed)) > 10_000
    return sum(
        data[at : at + WINDOW] in private
        for data in set(grid.crossed)
        for at in range(len(data) - WINDOW + 1)
    )


@pytest.mark.parametrize("name", ["maml", "reptile", "fedavg"])
@pytest.mark.parametrize("local_steps", [1, 2])
def test_no_piece_of_a_task_crosses_the_grid(name: str, local_steps: int) -> None:
    assert leaks(algorithm(name, local_steps=local_steps)) == 0


def test_the_search_finds_data_that_a_client_does_leak() -> None:
    workload = algorithm("maml")
    learner = Learner.build(workload)

    def leaky(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        round_ = int(reply.content["config"]["round"])  # type: ignore[arg-type]
        secret = learner.sample(round_, int(context.node_config["partition-id"])).support_x.numpy()
        arrays = reply.content["arrays"]
        key = max(arrays, key=lambda name: len(arrays[name].data))
        values = arrays[key].numpy().copy()  # type: ignore[union-attr]
        values.reshape(-1)[: secret.size] = secret.reshape(-1)
        arrays[key] = Array(values)  # type: ignore[index, assignment]
        return reply

    assert leaks(workload, {client: [leaky] for client in range(12)}) > 0


def test_evaluation_replies_carry_sums_and_nothing_by_task() -> None:
    workload = replace(algorithm("maml"), evaluation_tasks=50)
    with as_server():
        learner = Learner.build(workload)
        grid = VectorGrid(learner, InProcess(learner))
        strategy = MetaStrategy(learner, PLAN)
        strategy.connect(grid)
        clients = workload.population.clients("validation")
        asked = requests("evaluate", 1, strategy.arrays, clients, grid)
        [reply, *_] = grid.send_and_receive(asked)
    assert set(reply.content) == {"metrics", "config"}
    metrics = dict(reply.content["metrics"])
    assert metrics.pop("num-tasks") == 50
    assert {name: len(values) for name, values in metrics.items()} == {  # type: ignore[arg-type]
        "loss-sum": 3,
        "loss-squares": 3,
        "diverged": 3,
    }
