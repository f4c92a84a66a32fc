"""A free-rider that sends another client's update with noise added."""

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from pydantic import Field
from typing_extensions import override

from fedmeta.federation.behaviours import Vector, noise_like
from fedmeta.federation.behaviours.copy import Copy


class DisguisedCopy(Copy):
    """Sends another client's update scaled and with a little noise, so it is not an exact copy."""

    class Options(Copy.Options):
        """Options of the disguise.

        Attributes:
            of: The client whose update it sends.
            scale: Factor on the update.
            noise: Norm of the noise, relative to the update.
        """

        scale: float = Field(default=0.9, gt=0)
        noise: float = Field(default=0.1, ge=0)

    options: Options

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        rng = self.stage.rng(message, context)

        def disguise(update: Vector) -> Vector:
            noise: Vector = self.options.noise * noise_like(update, rng)
            return self.options.scale * update + noise

        return self.stage.change(super().reply(message, context, call_next), disguise)
