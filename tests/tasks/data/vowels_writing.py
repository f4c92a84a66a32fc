"""Utterances in the official layout, whose numbers tell the speaker and the utterance."""

from pathlib import Path

FILES = ("vowels/JapaneseVowels_TRAIN.ts", "vowels/JapaneseVowels_TEST.ts")


def line(speaker: int, take: int) -> str:
    """7 to 11 frames; cepstrum c of frame f is ``100 speaker + take + c + f / 10``."""
    series = [
        ",".join(f"{100 * speaker + take + c + f / 10:.1f}" for f in range(7 + take % 5))
        for c in range(12)
    ]
    return ":".join([*series, str(speaker)])


def write_utterances(folder: Path, takes: int = 6) -> list[Path]:
    """Write as many utterances of each of the nine speakers to each file."""
    paths = [folder / file for file in FILES]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for place, path in enumerate(paths):
        numbers = range(place * takes, (place + 1) * takes)
        rows = [line(speaker, take) for speaker in range(1, 10) for take in numbers]
        head = ["#Kudo et al.", "@dimensions 12", "@classLabel true 1 2 3", "@data"]
        path.write_text("\n".join([*head, *rows]) + "\n")
    return paths
