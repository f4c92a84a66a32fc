"""A first config for a user's data; a comment gives the reason for each choice."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli_w

_WIDTH = 98


@dataclass(frozen=True)
class Choice:
    """A key of a config.

    Attributes:
        key: Its name within its table.
        value: Its value.
        why: The reason, or a reason to change it; empty: no comment.
    """

    key: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class Starter:
    """A config that runs, before it is written.

    Attributes:
        about: A sentence that describes the data.
        keys: The keys outside of tables.
        tables: The keys of each table, by its name.
    """

    about: str
    keys: tuple[Choice, ...]
    tables: Mapping[str, Sequence[Choice]]

    def text(self) -> str:
        """Return the config as TOML with comments."""
        lines = [*_comment(self.about), "", *_written(self.keys)]
        for name, choices in self.tables.items():
            lines += ["", f"[{name}]", *_written(choices)]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Training:
    """Number of clients, and how many are held out.

    Attributes:
        clients: Number of clients.
        held_out: Number of test clients among them.
    """

    clients: int
    held_out: int

    @staticmethod
    def of(clients: int) -> "Training":
        """Hold out a fifth of the clients, if there are two or more."""
        return Training(clients, max(round(clients / 5), 1) if clients > 1 else 0)

    def keys(self, rounds: int, whole: str) -> tuple[Choice, ...]:
        """Return the keys of the federation.

        Args:
            rounds: Rounds to train.
            whole: The reason for the number of clients.
        """
        training = self.clients - self.held_out
        without = "" if self.held_out else " One client trains, so none is left for a test."
        return (
            Choice("rounds", rounds, "More rounds learn more; `-s rounds=20` is a quick try."),
            Choice("clients", self.clients, whole),
            Choice(
                "test_clients",
                self.held_out,
                "They never train, so they show how well the model adapts to new clients." + without,
            ),
            Choice("cohort", min(training, 10), f"Training clients per round, of {training}."),
            Choice("tasks_per_client", 2, "Tasks per client and round."),
            Choice("checkpoint_every", 50),
        )


def _written(choices: Sequence[Choice]) -> Iterator[str]:
    for choice in choices:
        yield from _comment(choice.why)
        yield f"{choice.key} = {_value(choice.value)}"


def _value(value: Any) -> str:
    """Return a value as TOML, a list on one line if it fits."""
    if not isinstance(value, list):
        return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
    parts = [_value(one) for one in value]
    line = f"[{', '.join(parts)}]"
    return line if len(line) <= _WIDTH else "[\n" + "".join(f"    {part},\n" for part in parts) + "]"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)]
