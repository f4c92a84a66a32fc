"""Inspects a folder with a text, or a folder of texts, for each client."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedmeta.errors import DataError
from fedmeta.tasks.data.text_files import read_text, visible
from fedmeta.tasks.own.counts import MOST_SKIPPED, note_fewest, span
from fedmeta.tasks.own.finding import Finding
from fedmeta.tasks.own.folders import TEXTS, list_clients, relative
from fedmeta.tasks.own.starter import Choice, Starter, Training
from fedmeta.tasks.text_windows import CHARACTERS

_LENGTH, _SHOTS, _QUERIES = 30, 8, 4
_MOST_CHARACTERS = 100
_SHARE = 0.0005
"""Rarer characters, as a share of the text, share one token."""


def check_texts(folder: Path, skip: Sequence[str] = ()) -> Finding:
    """Inspect a folder of texts.

    Args:
        folder: The folder.
        skip: Clients and files to leave out.

    Raises:
        DataError: If it has no readable text, or is not laid out as described above.
    """
    refused: list[tuple[str, str]] = []
    unread = list(skip)
    notes: list[str] = []
    sizes: dict[str, int] = {}
    letters: Counter[str] = Counter()
    for client, files in sorted(list_clients(folder, TEXTS, skip).items()):
        for file in files:
            try:
                text = read_text(file)
            except DataError as error:
                refused.append((relative(folder, file), str(error)))
                unread.append(client if file.parent == folder else relative(folder, file))
                continue
            letters.update(text.text)
            sizes[client] = sizes.get(client, 0) + len(text.text)
            notes += [f"{relative(folder, file)}: {'; '.join(text.odd)}"] if text.odd else []
    if not sizes:
        raise DataError(f"{folder} has no text that can be read: {refused[0][1]}")
    few = min(sizes, key=lambda name: (sizes[name], name))
    facts = {
        "path": str(folder),
        "what": "texts",
        "clients": sizes,
        "refused": [{"file": name, "why": why} for name, why in refused],
        "notes": notes,
    }
    lines = (
        (
            "clients",
            f"{len(sizes)}, of {span(sizes.values())} characters{note_fewest(few, sizes.values())}",
        ),
        ("characters", f"{sum(sizes.values())}, {len(letters)} different ones"),
    )
    starter = partial(_starter, folder, sizes, letters, unread)
    return Finding(facts, lines, tuple(notes), tuple(refused), starter)


def _starter(folder: Path, sizes: dict[str, int], letters: Counter[str], refused: list[str]) -> Starter:
    # Half of a text is for support and half for queries; a file's ends are stripped.
    needed = 2 * (_SHOTS + 1) * (_LENGTH + 1)
    kept = {name: size for name, size in sizes.items() if size >= needed}
    skip = sorted({*refused, *(name for name in sizes if name not in kept)})
    if not kept or len(skip) > MOST_SKIPPED:
        raise DataError(
            f"{folder}: {len(skip)} texts cannot be used or are shorter than {needed} characters, "
            f"such as {skip[0]}"
        )
    total = sum(letters.values())
    others = [one for one, n in letters.most_common() if one not in CHARACTERS and n >= _SHARE * total]
    about = f"{visible(folder.name)}: texts of {len(kept)} clients; predict the next character"
    keys = (
        Choice("description", about),
        Choice("task", "text"),
        Choice("algorithm", "maml", "Learns initial weights that adapt to a new client in a few steps."),
        Choice("model", "lstm", "Reads a window from its start to its end."),
        *Training.of(len(kept)).keys(200, "One for each file or folder in use."),
    )
    data = [
        Choice("path", str(folder), "Relative to the folder in which fedmeta is started."),
        Choice("length", _LENGTH, "Characters of a window; longer ones learn more and take longer."),
        Choice("shots", _SHOTS, "Windows to adapt to, from the first half of a text."),
        Choice("queries", _QUERIES, "Windows to test on, from the second half."),
    ]
    if others:
        letters_ = "".join(others[:_MOST_CHARACTERS])
        data.append(
            Choice("characters", letters_, "Have a token each, as ASCII does; others share one.")
        )
    if skip:
        data.append(Choice("skip", skip, "Left out: too short for a task, or not readable."))
    tables = {
        "data": data,
        "network": [Choice("embedding", 8), Choice("hidden", 64)],
        "learner": [Choice("inner_lr", 0.3), Choice("inner_steps", 1)],
        "server": [Choice("optimizer", "Adam"), Choice("lr", 0.01)],
        "evaluation": [Choice("tasks", 10, "Test tasks per held-out client.")],
    }
    return Starter(f"{about}.", keys, tables)
