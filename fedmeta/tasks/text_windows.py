"""Base class of families of texts: predict the next character in windows of a client's text."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.errors import ConfigError
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.population import Population

Tokens = NDArray[np.int64]

# Fixed, not derived from the text, so that held-out speakers do not influence the model.
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
OTHER = len(CHARACTERS)
VOCABULARY = len(CHARACTERS) + 1


class TextWindows:
    """Draws tasks of windows, support from the earlier part of a client's text, query from the later.

    Attributes:
        options: ``length``, ``shots``, ``queries``, ``test_queries`` and ``support_fraction``.
        population: The clients.
        texts: The tokens of each client.
    """

    options: Any
    population: Population
    texts: tuple[Tokens, ...]

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:
        """Draw `count` tasks of `client`: windows of its text, in the order of the text."""
        text = self.texts[client]
        boundary = self._boundary(client)
        sides: list[Tensor] = []
        for part, windows in (
            (text[:boundary], self.options.shots),
            (text[boundary:], self._queries(client)),
        ):
            starts = place_windows(len(part), self.options.length + 1, (count, windows), rng)
            drawn = torch.from_numpy(part[starts[:, :, None] + np.arange(self.options.length + 1)])
            sides += [drawn[:, :, :-1].contiguous(), drawn[:, :, 1:].contiguous()]
        return TaskBatch(*sides)

    def _queries(self, client: int) -> int:
        held_out = self.population.split_of(client) != "train"
        return int((self.options.test_queries if held_out else None) or self.options.queries)

    def _boundary(self, client: int) -> int:
        return int(self.options.support_fraction * len(self.texts[client]))

    def _check(self, client: int) -> None:
        boundary = self._boundary(client)
        size = self.options.length + 1
        sides = (
            ("shots", self.options.shots, boundary),
            ("queries", self._queries(client), len(self.texts[client]) - boundary),
        )
        for key, windows, have in sides:
            if windows * size > have:
                raise ConfigError(
                    f"data.{key} = {windows} windows of {size} characters need {windows * size}, but "
                    f"{self.who(client)} has {have} for them; use fewer clients, fewer "
                    f"{key} or a smaller data.length"
                )

    def require_enough(self) -> None:
        """Refuse a client with too little text for a task; `ConfigError` names it."""
        for client in range(len(self.population)):
            self._check(client)

    def who(self, client: int) -> str:
        """Return the client's name in messages."""
        return f"client {client}"


def place_windows(
    length: int, size: int, shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw starts ``[T, windows]`` of windows of `size` within `length`; those of a row do not overlap.

    Starts are sorted draws from the space that the windows leave free, shifted by the windows before.
    """
    free = length - shape[1] * size
    gaps = np.sort(rng.integers(0, free + 1, shape), axis=1)
    starts: NDArray[np.int64] = gaps + size * np.arange(shape[1])
    return starts


def encode(text: str, more: str = "") -> Tokens:
    """Return the token of each character: its index in `CHARACTERS + more`, or the one after."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
    tokens = np.where((codes >= 32) & (codes < 127), codes - 31, OTHER + len(more))
    for place, character in enumerate(more):
        tokens = np.where(codes == ord(character), OTHER + place, tokens)
    return np.where(codes == ord("\n"), 0, tokens)
