"""`Federation`: a server's way to its clients, the same on every engine."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import MessageType
from flwr.serverapp import Grid

from fedmeta.errors import LearnersFailedError
from fedmeta.federation.codec import Codec
from fedmeta.federation.evaluation import EvaluationSums, quantities
from fedmeta.federation.evaluation_gate import EvaluationGate
from fedmeta.federation.learner import Learner
from fedmeta.federation.sampling import Addresses, by_client, requests, wait_for_nodes
from fedmeta.learning import Tensors
from fedmeta.tasks import Split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Federation:
    """A server's way to its clients, whatever engine is behind the grid.

    Attributes:
        learner: Says what states and replies look like; its clients' data is not touched.
        grid: Leads to the clients.
        in_turn: Whether clients are computed one after the other in this process, so that each has a
            test's timeout for itself.
    """

    learner: Learner
    grid: Grid
    in_turn: bool = False

    def evaluate(
        self, state: Tensors, round_: int, clients: Sequence[int], timeout: float
    ) -> dict[int, EvaluationSums]:
        """Ask held-out clients how well they adapt from a state; the nodes must have registered.

        Args:
            state: The meta-learned state.
            round_: The round after which this is; 0: after the last.
            clients: Partition ids.
            timeout: Seconds after which nobody else is waited for.

        Returns:
            The sums of each client whose reply came and makes sense, by its id.
        """
        return self._ask(state, round_, clients, timeout)[0]

    def test(self, state: Tensors, split: Split, timeout: float) -> dict[int, EvaluationSums]:
        """Evaluate a final state on each client of a split, once the nodes have registered.

        Args:
            state: The meta-learned state.
            split: Which clients.
            timeout: Seconds after which nobody else is waited for; see `in_turn`.

        Returns:
            Each client's sums by its id; nothing if the split has no clients.

        Raises:
            LearnersFailedError: If no client of the split could be evaluated.
        """
        population = self.learner.workload.population
        clients = population.clients(split)
        if not clients:
            return {}
        seconds = timeout * len(clients) if self.in_turn else timeout
        if not self.in_turn:
            wait_for_nodes(self.grid, len(population), timeout)
        found, problem = self._ask(state, 0, clients, seconds)
        if not found:
            why = problem or f"no reply within {seconds:g} s"
            raise LearnersFailedError(
                f"none of the {len(clients)} {split} clients could be evaluated: {why}"
            )
        if len(found) < len(clients):
            log.warning(
                "only %d of the %d %s clients could be evaluated", len(found), len(clients), split
            )
        return found

    def _ask(
        self, state: Tensors, round_: int, clients: Sequence[int], timeout: float
    ) -> tuple[dict[int, EvaluationSums], str | None]:
        """Return the sums by client, and why the first reply was left out."""
        learner, grid = self.learner, self.grid
        assert isinstance(grid, Addresses)
        steps = len(learner.workload.evaluation_steps)
        gate = EvaluationGate(quantities(learner.algorithm), steps, learner.evaluation_count)
        arrays = Codec(learner.template).encode(state)
        asked = requests(MessageType.EVALUATE, round_, arrays, clients, grid)
        replies = grid.send_and_receive(asked, timeout=timeout)
        return dict(gate.admitted(round_, by_client(replies, grid))), gate.problem
