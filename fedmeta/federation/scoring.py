"""The seam to incentives: who decides what the admitted updates of a round were worth."""

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
"""The state that the server's step would lead to from a flat pseudo-gradient."""


class Scorer(Protocol):
    """Scores the updates of a round and says what each is paid.

    Attributes:
        wants_vectors: Whether it reads the updates' values, which then stay in memory for the round.
    """

    wants_vectors: bool

    def award(self, round_: int, admitted: Sequence[Update], preview: Preview) -> Mapping[int, Award]:
        """Return what each admitted client of a round gets, by partition id.

        Args:
            round_: The round, counted from 1.
            admitted: The updates that were aggregated, by partition id; never empty.
            preview: What the server would make of an aggregated pseudo-gradient.
        """
        ...


@dataclass(frozen=True)
class Rewards:
    """How clients are known and paid.

    Attributes:
        signatures: Their accounts; None: replies are not signed.
        scorer: What their updates are worth; None: nothing is paid.
    """

    signatures: Checking | None = None
    scorer: Scorer | None = None
