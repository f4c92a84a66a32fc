"""A poisoner that sends its update negated."""

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.behaviours import Behaviour


class Poison(Behaviour):
    """Trains honestly and sends the update times ``-factor``, to make the model worse.

    The sign-flipping attack, for example of Li, Xu, Chen, Giannakis, Ling 2019, "RSA: Byzantine-Robust
    Stochastic Aggregation Methods for Distributed Learning from Heterogeneous Datasets" (AAAI).
    """

    class Options(options.Options):
        """Options of the poison.

        Attributes:
            factor: Norm of the negated update, relative to the honest one.
        """

        factor: float = Field(default=2.0, gt=0)

    options: Options

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        factor = self.options.factor
        return self.stage.change(call_next(message, context), lambda update: -factor * update)
