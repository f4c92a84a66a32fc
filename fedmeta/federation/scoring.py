"""Interface to incentives: scores and pays a round's admitted updates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmeta.federation.gate import Update
from fedmeta.federation.records import Award
from fedmeta.federation.signing import Checking
from fedmeta.learning import Tensors

Preview = Callable[[NDArray[np.float64]], Tensors]
"""Returns the state after the server's step along a flat pseudo-gradient ``[D]``."""


class Scorer(Protocol):
    """Scores a round's updates and decides their pay.

    Attributes:
        wants_vectors: Whether it reads the updates' values, which then stay in memory for the round.
    """

    wants_vectors: bool

    def award(self, round_: int, admitted: Sequence[Update], preview: Preview) -> Mapping[int, Award]:
        """Return the score and pay of each admitted client of a round, by partition id.

        Args:
            round_: The round, counted from 1.
            admitted: The updates that were aggregated, by partition id; never empty.
            preview: Returns the state that an aggregated pseudo-gradient would lead to.
        """
        ...


@dataclass(frozen=True)
class Rewards:
    """How clients are identified and paid.

    Attributes:
        signatures: Their accounts; None: replies are not signed.
        scorer: Scores and pays their updates; None: nothing is paid.
    """

    signatures: Checking | None = None
    scorer: Scorer | None = None
