"""Built-in and user-defined arms of a comparison."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedmeta.config import Config, parse_settings
from fedmeta.config.identity import in_use, is_within
from fedmeta.errors import ConfigError
from fedmeta.experiment.swap import TABLES, swapped
from fedmeta.options import nearest, parse_options
from fedmeta.parts import FAMILIES

if TYPE_CHECKING:
    from fedmeta.learning import Algorithm

LOCAL_STEPS = 5
"""Local steps of the ``fedavg`` arm."""

PRETRAINED_LR = 1e-3
"""Learning rate of the ``pretrained`` arm where the config's does not apply."""

LINEAR = {"model": "mlp", "network": {"hidden": []}}
"""A linear layer as the model; without a head, the identity."""

OWN_NETWORK = frozenset({"linear", "prototypes"})
"""Arms with another network than the experiment's, as their purpose."""

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One variant in a comparison.

    Attributes:
        name: Its name, which its runs have too.
        what: One sentence for people.
        settings: Changes to the config, by dotted key.
        own_network: Whether its purpose is another network than the experiment's.
        loose: Keys of `settings` to drop, with a note, if a swapped part does not have them.
    """

    name: str
    what: str
    settings: Settings
    own_network: bool = False
    loose: frozenset[str] = frozenset()


class _Base:
    """The config that arms change, and its algorithm."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def algorithm(self) -> "Algorithm":
        """The algorithm, for which the data are loaded."""
        from fedmeta.experiment import planning

        return planning.check(self.config, trial=False).algorithm


def choose(
    config: Config, names: Sequence[str] | None, settings: Settings | None = None
) -> tuple[list[Arm], list[str]]:
    """Return the arms to compare, and a line about each that is left out.

    Args:
        config: The resolved config of the experiment.
        names: Names of arms, the first of which the others are compared with; None: all of
            ``compare.built_in`` and ``compare.arms``.
        settings: Settings that replaced the experiment's values, by dotted key.

    Raises:
        ConfigError: If a name is unknown or repeated, or the task family does not support the arm.
    """
    own = {name: flatten(table) for name, table in config.compare.arms.items()}
    loose = {name: _loose(name, table, settings or {}) for name, table in own.items()}
    others = [name for name in own if name not in BUILT_IN]
    known = [*BUILT_IN, *others]
    base = _Base(config)
    if names is None:
        arms, notes = _all(base, [*_built_in(config), *others], own)
        return [replace(arm, loose=loose.get(arm.name, frozenset())) for arm in arms], notes
    _require_known(names, known)
    arms = [_arm(base, name, own.get(name, {})) for name in names]
    return [replace(arm, loose=loose.get(arm.name, frozenset())) for arm in arms], []


def require_arms(config: Config, names: Sequence[str] | None, settings: Settings) -> None:
    """Refuse unknown arms, and arms of the user's that no config could have; nothing is built for it.

    Args:
        config: The config of the experiment.
        names: As for `choose`.
        settings: Likewise.

    Raises:
        ConfigError: Naming the arm.
    """
    own = config.compare.arms
    if names is not None:
        _require_known(names, [*BUILT_IN, *(name for name in own if name not in BUILT_IN)])
    _built_in(config)
    for name in own:
        changes = flatten(own[name])
        wanted = name not in BUILT_IN and (names is None or name in names)
        if wanted and not _loose(name, changes, settings):
            try:
                parse_options(Config, swapped(config.model_dump() | {"compare": {}}, changes)[0])
            except ConfigError as error:
                raise ConfigError(f"arm '{name}': {error}") from None


def _built_in(config: Config) -> Sequence[str]:
    """Return the built-in arms of a comparison that names none."""
    names = config.compare.built_in
    if names is None:
        return list(BUILT_IN)
    if names or set(config.compare.arms) <= set(BUILT_IN):
        try:
            _require_known(names, list(BUILT_IN))
        except ConfigError as error:
            raise ConfigError(f"compare.built_in: {error}") from None
    return names


def _require_known(names: Sequence[str], known: Sequence[str]) -> None:
    if not names:
        raise ConfigError("there is no arm to compare: " + nearest("", known))
    for place, name in enumerate(names):
        if name not in known:
            raise ConfigError(f"unknown arm '{name}': {nearest(name, known)}")
        if name in names[:place]:
            raise ConfigError(f"arm '{name}' is named twice")


def _loose(name: str, own: Settings, given: Settings) -> frozenset[str]:
    """Return the keys of an arm in the experiment's file that belong to a swapped part."""
    table = f"compare.arms.{name}"
    swapped = [TABLES[part] for part in TABLES if part in given]
    if table in given:
        return frozenset()
    return frozenset(key for key in own if is_within(key, swapped) and f"{table}.{key}" not in given)


def _all(base: _Base, known: Iterable[str], own: Mapping[str, Settings]) -> tuple[list[Arm], list[str]]:
    arms, notes = [], []
    for name in known:
        try:
            arms.append(_arm(base, name, own.get(name, {})))
        except ConfigError as error:
            notes.append(f"{error}: left out")
    return arms, notes


def _arm(base: _Base, name: str, own: Settings) -> Arm:
    if name not in BUILT_IN:
        return Arm(name, "The config with " + _shown(own), own)
    what, settings = BUILT_IN[name]
    changes = f" Changed: {_shown(own)}." if own else ""
    return Arm(name, what + changes, {**settings(base, own), **own}, name in OWN_NETWORK)


def _shown(settings: Settings) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def _centralized(base: _Base, _: Settings) -> dict[str, Any]:
    return {"training": "centralized"} | _no_federation(base.config)


def _federated_iid(base: _Base, _: Settings) -> dict[str, Any]:
    if not _takes(base.config, "partition"):
        raise ConfigError(f"arm 'federated-iid': task '{base.config.task}' has no data.partition")
    return {"data.partition": "iid"} | _federation(base.config)


def _federated(base: _Base, _: Settings) -> dict[str, Any]:
    return _federation(base.config)


def _fedavg(base: _Base, own: Settings) -> dict[str, Any]:
    # A server step along the sum of local gradients, with the local step size, is the average of the
    # clients' weights; anything else would be another algorithm.
    local_lr = own.get("local_lr", base.config.learner.get("inner_lr", base.config.local_lr))
    settings = {
        "algorithm": "fedavg",
        "local_steps": LOCAL_STEPS,
        "local_lr": local_lr,
        "server": {"optimizer": "SGD", "lr": local_lr},
    }
    return settings | _shared_labels(base.config) | _federation(base.config)


def _local(base: _Base, _: Settings) -> dict[str, Any]:
    return {"training": "local"} | _no_federation(base.config)


def _pretrained(base: _Base, _: Settings) -> dict[str, Any]:
    settings: dict[str, Any] = {"algorithm": "pretrained", "training": "centralized"}
    settings |= _shared_labels(base.config)
    if base.config.algorithm == "reptile":
        # Reptile's server steps along weight differences, with rates up to 1: too large for gradients.
        settings["server"] = {"optimizer": "Adam", "lr": PRETRAINED_LR}
    return settings | _no_federation(base.config)


def _untrained(base: _Base, _: Settings) -> dict[str, Any]:
    return {"rounds": 0, "training": "centralized"} | _no_federation(base.config)


def _linear(base: _Base, _: Settings) -> dict[str, Any]:
    spec = base.algorithm.spec
    if spec.vocabulary or spec.graph:
        inputs = "tokens" if spec.vocabulary else "graphs"
        raise ConfigError(f"arm 'linear': a linear layer cannot read {inputs}")
    if base.algorithm.model_outputs(spec) is None:
        raise ConfigError(f"arm 'linear': algorithm '{base.config.algorithm}' has no head to train")
    return LINEAR | _federation(base.config)


def _prototypes(base: _Base, _: Settings) -> dict[str, Any]:
    algorithm = base.algorithm
    if not algorithm.objective.labels or algorithm.spec.vocabulary:
        raise ConfigError("arm 'prototypes': it needs classification with one label per example")
    if algorithm.spec.graph:
        raise ConfigError("arm 'prototypes': the mean of graphs is not a prototype")
    # Without hidden layers and without a head the embedding is the input itself.
    untrained = {"algorithm": "protonet", "rounds": 0, "training": "centralized"}
    return LINEAR | untrained | _no_federation(base.config)


def _shared_labels(config: Config) -> dict[str, Any]:
    """Return settings with global labels, if the family has the choice."""
    return {"data.labels": "global"} if _takes(config, "labels") else {}


def _takes(config: Config, key: str) -> bool:
    options = FAMILIES.options(config.task)
    return options is not None and key in options.model_fields


def _federation(config: Config) -> dict[str, Any]:
    """Return settings that make a config federated."""
    return {} if config.training == "federated" else {"training": "federated"}


def _no_federation(config: Config) -> dict[str, Any]:
    """Return settings that turn off everything that only federated training supports."""
    return in_use(config, "federated")


BUILT_IN: dict[str, tuple[str, Callable[[_Base, Settings], dict[str, Any]]]] = {
    "centralized": ("One learner draws from the pooled tasks of all training clients.", _centralized),
    "federated-iid": ("The federation, with data dealt evenly at random.", _federated_iid),
    "federated": ("The federation as configured.", _federated),
    "fedavg": (
        "FedAvg: plain local training, averaged weights, fine-tuned on each test task.",
        _fedavg,
    ),
    "local": ("Each training client alone; results are means over their models.", _local),
    "pretrained": (
        "Ordinary supervised training on the pooled data, fine-tuned on each test task.",
        _pretrained,
    ),
    "untrained": ("The randomly initialised network, adapted to each test task.", _untrained),
    "linear": ("The federation with a linear layer in place of the network.", _linear),
    "prototypes": ("The nearest class mean of the raw inputs: nothing is learned.", _prototypes),
}
"""Description and settings of each arm, given the base and the arm's own table."""


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_arms(texts: Iterable[str]) -> dict[str, Settings]:
    """Parse ``name:key=value,...`` of the command line, ignoring commas within brackets and quotes.

    Returns:
        Settings of ``compare.arms`` by arm.

    Raises:
        ConfigError: If a text does not have this form.
    """
    arms: dict[str, Settings] = {}
    for text in texts:
        name, colon, pairs = text.partition(":")
        parts = list(_split(pairs))
        if not colon or not name.strip() or not all("=" in part for part in parts):
            raise ConfigError(
                f"--arm {text}: expected name:key=value,..., such as --arm fewer:cohort=8,local_steps=3"
            )
        arms[name.strip()] = {**arms.get(name.strip(), {}), **parse_settings(parts)}
    return arms


def _split(text: str) -> Iterable[str]:
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]
