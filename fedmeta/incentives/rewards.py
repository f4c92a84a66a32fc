"""Rewards and slashing: scores become whole token units, and which clients lose stake, and why."""

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from fedmeta.incentives.rules import IncentiveOptions

ROUND_SCORE = 10**12
"""Cumulative score that the clients of a round share: fixed point, so that sums stay exact and short."""


class RewardAccumulator:
    """Shares each round's pot, by that round's scores alone or by all of them.

    On the way from an update to tokens each thing has one word: a *score* is what an update was worth in
    its round, the *cumulative score* of a client is the sum of its shares of the rounds' scores, a
    *reward* is what it gets of a round's pot, and a *claim* takes all its rewards from the ledger.

    Paying each round's positive scores (``settle = "round"``) pays luck: a free-rider whose scores
    are noise about zero is paid in every second round and never pays back. With ``settle = "run"`` a
    round adds its share ``score_i / sum |score_j|``, negative ones too, to each client's cumulative
    score ``c_i``, and a client is owed what its part of all positive ones says of all pots so far, less
    its rewards: ``owed_i = (rewards + pot) * c_i+ / sum c_j+ - rewards_i``. The round's pot is shared by
    what is owed, where that is positive. So an early mistake is made good later, in both directions, and
    nobody lives on past scores: who stops adding stops being owed. Who adds nothing in a round (a score
    of 0) is paid nothing in it, whatever it is owed, and a round to which nobody added anything keeps
    its pot.

    The sum over rounds is the federated Shapley value's (Wang, Rausch, Zhang, Jia, Song 2020,
    arXiv:2009.06192, by the linearity of Shapley values), each round normalised to weigh as much as its
    pot does. Luck is paid for the highest point of a random walk: if a client's shares have a negative
    mean, ``variance / (2 |mean|)`` of cumulative score at most in expectation (Kingman 1962, "Some
    Inequalities for the Queue GI/G/1"), however long the run, while an honest client's grows with the
    rounds.

    Args:
        options: Rule of settlement, and the cap.
        pot: Token units a round.
    """

    def __init__(self, options: IncentiveOptions, pot: int) -> None:
        self.options = options
        self.pot = pot
        self.cumulative: dict[int, int] = {}
        self.rewards: dict[int, int] = {}
        self._positive = 0
        self._total = 0

    def reward(self, scores: Mapping[int, float]) -> dict[int, int]:
        """Return the units that each client of a round gets, and remember them.

        Args:
            scores: By partition id, of the admitted clients of the next round.
        """
        clients = sorted(scores)
        self._add_scores(scores)
        if self.options.settle == "round":
            owed: list[Fraction] = [Fraction(scores[client]) for client in clients]
        else:
            owed = [self._owed(client) if scores[client] else Fraction(0) for client in clients]
        units = allocate(owed, self.pot, self.options.cap)
        rewards = dict(zip(clients, units, strict=True))
        self._add_rewards(rewards)
        return rewards

    def replay(self, scores: Mapping[int, float], rewards: Mapping[int, int]) -> None:
        """Take over a finished round, in the order of rounds, when a run is resumed."""
        self._add_scores(scores)
        self._add_rewards(rewards)

    def _owed(self, client: int) -> Fraction:
        score = max(self.cumulative[client], 0)
        if not score:
            return Fraction(0)
        entitled = Fraction((self._total + self.pot) * score, self._positive)
        return max(entitled - self.rewards.get(client, 0), Fraction(0))

    def _add_scores(self, scores: Mapping[int, float]) -> None:
        exact = {client: Fraction(score) for client, score in scores.items()}
        size = sum(map(abs, exact.values()), Fraction(0))
        for client, score in exact.items():
            before = self.cumulative.get(client, 0)
            after = before + (int(ROUND_SCORE * score / size) if size else 0)
            self.cumulative[client] = after
            self._positive += max(after, 0) - max(before, 0)

    def _add_rewards(self, rewards: Mapping[int, int]) -> None:
        for client, units in rewards.items():
            self.rewards[client] = self.rewards.get(client, 0) + units
            self._total += units


def allocate(scores: Sequence[float | Fraction], pot: int, cap: float | None = None) -> list[int]:
    """Share a pot in proportion to the positive scores, in whole units.

    Largest remainder (Hamilton's method): everyone gets the whole part of its exact share, and the units
    that are left go one each to the largest fractional parts, equal ones in the order of `scores`.
    Floats are read as the rationals that they are and all else is integer arithmetic, so the result is
    the same on every machine.

    A score of zero or less pays nothing. If no score is positive nothing is paid. A share above
    ``cap * pot`` is cut there, and what is cut off is paid to nobody: it stays with the sponsor.
    Handing it to the others would make one client's limit another's windfall.

    Args:
        scores: Higher is better; finite.
        pot: Units to share, at least 0.
        cap: Largest share of the pot for one; None: no limit.

    Returns:
        Units, in the order of `scores`. They sum to `pot`, or to less where the cap binds, or to 0.

    Raises:
        ValueError: If a score is not finite or the pot negative.
    """
    if pot < 0:
        raise ValueError(f"a pot of {pot} units cannot be shared")
    weights = [max(_exact(score), Fraction(0)) for score in scores]
    total = sum(weights, Fraction(0))
    if not total:
        return [0] * len(weights)
    shares = [pot * weight / total for weight in weights]
    units = [share.numerator // share.denominator for share in shares]
    left = pot - sum(units)
    by_remainder = sorted(range(len(units)), key=lambda i: (units[i] - shares[i], i))
    for place in by_remainder[:left]:
        units[place] += 1
    # The decimal that somebody wrote is meant, not the nearest binary fraction: 0.3 of 10 is 3.
    limit = pot if cap is None else int(Fraction(repr(cap)) * pot)
    return [min(unit, limit) for unit in units]


def _exact(score: float | Fraction) -> Fraction:
    try:
        return Fraction(score)
    except (ValueError, OverflowError):
        raise ValueError(f"a score of {score} cannot be paid") from None


class SlashingPolicy:
    """Counts updates that were refused for what they were.

    Args:
        slash_after: How many of them are too many.
    """

    def __init__(self, slash_after: int) -> None:
        self.slash_after = slash_after
        self._refused: dict[int, int] = {}
        self._evidence: dict[int, Any] = {}

    def blame(self, client: int, line: bytes) -> tuple[int, bytes] | None:
        """Count a refusal that was the client's fault.

        Args:
            client: The client.
            line: The refusal as it stands in ``clients.jsonl``.

        Returns:
            The client, and the SHA-256 of all lines against it, if this is the one too many.
        """
        self._refused[client] = count = self._refused.get(client, 0) + 1
        if count > self.slash_after:
            return None
        evidence = self._evidence.setdefault(client, hashlib.sha256())
        evidence.update(line)
        return (client, evidence.digest()) if count == self.slash_after else None
