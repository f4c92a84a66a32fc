"""Clients that want to be paid and do not train.

They report the metrics and task counts of an honest client: nobody who does not train would say so.
"""

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.behaviours.behaviour import BEHAVIOURS, Behaviour, Vector, noise_like


@BEHAVIOURS.register("zero-update")
class ZeroUpdate(Behaviour):
    """Sends the model back as it came: an update of zeros.

    The plain free-rider of Fraboni, Vidal, Lorenzi 2021, "Free-rider Attacks on Model Aggregation in
    Federated Learning" (AISTATS).
    """

    class Options(options.Options):
        """There is nothing to choose."""

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        return self.stage.change(call_next(message, context), np.zeros_like)


@BEHAVIOURS.register("noise")
class Noise(Behaviour):
    """Sends the model back with noise on it, so that it looks like work.

    The disguised free-rider of Fraboni et al. 2021 and Lin, Du, Liu 2019, "Free-riders in Federated
    Learning: Attacks and Defenses" (arXiv:1911.12560). Here it even knows how long an honest update of
    its own would have been.
    """

    class Options(options.Options):
        """Options of the noise.

        Attributes:
            scale: Length of the noise, in lengths of the update that honest work would have given.
        """

        scale: float = Field(default=1.0, gt=0)

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        rng = self.stage.rng(message, context)
        return self.stage.change(
            call_next(message, context), lambda update: self.options.scale * noise_like(update, rng)
        )


@BEHAVIOURS.register("copy")
class Copy(Behaviour):
    """Sends another client's update as its own, to the last bit."""

    class Options(options.Options):
        """Options of the copy.

        Attributes:
            of: The client whose update it is.
        """

        of: int

    @property
    @override
    def victim(self) -> int:
        return int(self.options.of)

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        return self.stage.ask(self.victim, message)


@BEHAVIOURS.register("disguised-copy")
class DisguisedCopy(Copy):
    """Sends another client's update scaled and with a little noise, so that it is no exact copy."""

    class Options(Copy.Options):
        """Options of the disguise.

        Attributes:
            of: The client whose update it is.
            scale: Factor on the update.
            noise: Length of the noise, in lengths of the update.
        """

        scale: float = Field(default=0.9, gt=0)
        noise: float = Field(default=0.1, ge=0)

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        rng = self.stage.rng(message, context)

        def disguise(update: Vector) -> Vector:
            noise: Vector = self.options.noise * noise_like(update, rng)
            return float(self.options.scale) * update + noise

        return self.stage.change(super().reply(message, context, call_next), disguise)
