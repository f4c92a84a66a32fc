"""The server's step: any `torch.optim` optimizer, fed the aggregated pseudo-gradient."""

import inspect
import math
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import torch

from fedmeta.errors import ConfigError
from fedmeta.federation.postprocessors import Postprocessing
from fedmeta.federation.round_plan import ServerOptions
from fedmeta.learning import Tensors


def _rows(tensors: Tensors) -> Tensors:
    """Add a leading axis of size 1 to tensors."""
    return {key: value[None] for key, value in tensors.items()}


@cache
def _eager(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return `kind` without its `torch.compile` hooks, which take seconds to import the compiler."""
    own = {
        name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "step")
    }
    return type(kind.__name__, (kind,), own | {"step": torch.no_grad()(own["step"])})


def _build(options: ServerOptions, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    kind: Any = _eager(getattr(torch.optim, options.optimizer))
    # As a group: torch refuses a bare list without parameters, but a state may have no weights.
    built: torch.optim.Optimizer = kind([{"params": parameters}], lr=options.lr, **options.options)
    return built


def _why_not(options: ServerOptions, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"torch.optim.{options.optimizer} cannot be the server's optimizer with these options: {reason}"
    )


def require_fits(options: ServerOptions, state: Tensors) -> None:
    """Check that the optimizer can step on tensors of these shapes: Muon, for one, only takes matrices.

    Raises:
        ConfigError: If it does not.
    """
    trial = torch.zeros(2, 2)
    trial.grad = torch.zeros(2, 2)
    try:
        _build(options, [trial]).step()
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"server: {_why_not(options, error)}") from None
    ServerOptimizer(options, state, 1)


def learning_rate(options: ServerOptions, round_: int, rounds: int) -> float:
    """Return the learning rate of a round in ``1..rounds``: a pure function, so resuming needs no state.

    ``linear`` falls from ``lr`` in the first round to ``lr / rounds`` in the last, like Reptile's meta
    step size (Nichol et al. 2018, section 6); ``cosine`` is Loshchilov and Hutter 2017, equation 5, and
    reaches 0 after the last round.
    """
    done = (round_ - 1) / rounds
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return options.lr * factor[options.schedule]


class ServerOptimizer:
    """Holds the meta-learned state and steps it.

    Args:
        options: The optimizer and its options.
        state: The state to start from; it is copied.
        rounds: Length of the schedule.
        added: Tensors to which updates are added directly, without the optimizer.
        postprocessing: Applied to each pseudo-gradient before the step; None: nothing.

    Raises:
        ConfigError: If the optimizer does not take tensors of these shapes.
    """

    def __init__(
        self,
        options: ServerOptions,
        state: Tensors,
        rounds: int,
        added: Collection[str] = (),
        postprocessing: Postprocessing | None = None,
    ) -> None:
        self.options = options
        self._postprocessing = postprocessing
        self._remembered = _rows(postprocessing.init) if postprocessing else {}
        self.rounds = rounds
        self.added = sorted(added)
        # A fixed order: the last bit of sums over tensors depends on it, and a checkpoint returns
        # tensors sorted by name.
        self._state = {key: state[key].detach().clone() for key in sorted(state)}
        # An optimizer does not step integers, such as a step count.
        self._keys = [
            key for key, value in self._state.items() if value.is_floating_point() and key not in added
        ]
        try:
            self._optimizer = _build(options, [self._state[key] for key in self._keys])
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"server: {_why_not(options, error)}") from None

    @property
    def state(self) -> Tensors:
        """A copy of the current state."""
        return {key: value.clone() for key, value in self._state.items()}

    def step(self, round_: int, pseudo_gradient: Tensors) -> None:
        """Step along the clipped pseudo-gradient at the rate of `round_`, and add to `added` tensors."""
        if self._postprocessing:
            rows, self._remembered = self._postprocessing(_rows(pseudo_gradient), self._remembered)
            pseudo_gradient = {key: value[0] for key, value in rows.items()}
        scale = self._clip_factor(pseudo_gradient)
        for key in self._keys:
            gradient = pseudo_gradient[key].to(self._state[key].dtype)
            self._state[key].grad = gradient if scale is None else gradient * scale
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.options, round_, self.rounds)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        for key in self.added:
            self._state[key] += pseudo_gradient[key].to(self._state[key].dtype)

    def preview(self, round_: int, pseudo_gradient: Tensors) -> Tensors:
        """Return the state that `step` would lead to, without taking the step."""
        before, memory = self.state, self.export()
        try:
            self.step(round_, pseudo_gradient)
            return self.state
        finally:
            self.put(before)
            self._optimizer.state.clear()
            self._take(memory)

    def put(self, state: Tensors) -> None:
        """Set the state to one computed elsewhere."""
        for key, value in state.items():
            self._state[key].copy_(value)

    def _clip_factor(self, pseudo_gradient: Tensors) -> float | None:
        limit = self.options.clip_norm
        if limit is None:
            return None
        norm = math.sqrt(sum(float(pseudo_gradient[k].double().square().sum()) for k in self._keys))
        return limit / norm if norm > limit else None

    def export(self) -> Tensors:
        """Return the optimizer's own state as flat tensors, for a checkpoint."""
        flat = {key: value.clone() for key, value in self._remembered.items()}
        for key in self._keys:
            for name, value in self._optimizer.state.get(self._state[key], {}).items():
                if isinstance(value, torch.Tensor):
                    flat[f"{key}/{name}"] = value.detach().clone()
                elif value is not None:
                    flat[f"{key}/{name}:{type(value).__name__}"] = torch.tensor(
                        value, dtype=_WIDE[type(value)]
                    )
        return flat

    def restore(self, flat: Mapping[str, torch.Tensor]) -> None:
        """Restore what `export` returned, so that later steps are the same bit for bit.

        Raises:
            ConfigError: If it belongs to a state with other tensors, or to another optimizer.
        """
        try:
            self._take(flat)
            if flat:
                # Try the restored state in a step with a zero gradient, on a copy.
                aside = ServerOptimizer(
                    self.options, self._state, self.rounds, self.added, self._postprocessing
                )
                aside._take(flat)
                aside.step(1, {key: torch.zeros_like(value) for key, value in self._state.items()})
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"the optimizer's state is not that of {self.options.optimizer}: {why}"
            ) from None

    def _take(self, flat: Mapping[str, torch.Tensor]) -> None:
        for path, value in flat.items():
            if path in self._remembered:
                self._remembered[path] = value.detach().clone()
                continue
            key, _, name = path.rpartition("/")
            if key not in self._keys:
                raise ConfigError(
                    f"the optimizer's state holds '{path}', but there is no '{key}' to optimize"
                )
            name, _, plain = name.partition(":")
            # Optimizer.load_state_dict would cast some values to the parameter's dtype.
            self._optimizer.state[self._state[key]][name] = (
                value.item() if plain else value.detach().clone()
            )


_WIDE: dict[type, torch.dtype] = {int: torch.int64, float: torch.float64, bool: torch.bool}
