"""What clients start a round with, and what they will remember of it if their update counts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from flwr.app import ConfigRecordValues, Context

from fedmeta.federation.client_states import (
    ClientStates,
    ContextStates,
    StateForm,
    put_versions,
    versions_in,
)
from fedmeta.federation.learner import CohortUpdate, Learner
from fedmeta.learning import Tensors

COUNTED, OLDEST, MEMORY = "counted", "oldest", "memory"
"""Keys in a request to clients that remember: the round of the client's last update that counted, the
first round from which the run may be resumed, and the name under which a node keeps what it remembers of
this run (32 hex digits)."""
FORGOT = "forgot"
"""Key in the reply of a client that no longer has what it should remember, and began anew."""


def read_counted(config: Mapping[str, ConfigRecordValues]) -> tuple[int, int]:
    """Return the round of the client's last update that counted, and the first to resume from.

    A server that says neither knows of no update: the client begins anew.
    """
    found = [config.get(key, 0) for key in (COUNTED, OLDEST)]
    counted, oldest = (value if type(value) is int else 0 for value in found)
    return counted, oldest


class ClientMemory:
    """What one client remembers while it answers a request.

    Args:
        learner: Says what it looks like.
        config: Of the request, which names the version to start from.
        context: Of the client, whose state holds the versions.

    Attributes:
        forgot: Whether the version was not there, so that the client began anew.
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
        """Return what the client starts from, ``[1, ...]``; None: what it begins with."""
        if not self._learner.memory_template:
            return None
        found = self._versions.begin(self._counted, self._oldest)
        self.forgot = found is None and self._counted > 0
        return None if found is None else self._form.unpack([found])

    def propose(self, round_: int, memory: Tensors) -> None:
        """Keep the version that this round's update makes, unless that of a later round counts."""
        if memory and round_ > self._counted:
            self._versions.propose(round_, self._form.pack(memory)[0])


class StackMemory:
    """What the clients of this process remember while they are computed in stacks.

    Args:
        learner: Says what it looks like.
        states: Where it lies.
    """

    def __init__(self, learner: Learner, states: ClientStates) -> None:
        self._learner = learner
        self._form = StateForm(learner.memory_template)
        self._states = states
        self._forgot: set[int] = set()

    def begin(self, clients: Sequence[int], counted: Sequence[int], oldest: int) -> Tensors:
        """Return what some clients start from, ``[C, ...]``.

        Args:
            clients: Partition ids.
            counted: Round of each one's last update that counted; 0: none did.
            oldest: The first round from which the run may be resumed.
        """
        found = self._states.begin(clients, counted, oldest)
        new = [client for client, state in zip(clients, found, strict=True) if state is None]
        begun = iter(self._form.pack(self._learner.init_clients(new)) if new else ())
        lost = zip(clients, counted, found, strict=True)
        self._forgot |= {client for client, last, state in lost if last and state is None}
        return self._form.unpack([next(begun) if state is None else state for state in found])

    def propose(self, round_: int, update: CohortUpdate, clients: Sequence[int]) -> set[int]:
        """Keep what some of the clients of an update will remember if it counts.

        Returns:
            Those that had lost what they should remember.
        """
        packed = dict(zip(update.clients, self._form.pack(update.memory), strict=True))
        self._states.propose(round_, clients, [packed[client] for client in clients])
        forgot = self._forgot & packed.keys()
        self._forgot -= forgot
        return forgot

    @contextmanager
    def lent(self, client: int, context: Context) -> Iterator[None]:
        """Let a client's own app work on its versions, in the context that it is called with."""
        before = self._states.versions(client)
        put_versions(context.state, before)
        yield
        self._states.merge(client, before, versions_in(context.state))
        put_versions(context.state, {})
