"""The clients of a run: training and held-out ones."""

from dataclasses import dataclass
from typing import Literal

from fedmeta.errors import ConfigError

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Population:
    """The numbers of training, validation and test clients.

    Client ids are partition ids: training clients come first, then validation, then test clients.
    """

    train: int
    validation: int = 0
    test: int = 0

    def __post_init__(self) -> None:
        if self.train < 1:
            raise ConfigError(
                f"no training client is left: {self.validation} validation and {self.test} test "
                f"clients out of {len(self)}; raise 'clients' or hold out fewer"
            )

    def __len__(self) -> int:
        return self.train + self.validation + self.test

    def clients(self, split: Split) -> range:
        """Return the ids of the clients of `split`."""
        first = {"train": 0, "validation": self.train, "test": self.train + self.validation}[split]
        return range(first, first + getattr(self, split))

    def split_of(self, client: int) -> Split:
        """Return the split that `client` belongs to."""
        if client < self.train:
            return "train"
        return "validation" if client < self.train + self.validation else "test"
