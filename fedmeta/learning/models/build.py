"""From a model's name and plain options to a network on the task axis."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from fedmeta.errors import ConfigError
from fedmeta.learning.algorithm import MODELS, Model
from fedmeta.learning.models.module import ModuleModel
from fedmeta.options import Options, parse_options
from fedmeta.tasks import TaskSpec


def build_model(
    name: str, network: Mapping[str, Any], spec: TaskSpec, outputs: int | None, seed: int = 0
) -> Model:
    """Build the network called `name`, with `outputs` outputs (None: an embedding without a head).

    The constants of a `torch.nn.Module`, such as frozen layers, are drawn from `seed`.

    Raises:
        ConfigError: For an unknown model or option, or a model that does not fit the tasks.
    """
    part = _part(name)
    if issubclass(part, nn.Module):
        return ModuleModel(part, network, spec, outputs, seed)
    model: Model = part(parse_options(part.Options, network, "network"), spec, outputs)
    return model


def resolve_network(name: str, network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's options with the defaults filled in, as plain values.

    A `torch.nn.Module` has no declared options: its keyword arguments are returned as they are.

    Raises:
        ConfigError: For an unknown model or option, or a bad value.
    """
    part = _part(name)
    if issubclass(part, nn.Module):
        return dict(network)
    resolved: dict[str, Any] = parse_options(part.Options, network, "network").model_dump()
    return resolved


def _part(name: str) -> Any:
    part = MODELS.get(name)
    options = getattr(part, "Options", None)
    declared = isinstance(options, type) and issubclass(options, Options)
    if not isinstance(part, type) or not (declared or issubclass(part, nn.Module)):
        raise ConfigError(f"model '{name}' is neither a torch.nn.Module class nor a fedmeta model class")
    return part
