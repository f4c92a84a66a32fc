"""A free-rider that sends another client's update."""

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.behaviours import Behaviour


class Copy(Behaviour):
    """Sends another client's update as its own, to the last bit."""

    class Options(options.Options):
        """Options of the copy.

        Attributes:
            of: The client whose update it sends.
        """

        of: int

    options: Options

    @property
    @override
    def victim(self) -> int:
        return self.options.of

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        return self.stage.ask(self.victim, message, context)
