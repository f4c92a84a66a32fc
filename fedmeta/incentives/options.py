"""How contributions are scored and paid: every setting, and where it comes from."""

from inspect import isabstract
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fedmeta.errors import ConfigError
from fedmeta.options import Key, Options, nearest
from fedmeta.registry import Registry

NOTHING = "none"
"""The rule by which nobody is paid."""
INCENTIVE_RULES: Registry[Any] = Registry("incentives.rule", "fedmeta.incentives.rules", separator="-")
"""Subclasses of `fedmeta.incentives.rules.IncentiveRule`."""


class ShapleyOptions(Options):
    """GTG-Shapley's settings (Liu et al. 2022, arXiv:2109.02053); theirs are the defaults but for scale.

    Their thresholds are in accuracy. Ours are shares of what the round gained, ``|v(all) - v(none)|``,
    because a utility may be a loss of any size.

    Attributes:
        exact: Cohorts of at most this many clients are valued exactly, over all ``2^n`` coalitions.
        permutations: Most permutations of a round.
        truncation: Within a permutation, the rest is worth nothing once this share of the round's gain
            is all that is left to explain (within-round truncation); 0: never.
        negligible: A round is worth nothing to anybody if the loss changed by no more than this
            (between-round truncation), in units of the loss; 0: every round counts.
        convergence: Permutations end once the values of the last ten of them differ by no more than
            this share of their mean size.
    """

    exact: int = Field(default=5, ge=0, le=16)
    permutations: int = Field(default=200, ge=1)
    truncation: float = Field(default=0.001, ge=0, lt=1)
    negligible: float = Field(default=0.0, ge=0)
    convergence: float = Field(default=0.05, gt=0)


class IncentiveOptions(Options):
    """What an update was worth and what it is paid.

    Attributes:
        rule: How the admitted updates of a round are scored: ``equal``, ``tasks``, ``leave-one-out``,
            ``shapley``, ``cosine``, or the dotted path of an `IncentiveRule`; ``none``: nothing is paid.
        settle: What a round's pot follows: ``run``, all scores so far, so that luck evens out, or
            ``round``, that round's scores alone.
        cap: Largest share of a round's pot for one participant; what is cut off is not paid.
        absent: In the model of a coalition the others' updates are ``zero`` (everybody keeps its weight
            in the round) or ``excluded`` (the coalition's weights are scaled up to 1).
        longest: An update longer than this many median lengths of its round is measured as if it were
            just so long, so that exaggerating does not pay; 0: as long as it is.
        tasks: Held-out tasks that measure a round, shared by all its coalitions.
        steps: Adaptation steps before the loss on them is measured.
        shapley: Settings of the ``shapley`` rule.
    """

    rule: Annotated[str, Key(training="federated")] = NOTHING
    settle: Literal["run", "round"] = "run"
    cap: float | None = Field(default=None, gt=0, le=1)
    absent: Literal["zero", "excluded"] = "zero"
    longest: float = Field(default=1.5, ge=0)
    tasks: int = Field(default=32, ge=1)
    steps: int = Field(default=1, ge=0)
    shapley: ShapleyOptions = ShapleyOptions()

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
            ConfigError: If the rule is unknown, or what a dotted path leads to is not one.
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
        """Whether the rule measures models on held-out tasks, those of the validation clients."""
        return self.rule != NOTHING and bool(self.kind.needs_held_out)
