"""`IncentiveRule`, the base class of rules that score a round's updates, and ``[incentives]``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from inspect import isabstract
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator

import fedmeta.options
from fedmeta import parts
from fedmeta.errors import ConfigError, FedmetaError, RunError
from fedmeta.options import Key, Options, nearest
from fedmeta.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from fedmeta.incentives.game import Game

NOTHING = "none"
"""The rule that pays nothing."""
INCENTIVE_RULES: Registry[Any] = parts.INCENTIVE_RULES
"""Subclasses of `IncentiveRule`."""


class IncentiveRule(ABC):
    """Base class: scores the updates of a round. A user's own rule is named by its dotted path.

    Args:
        options: ``[incentives]`` of the config.
    """

    Options: ClassVar[type[fedmeta.options.Options]] = fedmeta.options.Options
    """Settings of one of fedmeta's rules, in a table named after its file: ``[incentives.shapley]``."""
    own: Any
    needs_vectors: ClassVar[bool] = False
    """Whether the rule reads the updates' values."""
    needs_held_out: ClassVar[bool] = False
    """Whether the rule measures models on held-out tasks, those of the validation clients."""

    def __init__(self, options: IncentiveOptions) -> None:
        self.options = options
        self.own = getattr(options, type(self).__module__.rpartition(".")[2], None) or self.Options()

    @abstractmethod
    def scores(self, game: Game, rng: np.random.Generator) -> list[float]:
        """Return a finite score for each player of a round; higher is better.

        Args:
            game: The round, with at least one player and updates that do not cancel.
            rng: Random generator for rules that sample.
        """


class _Common(Options):
    """Scoring and pay of updates.

    Attributes:
        rule: How the admitted updates of a round are scored: ``equal``, ``tasks``, ``leave-one-out``,
            ``shapley``, ``cosine``, or the dotted path of an `IncentiveRule`; ``none``: nothing is paid.
        settle: How a round's pot is shared: ``run``: by all scores so far, so that luck evens out;
            ``round``: by that round's scores only.
        cap: Largest share of a round's pot for one participant; the rest is not paid.
        absent: In the model of a coalition, the others' updates are ``zero`` (members keep their weights
            in the round) or ``excluded`` (members' weights are scaled up to sum to 1).
        longest: Updates longer than this many median lengths of their round are scored as if scaled down
            to it, so that exaggerating does not pay; 0: no limit.
        tasks: Held-out tasks to score a round on, shared by all its coalitions.
        steps: Adaptation steps before the loss on these tasks is measured.
    """

    rule: Annotated[str, Key(training="federated")] = NOTHING
    settle: Literal["run", "round"] = "run"
    cap: float | None = Field(default=None, gt=0, le=1)
    absent: Literal["zero", "excluded"] = "zero"
    longest: float = Field(default=1.5, ge=0)
    tasks: int = Field(default=32, ge=1)
    steps: int = Field(default=1, ge=0)


def _declared_by_rules() -> dict[str, Any]:
    """Return the table of each rule that has its own settings, by the name of its file."""
    kinds = {name.replace("-", "_"): INCENTIVE_RULES.get(name).Options for name in INCENTIVE_RULES}
    return {name: (kind, kind()) for name, kind in kinds.items() if kind.model_fields}


if TYPE_CHECKING:

    class _OfRules(Options): ...

else:
    # Each rule declares its settings in its own file; here they become tables of one class.
    _OfRules = create_model("_OfRules", __base__=Options, **_declared_by_rules())


class IncentiveOptions(_OfRules, _Common):
    """Scoring and pay of updates: common settings, and each rule's own table."""

    @field_validator("rule")
    @classmethod
    def _is_known(cls, rule: str) -> str:
        known = (NOTHING, *INCENTIVE_RULES)
        if rule not in known and "." not in rule and ":" not in rule:
            raise ValueError(f"unknown rule '{rule}': {nearest(rule, known)}")
        return rule

    @property
    def kind(self) -> Any:
        """The class of the rule.

        Raises:
            ConfigError: If the rule is unknown, or a dotted path does not lead to one.
        """
        kind = INCENTIVE_RULES.get(self.rule)
        has = all(hasattr(kind, name) for name in ("scores", "needs_vectors", "needs_held_out"))
        if not (isinstance(kind, type) and has) or isabstract(kind):
            raise ConfigError(
                f"incentives.rule: '{self.rule}' is not a subclass of fedmeta.incentives.IncentiveRule"
            )
        return kind

    @property
    def needs_vectors(self) -> bool:
        """Whether the rule reads the updates' values."""
        return self.rule != NOTHING and bool(self.kind.needs_vectors)

    @property
    def needs_held_out(self) -> bool:
        """Whether the rule measures models on held-out tasks, which are the validation clients'."""
        return self.rule != NOTHING and bool(self.kind.needs_held_out)


def score(options: IncentiveOptions, game: Game, rng: np.random.Generator) -> list[float]:
    """Score every player of a round by the rule of `options`; higher is better.

    Under every rule these score 0: zero updates, all updates of a round whose updates cancel, and scores
    that do not differ from 0 beyond rounding.

    Args:
        options: The rule and its settings.
        game: The round; a game without players has no scores.
        rng: Random generator for rules that sample.

    Returns:
        Finite scores, in the order of the players.

    Raises:
        RunError: If a user's own rule fails, or does not return one finite score for each player.
    """
    players = game.players
    if options.rule == NOTHING or players.cancel:
        return [0.0] * len(players)
    scores = _scores(options, game, rng)
    noise = 0.0
    if options.needs_held_out:
        # Scores are means of differences of utilities, each as uncertain as that of the whole round.
        noise = game.precision * abs(game.value(game.everybody))
    return [
        0.0 if player in players.idle or abs(found) <= noise else found
        for player, found in enumerate(scores)
    ]


def _scores(options: IncentiveOptions, game: Game, rng: np.random.Generator) -> list[float]:
    where = f"incentives.rule '{options.rule}'"
    try:
        scores = [float(one) for one in options.kind(options).scores(game, rng)]
    except FedmetaError:
        raise
    except Exception as error:
        # A user's rule may fail in any way.
        raise RunError(f"{where} failed: {type(error).__name__}: {error}") from error
    if len(scores) != len(game.players):
        raise RunError(f"{where} returned {len(scores)} scores for {len(game.players)} clients")
    if not all(map(math.isfinite, scores)):
        raise RunError(f"{where} returned a score that is not finite: {scores}")
    return scores
