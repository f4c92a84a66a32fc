"""From a model's name and plain options to a network on the task axis."""

from collections.abc import Mapping
from typing import Any

from fedmeta.learning.base import MODELS, Model
from fedmeta.options import parse_options
from fedmeta.tasks import TaskSpec


def build_model(name: str, network: Mapping[str, Any], spec: TaskSpec, outputs: int | None) -> Model:
    """Build the network called `name`, with `outputs` outputs (None: an embedding without a head).

    Raises:
        ConfigError: For an unknown model or option, or a model that does not fit the tasks.
    """
    part = MODELS.get(name)
    model: Model = part(parse_options(part.Options, network, "network"), spec, outputs)
    return model


def resolve_network(name: str, network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's options with the defaults filled in, as plain values.

    Raises:
        ConfigError: For an unknown model or option, or a bad value.
    """
    part = MODELS.get(name)
    return parse_options(part.Options, network, "network").model_dump()
