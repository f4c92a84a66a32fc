"""Clients' memory during a round: loaded at its start, kept if their update counts."""

from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecordValues, Context

from fedmeta.federation.client_states import ClientStates, ContextStates, StateForm
from fedmeta.federation.learner import CohortUpdate, Learner
from fedmeta.learning import Tensors

COUNTED, OLDEST, MEMORY = "counted", "oldest", "memory"
"""Keys in a request to clients with memory: the round of the client's last update that counted, the
earliest round from which the run can resume, and the name under which a node stores its memory of this
run (32 hex digits)."""
FORGOT = "forgot"
"""Key in the reply of a client that lost its memory and started afresh."""


def read_counted(config: Mapping[str, ConfigRecordValues]) -> tuple[int, int]:
    """Return the round of the client's last update that counted, and the earliest to resume from.

    Both are 0 where the server sends neither: the client starts afresh.
    """
    found = [config.get(key, 0) for key in (COUNTED, OLDEST)]
    counted, oldest = (value if type(value) is int else 0 for value in found)
    return counted, oldest


class ClientMemory:
    """One client's memory while it answers a request.

    Args:
        learner: Gives the format of the memory.
        config: Config of the request, which names the version to start from.
        context: The client's context, whose state holds the versions.

    Attributes:
        forgot: Whether the version was missing, so the client started afresh.
    """

    def __init__(
        self, learner: Learner, config: Mapping[str, ConfigRecordValues], context: Context
    ) -> None:
        self.forgot = False
        self._learner = learner
        self._form = StateForm(learner.memory_template)
        self._versions = ContextStates(context.state, self._form)
        self._counted, self._oldest = read_counted(config)

    def begin(self) -> Tensors | None:
        """Return the memory to start from, ``[1, ...]``; None for the initial memory."""
        if not self._learner.memory_template:
            return None
        found = self._versions.begin(self._counted, self._oldest)
        self.forgot = found is None and self._counted > 0
        return None if found is None else self._form.unpack([found])

    def propose(self, round_: int, memory: Tensors) -> None:
        """Store this round's version, unless the update of a later round has counted."""
        if memory and round_ > self._counted:
            self._versions.propose(round_, self._form.pack(memory)[0])


class StackMemory:
    """Memory of this process's clients, which are computed in stacks.

    Args:
        learner: Gives the format of the memory.
        states: Where it is stored.
    """

    def __init__(self, learner: Learner, states: ClientStates) -> None:
        self._learner = learner
        self._form = StateForm(learner.memory_template)
        self.states = states
        self._forgot: set[int] = set()

    def begin(self, clients: Sequence[int], counted: Sequence[int], oldest: int) -> Tensors:
        """Return the memory that some clients start from, ``[C, ...]``.

        Args:
            clients: Partition ids.
            counted: Round of each one's last update that counted; 0: none did.
            oldest: The earliest round from which the run can resume.
        """
        found = self.states.begin(clients, counted, oldest)
        new = [client for client, state in zip(clients, found, strict=True) if state is None]
        begun = iter(self._form.pack(self._learner.init_clients(new)) if new else ())
        lost = zip(clients, counted, found, strict=True)
        self._forgot |= {client for client, last, state in lost if last and state is None}
        return self._form.unpack([next(begun) if state is None else state for state in found])

    def propose(self, round_: int, update: CohortUpdate, clients: Sequence[int]) -> set[int]:
        """Store the memory of some clients of an update, to be used if it counts.

        Returns:
            Those that had lost their memory.
        """
        packed = dict(zip(update.clients, self._form.pack(update.memory), strict=True))
        self.states.propose(round_, clients, [packed[client] for client in clients])
        forgot = self._forgot & packed.keys()
        self._forgot -= forgot
        return forgot
