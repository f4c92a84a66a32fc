"""Counts a user's examples by client and class, and chooses task sizes that they allow."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmeta.errors import DataError
from fedmeta.tasks.data.text_files import visible
from fedmeta.tasks.own.starter import Choice, Starter, Training

MOST_SKIPPED = 50
"""Most paths in ``data.skip`` of a first config."""
_WAYS, _QUERIES = 5, 5


@dataclass(frozen=True)
class Counts:
    """Examples by client and class.

    Attributes:
        by_client: Number of examples of each class of each client; a single client without a name
            if there are no clients.
        what: The examples' name, such as ``images``.
    """

    by_client: Mapping[str, Mapping[str, int]]
    what: str

    @staticmethod
    def of(clients: Iterable[str], labels: Iterable[str], what: str) -> "Counts":
        """Count examples, each of a client and class."""
        found: dict[str, Counter[str]] = {}
        for client, label in zip(clients, labels, strict=True):
            found.setdefault(client, Counter())[label] += 1
        return Counts(found, what)

    @property
    def named(self) -> bool:
        """Whether there are clients."""
        return "" not in self.by_client

    @property
    def classes(self) -> Counter[str]:
        """Number of examples of each class, over all clients."""
        return sum((Counter(own) for own in self.by_client.values()), Counter())

    def lines(self) -> list[tuple[str, str]]:
        """Return the counts for people."""
        if not self.named:
            return []
        ways = [len(own) for own in self.by_client.values()]
        each = [count for own in self.by_client.values() for count in own.values()]
        few = min(self.by_client, key=lambda name: (len(self.by_client[name]), name))
        fewest = min(self._each())
        return [
            ("clients", f"{len(ways)}, of {span(ways)} classes each{note_fewest(few, ways)}"),
            ("classes", f"{len(self.classes)} in all, of {span(each)} {self.what} each per client"),
            (
                "possible",
                f"{min(ways)} ways with shots + queries up to {fewest[0]}{note_fewest(fewest[1], each)}",
            ),
        ]

    def _each(self) -> Iterator[tuple[int, str]]:
        """Yield the number of examples of each client and class, and their path."""
        for client, own in self.by_client.items():
            for label, count in own.items():
                yield count, f"{client}/{label}"

    def facts(self) -> dict[str, Any]:
        """Return the counts for programs."""
        if not self.named:
            return {}
        return {"clients": {client: dict(own) for client, own in self.by_client.items()}}

    def chosen(self, refused: Iterable[str]) -> "Chosen":
        """Choose task sizes for all clients; leave out clients and classes that are too small for any.

        Args:
            refused: What cannot or should not be used, as paths within the folder.

        Raises:
            DataError: If too little is left, or too much is left out.
        """
        skip = list(refused)
        kept: dict[str, dict[str, int]] = {}
        for client, own in self.by_client.items():
            fit = {label: count for label, count in own.items() if count >= 2}
            path = f"{client}/" if client else ""
            if len(fit) < 2:
                skip += [client] if client else []
                continue
            kept[client] = fit
            skip += [f"{path}{label}" for label in own if label not in fit]
        if not kept:
            raise DataError(
                f"too little for a task: it needs two classes of two {self.what} each, of one client"
            )
        if len(skip) > MOST_SKIPPED:
            raise DataError(
                f"{len(skip)} files, classes or clients cannot be used, such as {skip[0]}: correct or "
                "remove them; `fedmeta data check` names them"
            )
        return Chosen(Counts(kept, self.what), tuple(_outermost(skip)))


@dataclass(frozen=True)
class Chosen:
    """Task sizes that the counts allow.

    Attributes:
        counts: The examples in use.
        skip: Paths to leave out.
    """

    counts: Counts
    skip: tuple[str, ...]

    @property
    def training(self) -> Training:
        """The clients: every named one, or as many as there are enough examples for."""
        if self.counts.named:
            return Training.of(len(self.counts.by_client))
        fewest = min(self._own.values())
        return Training.of(max(min(fewest // 4, 10), 1) if len(self._own) >= 4 else 1)

    @property
    def ways(self) -> int:
        """Classes per task."""
        if self.counts.named:
            return min(_WAYS, *(len(own) for own in self.counts.by_client.values()))
        return max(min(_WAYS, len(self._own) // (2 if self.training.held_out else 1)), 2)

    @property
    def keys(self) -> list[Choice]:
        """The keys of ``[data]`` that follow from the counts."""
        least = min(count for own in self.counts.by_client.values() for count in own.values())
        of = "client and class" if self.counts.named else "class"
        if not self.counts.named:
            # Dealt at random, clients get different numbers of a class.
            least = max(least // (2 * self.training.clients), 2) if self.training.clients > 1 else least
        shots = 5 if least >= 15 else 1
        queries = min(least - shots, _QUERIES)
        choices = [
            Choice("ways", self.ways, f"Classes per task: {self._about_ways()}."),
            Choice(
                "shots",
                shots,
                f"Examples of each class to adapt to, and (queries) to test on: every {of} has "
                f"{least} or more.",
            ),
            Choice("queries", queries),
        ]
        if self.skip:
            choices.append(
                Choice(
                    "skip", list(self.skip), "Left out: as asked, too small for a task, or not readable."
                )
            )
        if not self.counts.named:
            choices += self._split()
        return choices

    def _split(self) -> list[Choice]:
        choices = [
            Choice(
                "partition",
                "iid",
                "There are no client folders, so training images are dealt evenly at random. "
                '"dirichlet" gives each client its own mix of classes, "natural" whole classes.',
            )
        ]
        if self.training.held_out:
            share = max(self.ways / len(self._own), 0.2)
            choices.append(
                Choice(
                    "test_classes",
                    round(min(share + 0.01, 0.5), 2),
                    "Share of the classes that only test clients have, so that test classes are new.",
                )
            )
        return choices

    def _about_ways(self) -> str:
        if not self.counts.named:
            return f"there are {len(self._own)}"
        few = min(self.counts.by_client, key=lambda name: (len(self.counts.by_client[name]), name))
        return f"every client has {len(self.counts.by_client[few])} or more (fewest: {few})"

    @property
    def _own(self) -> Mapping[str, int]:
        return self.counts.by_client[""]

    def whole(self) -> str:
        """Return the reason for the number of clients."""
        if self.counts.named:
            return "One for each folder in use."
        return "As many as there are enough examples for: training clients share each class."


def starter_for(task: str, path: Path, chosen: Chosen, form: Sequence[Choice]) -> Starter:
    """Return a config of prototypical networks for labelled examples in the form of images.

    Args:
        task: The task family.
        path: The folder.
        chosen: Its tasks.
        form: The keys of ``[data]`` about the format of an example.
    """
    counts = chosen.counts
    examples = sum(sum(own.values()) for own in counts.by_client.values())
    about = f"{visible(path.name)}: {examples} {counts.what} of {len(counts.classes)} classes"
    about += f", of {len(counts.by_client)} clients" if counts.named else ""
    keys = (
        Choice("description", about),
        Choice("task", task),
        Choice(
            "algorithm",
            "protonet",
            "Prototypical networks: no inner steps to tune, and any number of classes afterwards. "
            "`fedmeta list algorithms` shows others.",
        ),
        Choice("model", "conv4", "Four convolutions: the usual network for small images."),
        *chosen.training.keys(200, chosen.whole()),
        Choice("transductive", False, "Each prediction is independent of the task's other queries."),
    )
    where = Choice("path", str(path), "Relative to the folder in which fedmeta is started.")
    tables = {
        "data": [where, *chosen.keys, *form],
        "network": [Choice("width", 32, "Channels; 64 learns more and takes three times as long.")],
        "server": [Choice("optimizer", "Adam"), Choice("lr", 0.01), Choice("schedule", "cosine")],
    }
    return Starter(f"{about}.", keys, tables)


def _outermost(paths: list[str]) -> list[str]:
    """Return sorted paths without those within others."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return kept


def note_fewest(name: str, numbers: Collection[int]) -> str:
    """Return a note on which has the fewest, if numbers differ."""
    return f" (fewest: {name})" if min(numbers) < max(numbers) else ""


def span(numbers: Collection[int]) -> str:
    """Return the smallest and the largest number, or one if they are equal."""
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
