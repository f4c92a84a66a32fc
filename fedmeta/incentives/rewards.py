"""Rewards and slashing: turns scores into token units, and decides which clients lose stake."""

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from fedmeta.incentives.rules import IncentiveOptions

ROUND_SCORE = 10**12
"""Cumulative score that the clients of a round share, in fixed point so that sums are exact."""


class RewardAccumulator:
    """Shares each round's pot, by the scores of the round or of the run so far.

    Terms: a *score* is the value of an update in its round; a client's *cumulative score* is the sum of
    its shares of the rounds' scores; a *reward* is its part of a round's pot; and a *claim* withdraws
    all its rewards from the ledger.

    Paying each round's positive scores (``settle = "round"``) pays luck: a free-rider whose scores are
    noise around zero is paid in every second round and never pays back. With ``settle = "run"`` a round
    adds the share ``score_i / sum |score_j|``, which may be negative, to each client's cumulative score
    ``c_i``. A client is owed its part of all positive cumulative scores, of all pots so far, less its
    rewards: ``owed_i = (rewards + pot) * c_i+ / sum c_j+ - rewards_i``. The round's pot is shared in
    proportion to positive amounts owed. So early mistakes are corrected later, in both directions, and
    past scores do not pay forever: a client that stops contributing stops being owed. A client with a
    score of 0 in a round is paid nothing in it, whatever it is owed, and a round without any
    contribution keeps its pot.

    The sum over rounds is the federated Shapley value (Wang, Rausch, Zhang, Jia, Song 2020,
    arXiv:2009.06192, by the linearity of Shapley values), with each round normalised to the weight of
    its pot. Luck can gain at most the maximum of a random walk: if a client's shares have a negative
    mean, it is in expectation at most ``variance / (2 |mean|)`` of cumulative score (Kingman 1962, "Some
    Inequalities for the Queue GI/G/1"), however long the run, while an honest client's grows with the
    rounds.

    Args:
        options: How rounds are settled, and the cap.
        pot: Token units per round.
    """

    def __init__(self, options: IncentiveOptions, pot: int) -> None:
        self.options = options
        self.pot = pot
        self.cumulative: dict[int, int] = {}
        self.rewards: dict[int, int] = {}
        self._positive = 0
        self._total = 0

    def reward(self, scores: Mapping[int, float]) -> dict[int, int]:
        """Return each client's units for a round, and add them to its rewards.

        Args:
            scores: Scores of the admitted clients of the next round, by partition id.
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
        """Restore a finished round of a resumed run; call it in order of rounds."""
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

    Largest remainder (Hamilton's method): each gets the integer part of its exact share, and the
    remaining units go one each to the largest fractional parts, with ties in the order of `scores`.
    Floats are converted to exact fractions and all else is integer arithmetic, so the result is the same
    on every machine.

    A score of zero or less pays nothing. A share above ``cap * pot`` is capped, and the rest stays with
    the sponsor: sharing it out would make one client's limit another's windfall.

    Args:
        scores: Finite scores; higher is better.
        pot: Units to share, at least 0.
        cap: Largest share of the pot for one client; None: no limit.

    Returns:
        Units, in the order of `scores`. They sum to `pot`, to less where the cap applies, or to 0 if no
        score is positive.

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
    # Use the decimal as written, not the nearest binary fraction: 0.3 of 10 is 3.
    limit = pot if cap is None else int(Fraction(repr(cap)) * pot)
    return [min(unit, limit) for unit in units]


def _exact(score: float | Fraction) -> Fraction:
    try:
        return Fraction(score)
    except (ValueError, OverflowError):
        raise ValueError(f"a score of {score} cannot be paid") from None


class SlashingPolicy:
    """Counts refusals that were a client's fault, and decides when it loses stake.

    Args:
        slash_after: Number of such refusals at which a client is slashed.
    """

    def __init__(self, slash_after: int) -> None:
        self.slash_after = slash_after
        self._refused: dict[int, int] = {}
        self._evidence: dict[int, Any] = {}

    def blame(self, client: int, line: bytes) -> tuple[int, bytes] | None:
        """Count a refusal that was the client's fault.

        Args:
            client: The client.
            line: The line of the refusal in ``clients.jsonl``.

        Returns:
            The client and the SHA-256 of its refusals' lines, if this refusal reaches the limit.
        """
        self._refused[client] = count = self._refused.get(client, 0) + 1
        if count > self.slash_after:
            return None
        evidence = self._evidence.setdefault(client, hashlib.sha256())
        evidence.update(line)
        return (client, evidence.digest()) if count == self.slash_after else None
