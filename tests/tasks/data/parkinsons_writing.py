"""A file of measurements in the official layout, whose numbers tell the patient, visit and recording."""

from collections.abc import Sequence
from pathlib import Path

from fedmeta.tasks.data.parkinsons_file import COLUMNS

FILE = "parkinsons/parkinsons_updrs.data"
VISITS, RECORDINGS = 6, 3


def row(patient: int, visit: int, recording: int) -> list[str]:
    """Day 7 per visit, total score 10 per patient and 1 per visit, motor half of it."""
    total = 10 * patient + visit
    voice = [f"{0.01 * (1 + patient + visit + recording + place):.5f}" for place in range(16)]
    day = 7 * visit + 0.001 * recording
    return [
        str(patient),
        str(60 + patient),
        str(patient % 2),
        f"{day:.3f}",
        str(total / 2),
        str(total),
        *voice,
    ]


def write_measurements(folder: Path, patients: int = 4, sign: str = ",", end: str = "\n") -> Path:
    """Write the patients in the official order: first recordings before second ones."""
    rows: list[Sequence[str]] = [COLUMNS]
    for patient in range(1, patients + 1):
        rows += [row(patient, v, r) for r in range(RECORDINGS) for v in range(VISITS)]
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(sign.join(cells) + end for cells in rows).encode())
    return path
