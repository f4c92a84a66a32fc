"""A free-rider that sends the model back unchanged."""

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.behaviours import Behaviour


class ZeroUpdate(Behaviour):
    """Sends the model back unchanged: an update of zeros.

    The plain free-rider of Fraboni, Vidal, Lorenzi 2021, "Free-rider Attacks on Model Aggregation in
    Federated Learning" (AISTATS).
    """

    class Options(options.Options):
        """No options."""

    @override
    def reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        return self.stage.change(call_next(message, context), np.zeros_like)
