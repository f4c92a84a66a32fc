"""How the items of one split (characters, images, texts) are dealt to the clients of that split."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedmeta.errors import ConfigError
from fedmeta.options import Options

Indices = NDArray[np.int64]

_DIRICHLET_DRAWS = 200


class PartitionOptions(Options):
    """How a split's items are dealt to its clients.

    Attributes:
        partition: ``natural``: whole units (an alphabet, a speaker); ``iid``: evenly at random;
            ``dirichlet``: every unit in random shares, the more uneven the smaller `alpha`.
        alpha: Concentration of the Dirichlet distribution.
    """

    partition: Literal["natural", "iid", "dirichlet"] = "natural"
    alpha: float = Field(default=0.5, gt=0.0)


def deal(
    units: Indices, clients: int, options: PartitionOptions, rng: np.random.Generator, at_least: int = 1
) -> list[Indices]:
    """Deal items to clients; every item goes to exactly one of them.

    Args:
        units: ``[items]``, the unit that each item belongs to.
        clients: How many clients share the items.
        options: The scheme.
        rng: The source of all randomness.
        at_least: Items that every client needs.

    Returns:
        The items of each client, in increasing order; nothing if there are no clients.

    Raises:
        ConfigError: If the items or units cannot serve so many clients.
    """
    if clients == 0:
        return []
    if len(units) < clients * at_least:
        raise ConfigError(
            f"{clients} clients need {at_least} items each, but this split holds {len(units)}; "
            f"use {len(units) // at_least} clients or fewer"
        )
    scheme = {"iid": _iid, "dirichlet": _dirichlet, "natural": _natural}[options.partition]
    for _ in range(_DIRICHLET_DRAWS if options.partition == "dirichlet" else 1):
        owner = scheme(units, clients, options.alpha, rng)
        smallest = int(np.bincount(owner, minlength=clients).min())
        if smallest >= at_least:
            return [np.flatnonzero(owner == client) for client in range(clients)]
    hint = {"dirichlet": f"raise data.alpha (now {options.alpha:g})"}.get(
        options.partition, "set data.partition to 'iid'"
    )
    raise ConfigError(
        f"the {options.partition} partition leaves a client with {smallest} of the {at_least} items it "
        f"needs; {hint} or use fewer clients than {clients}"
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
        shares = rng.dirichlet(np.full(clients, alpha))
        # Rounding the cumulated shares, not the shares, is what deals every item exactly once.
        ends = np.rint(np.cumsum(shares) * len(items)).astype(np.int64)
        ends[-1] = len(items)
        owner[items] = np.searchsorted(ends, np.arange(len(items)), side="right")
    return owner


def _natural(units: Indices, clients: int, alpha: float, rng: np.random.Generator) -> Indices:  # noqa: ARG001
    names, sizes = np.unique(units, return_counts=True)
    if clients > len(names):
        raise ConfigError(
            f"the natural partition gives whole units to clients, and {len(names)} units cannot serve "
            f"{clients} clients; use {len(names)} or fewer, or set data.partition to 'iid'"
        )
    owner = np.empty(len(units), dtype=np.int64)
    held = np.zeros(clients, dtype=np.int64)
    shuffled = rng.permutation(len(names))
    # Largest unit first, to the client that holds least: shares as even as whole units allow.
    for place in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        client = int(held.argmin())
        owner[units == names[place]] = client
        held[client] += sizes[place]
    return owner
