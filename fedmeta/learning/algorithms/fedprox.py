"""FedProx: federated averaging with a proximal term that keeps clients near the server's state."""

from dataclasses import replace

from pydantic import Field
from typing_extensions import override

from fedmeta.about import About
from fedmeta.learning.algorithm import Tensors
from fedmeta.learning.algorithms.fedavg import FedAvg
from fedmeta.learning.local import LocalWork


class FedProx(FedAvg):
    """FedProx: FedAvg, with a proximal term in the objective of each client's local steps.

    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, "Federated Optimization in Heterogeneous Networks",
    equation 2: a client takes its local steps on ``F(theta) + mu / 2 |theta - theta_0|^2``, where
    ``theta_0`` is the state that it was sent. With ``mu = 0`` it is FedAvg. The term is 0 in the first
    step, so it needs ``local_steps`` above 1.
    """

    about = About(
        paper="Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, "
        '"Federated Optimization in Heterogeneous Networks"',
        year=2020,
        family="baseline",
        learns="one model for all",
        sends="the change of the weights by local steps",
    )

    class Options(FedAvg.Options):
        """Options of FedProx.

        Attributes:
            mu: Weight of the term; Flower's FedProx strategy may override it.
        """

        mu: float = Field(default=0.1, ge=0)

    options: Options

    @override
    def local_update(
        self, start: Tensors, client: Tensors, work: LocalWork
    ) -> tuple[Tensors, Tensors, Tensors]:
        mu = self.options.mu if work.proximal_mu is None else work.proximal_mu
        return super().local_update(start, client, replace(work, proximal_mu=mu))
