"""What our grids share of Flower's interface."""

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmeta.federation.flower import Run


class OwnGrid(Grid):
    """Creates messages as Flower's own grids do."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class RunGrid(OwnGrid):
    """Knows itself which run it works for.

    Args:
        run: That run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def set_run(self, run: Run) -> None:
        """Set the run that the grid works for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that the grid works for."""
        return self._run
