"""Inspects folders of sounds with a subfolder per class, or with one per client and class."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedmeta.errors import DataError
from fedmeta.tasks.image_pixels import UnreadableError
from fedmeta.tasks.own.counts import Counts, starter_for
from fedmeta.tasks.own.finding import Finding
from fedmeta.tasks.own.folders import SOUNDS, list_classes
from fedmeta.tasks.own.sound_file import Sound, read_sound
from fedmeta.tasks.own.starter import Choice, Starter

_RATES = (8_000, 16_000, 22_050, 32_000, 44_100, 48_000)
_MOST_RATE = 16_000


def check_sounds(folder: Path, skip: Sequence[str] = ()) -> Finding:
    """Inspect a folder of sounds.

    Args:
        folder: The folder.
        skip: Clients, classes and files to leave out.

    Raises:
        DataError: If it has no readable sound, or is not laid out as described above.
    """
    listed = list_classes(folder, SOUNDS, skip)
    kinds: Counter[str] = Counter()
    rates: Counter[int] = Counter()
    seconds: list[float] = []
    refused: list[tuple[str, str]] = []
    kept: list[int] = []
    for place, file in enumerate(listed.files):
        try:
            sound = read_sound(file)
        except UnreadableError as error:
            refused.append((listed.names[place], str(error)))
            continue
        kinds[_kind(sound)] += 1
        rates[sound.rate] += 1
        seconds.append(len(sound.samples) / sound.rate)
        kept.append(place)
    if not kept:
        more = f" (and {len(refused) - 1} more files)" if refused[1:] else ""
        raise DataError(f"{listed.files[0]} {refused[0][1]}{more}")
    clients = listed.clients or ("",) * len(listed.files)
    counts = Counts.of((clients[i] for i in kept), (listed.labels[i] for i in kept), SOUNDS.name)
    notes = [f"skipped files that are not sounds: {len(listed.ignored)}"] if listed.ignored else []
    facts = {
        "path": str(folder),
        "what": "sounds",
        "files": len(listed.files),
        "classes": dict(counts.classes),
        **counts.facts(),
        "kinds": dict(kinds),
        "rates": {str(rate): count for rate, count in rates.items()},
        "seconds": {"shortest": min(seconds), "longest": max(seconds)},
        "refused": [{"file": name, "why": why} for name, why in refused],
        "notes": notes,
    }
    classes = [("classes", f"{len(counts.classes)}, without clients")]
    lines = [
        ("sounds", f"{len(listed.files)}"),
        *(counts.lines() or classes),
        ("kinds", "; ".join(f"{count} {kind}" for kind, count in kinds.most_common())),
        ("rates", "; ".join(f"{count} at {rate} Hz" for rate, count in rates.most_common())),
        ("lengths", f"{min(seconds):.2f} to {max(seconds):.2f} seconds"),
    ]
    names = [*skip, *(name for name, _ in refused)]
    starter = partial(_starter, folder, counts, names, rates, seconds)
    return Finding(facts, tuple(lines), tuple(notes), tuple(refused), starter)


def _kind(sound: Sound) -> str:
    channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
    return f"{sound.kind}, {channels}"


def _starter(
    folder: Path, counts: Counts, refused: list[str], rates: Counter[int], seconds: list[float]
) -> Starter:
    lowest = max(min(rates), _RATES[0])
    rate = min(max(one for one in _RATES if one <= lowest), _MOST_RATE)
    long = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
    length = min(max(round(long, 1), 0.2), 3.0)
    form = [
        Choice(
            "rate",
            rate,
            f"Samples per second, to which all are resampled; the files have {min(rates)} "
            f"to {max(rates)}.",
        ),
        Choice(
            "seconds",
            length,
            f"The loudest part of each; they last {min(seconds):.2f} to "
            f"{max(seconds):.2f} seconds. Shorter is faster.",
        ),
        Choice("mels", 32, "Frequency bands: a spectrogram is an image of bands by frames of 10 ms."),
    ]
    return starter_for("audio", folder, counts.chosen(refused), form)
