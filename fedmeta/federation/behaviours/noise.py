"""A free-rider that sends the model back with noise."""

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.behaviours import Behaviour, noise_like


class Noise(Behaviour):
    """Sends the model back with noise added, so that it looks like work.

    The disguised free-rider of Fraboni et al. 2021 and Lin, Du, Liu 2019, "Free-riders in Federated
    Learning: Attacks and Defenses" (arXiv:1911.12560). Here it even knows the norm of its own honest
    update.
    """

    class Options(options.Options):
        """Options of the noise.

        Attributes:
            scale: Norm of the noise, relative to the client's honest update.
        """

        scale: float = Field(default=1.0, gt=0)

    options: Options

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        rng = self.stage.rng(message, context)
        return self.stage.change(
            call_next(message, context), lambda update: self.options.scale * noise_like(update, rng)
        )
