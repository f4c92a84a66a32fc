"""Partitions the items of a split (characters, classes, speeches) among its clients."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedmeta.errors import ConfigError
from fedmeta.options import Key, Options
from fedmeta.tasks.population import Split

Indices = NDArray[np.int64]
Scheme = Literal["natural", "iid", "dirichlet"]

_DIRICHLET_DRAWS = 200
# Shares differ from equal ones by about 1 / sqrt(alpha): above this alpha they are equal in float64, and
# the sum of gamma variates would overflow.
_EQUAL_ALPHA = 1e100


class PartitionOptions(Options):
    """How training data are partitioned among training clients; held-out clients are not affected.

    Attributes:
        partition: Partition of the training data. ``natural``: by whole units (an alphabet, a speaker);
            ``iid``: evenly at random; ``dirichlet``: every unit in random shares, more uneven with
            smaller `alpha`.
        alpha: Concentration of the Dirichlet distribution; towards infinity shares become equal, towards
            0 each unit goes to a single client.
    """

    partition: Annotated[Scheme, Key(arm="any")] = "natural"
    alpha: Annotated[float, Key(arm="any")] = Field(default=0.5, gt=0.0)


@dataclass(frozen=True)
class Receivers:
    """The clients that a split's items are dealt to.

    Attributes:
        clients: Number of clients.
        at_least: Items that each one needs.
        split: Their split.
        units: Name of the units in messages.
    """

    clients: int
    at_least: int = 1
    split: Split = "train"
    units: str = "units"

    def __str__(self) -> str:
        key = "clients" if self.split == "train" else f"{self.split}_clients"
        return f"{key}: {self.clients} {self.split} clients"

    @property
    def key(self) -> str:
        """The config key of their scheme."""
        return "data.partition" if self.split == "train" else "data.test_partition"


def deal(
    units: Indices, receivers: Receivers, options: PartitionOptions, rng: np.random.Generator
) -> list[Indices]:
    """Deal items to clients; every item goes to exactly one of them.

    Args:
        units: ``[items]``, the unit that each item belongs to.
        receivers: The clients that share the items.
        options: The scheme.
        rng: The random generator.

    Returns:
        The items of each client, in increasing order; nothing if there are no clients.

    Raises:
        ConfigError: If there are too few items or units for the clients.
    """
    clients, at_least = receivers.clients, receivers.at_least
    if clients == 0:
        return []
    if options.partition == "natural":
        _check_natural(len(np.unique(units)), receivers)
    if len(units) < clients * at_least:
        raise ConfigError(
            f"{receivers} need at least {at_least} of the split's {len(units)} items each; "
            f"use {len(units) // at_least} or fewer"
        )
    scheme = {"iid": _iid, "dirichlet": _dirichlet, "natural": _natural}[options.partition]
    for _ in range(_DIRICHLET_DRAWS if options.partition == "dirichlet" else 1):
        owner = scheme(units, clients, options.alpha, rng)
        smallest = int(np.bincount(owner, minlength=clients).min())
        if smallest >= at_least:
            return [np.flatnonzero(owner == client) for client in range(clients)]
    hint = {"dirichlet": f"raise data.alpha (now {options.alpha:g})"}.get(
        options.partition, f"set {receivers.key} to 'iid'"
    )
    raise ConfigError(
        f"{receivers} need at least {at_least} items each, but {receivers.key} = '{options.partition}' "
        f"leaves one with {smallest}; {hint}, or use fewer"
    )


def task_shares(
    clients: int, options: PartitionOptions, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return the shares of each client's tasks from every client's data, ``[clients, clients]``.

    For families whose items cannot be dealt because those of a task belong together. None: each client
    only uses its own data (``natural``).
    """
    if options.partition == "natural":
        return None
    if options.partition == "iid":
        return np.full((clients, clients), 1.0 / clients)
    return _shares(clients, options.alpha, rng, rows=clients)


def _check_natural(units: int, receivers: Receivers) -> None:
    if receivers.clients > units:
        raise ConfigError(
            f"{receivers} need one or more of the split's {units} {receivers.units} each, as "
            f"{receivers.key} = 'natural' deals them whole; use {units} or fewer, "
            f"or set {receivers.key} to 'iid'"
        )


def _iid(units: Indices, clients: int, alpha: float, rng: np.random.Generator) -> Indices:  # noqa: ARG001
    owner = np.empty(len(units), dtype=np.int64)
    owner[rng.permutation(len(units))] = np.arange(len(units)) % clients
    return owner


def _dirichlet(units: Indices, clients: int, alpha: float, rng: np.random.Generator) -> Indices:
    """Split each unit by its own draw of shares, as in Hsu et al. 2019 (arXiv:1909.06335), section 3."""
    owner = np.empty(len(units), dtype=np.int64)
    for unit in np.unique(units):
        items = rng.permutation(np.flatnonzero(units == unit))
        (shares,) = _shares(clients, alpha, rng)
        # Rounding cumulated shares, rather than shares, deals every item exactly once.
        ends = np.rint(np.cumsum(shares) * len(items)).astype(np.int64)
        ends[-1] = len(items)
        # A new order for each unit: with small units, rounding would otherwise favour the same clients.
        order = rng.permutation(clients)
        owner[items] = order[np.searchsorted(ends, np.arange(len(items)), side="right")]
    return owner


def _shares(clients: int, alpha: float, rng: np.random.Generator, rows: int = 1) -> NDArray[np.float64]:
    """Draw ``[rows, clients]`` shares; each row sums to 1, for any positive alpha."""
    return rng.dirichlet(np.full(clients, min(alpha, _EQUAL_ALPHA)), rows)


def _natural(units: Indices, clients: int, alpha: float, rng: np.random.Generator) -> Indices:  # noqa: ARG001
    names, sizes = np.unique(units, return_counts=True)
    owner = np.empty(len(units), dtype=np.int64)
    held = np.zeros(clients, dtype=np.int64)
    shuffled = rng.permutation(len(names))
    # Largest unit first, to the client with the least: as even as whole units allow.
    for place in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        client = int(held.argmin())
        owner[units == names[place]] = client
        held[client] += sizes[place]
    return owner
