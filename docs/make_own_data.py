"""Makes the folders and the table of docs/your-own-data.md: `python docs/make_own_data.py`.

In the current folder: `drawings` (12 people who each drew 12 of 30 signs), `new-person` (signs that none
of them drew, to adapt to and to label), `words` and `new-voice` (sounds likewise), and `doses.csv` with
`new-patient.csv` and `next-visits.csv`.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.io import wavfile

PEOPLE, SIGNS, EACH, DRAWINGS = 12, 30, 12, 6
WORDS = ("one", "two", "three", "four", "five", "six")
RATE = 8_000


def draw(file: Path, strokes: np.ndarray, hand: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a sign's strokes `[4, 2, 2]` with a person's slant, a little differently each time."""
    page = Image.new("L", (96, 96), 255)
    pen = ImageDraw.Draw(page)
    for start, end in (strokes - 48) @ hand.T + 48 + rng.normal(0, 2.5, strokes.shape):
        pen.line([tuple(start), tuple(end)], fill=0, width=5)
    file.parent.mkdir(parents=True, exist_ok=True)
    page.save(file)


def say(file: Path, word: int, voice: float, rng: np.random.Generator) -> None:
    """Write a word, two tones of which a person's voice shifts the pitch."""
    time = np.arange(round(RATE * rng.uniform(0.25, 0.35))) / RATE
    low, high = (220 + 90 * word) * voice, (900 + 260 * ((5 * word) % 7)) * voice
    sound = 0.5 * np.sin(2 * np.pi * low * time) + 0.3 * np.sin(2 * np.pi * high * time)
    sound = sound * np.hanning(len(time)) + rng.normal(0, 0.02, len(time))
    file.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(file, RATE, (sound * 20_000).astype(np.int16))


def drawings(rng: np.random.Generator) -> None:
    """Write `drawings` and `new-person`."""
    signs = rng.uniform(12, 84, (SIGNS + 5, 4, 2, 2))
    for person in range(PEOPLE):
        hand = np.eye(2) + rng.normal(0, 0.12, (2, 2))
        for sign in rng.choice(SIGNS, EACH, replace=False):
            for index in range(DRAWINGS):
                draw(
                    Path(f"drawings/person {person:02d}/sign {sign:02d}/{index}.png"),
                    signs[sign],
                    hand,
                    rng,
                )
    hand = np.eye(2) + rng.normal(0, 0.12, (2, 2))
    for sign in range(5):
        for index in range(5):
            side = "examples" if index == 0 else "unknown"
            draw(Path(f"new-person/{side}/new {sign}/{index}.png"), signs[SIGNS + sign], hand, rng)


def words(rng: np.random.Generator) -> None:
    """Write `words` and `new-voice`."""
    for person in range(PEOPLE + 1):
        voice = rng.uniform(0.8, 1.25)
        for word, name in enumerate(WORDS):
            for index in range(5):
                side = "examples" if index == 0 else "unknown"
                root = f"words/person {person:02d}" if person < PEOPLE else f"new-voice/{side}"
                say(Path(f"{root}/{name}/{index}.wav"), word, voice, rng)


def doses(rng: np.random.Generator) -> None:
    """Write `doses.csv`, as a spreadsheet in German would, and the files of a new patient."""
    names = "patient;age;sex;dose;score\r\n"
    rows: dict[int, list[str]] = {}
    for patient in range(25):
        start, slope = rng.normal(20, 5), rng.normal(0, 1.5)
        age, sex = int(rng.integers(30, 80)), rng.choice(["f", "m"])
        for _ in range(12):
            dose = rng.uniform(0, 10)
            score = start + slope * dose + rng.normal(0, 0.3)
            row = f"P{patient:02d};{age};{sex};{dose:.2f};{score:.2f}\r\n"
            rows.setdefault(patient, []).append(row.replace(".", ","))
    known = "".join(row for patient in range(24) for row in rows[patient])
    for name, body in (
        ("doses", known),
        ("new-patient", "".join(rows[24][:6])),
        ("next-visits", "".join(rows[24][6:])),
    ):
        Path(f"{name}.csv").write_bytes(("\ufeff" + names + body).encode())


if __name__ == "__main__":
    drawings(np.random.default_rng(0))
    words(np.random.default_rng(1))
    doses(np.random.default_rng(2))
