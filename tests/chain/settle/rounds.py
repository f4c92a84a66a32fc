"""Synthetic rounds with seeded contributions and rewards."""

import hashlib
import random

from fedmeta.chain.settle.journal_rows import Contribution, FrozenRound

POT = 1_000_000


def account(client: int) -> str:
    """An address without a known key."""
    return "0x" + hashlib.sha256(b"account %d" % client).hexdigest()[:40]


def synthetic_round(round_: int, clients: int = 4, seed: int = 0, pot: int = POT) -> FrozenRound:
    """A round in which each client earns a random part of the pot; round 3 of each 5 was skipped."""
    generator = random.Random(f"{seed} {round_}")
    cuts = sorted(generator.randrange(pot) for _ in range(clients - 1))
    rewards = [b - a for a, b in zip([0, *cuts], [*cuts, pot], strict=True)]
    contributions = tuple(
        Contribution(
            client=client,
            account=account(client),
            tasks=generator.randrange(1, 9),
            update=generator.randbytes(32),
            signature=generator.randbytes(65),
            score=generator.random(),
            reward=reward,
        )
        for client, reward in enumerate(rewards)
    )
    skipped = round_ % 5 == 3
    return FrozenRound(
        round_, generator.randbytes(32), generator.randbytes(32), () if skipped else contributions
    )


def synthetic_rounds(last: int, first: int = 1, **settings: int) -> list[FrozenRound]:
    return [synthetic_round(round_, **settings) for round_ in range(first, last + 1)]
