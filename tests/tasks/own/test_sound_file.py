"""Sounds of every depth read the same, and spectrograms against a plain loop."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from fedmeta.errors import DataError
from fedmeta.tasks.image_pixels import UnreadableError
from fedmeta.tasks.own.sound_file import MelFormat, Sound, log_mel, read_sound
from tests.tasks.own.sounds import RATE, tone


def wav24(path: Path, samples: np.ndarray) -> None:
    """Write mono samples of 24 bits by hand, with a chunk that few readers know."""
    data = b"".join(struct.pack("<i", round(v * (2**23 - 1)))[:3] for v in samples)
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, RATE * 3, 3, 24)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"cue " + struct.pack("<I", 4) + b"\0" * 4
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        ("uint8", 1 / 127),
        ("int16", 1e-4),
        ("int24", 1e-6),
        ("int32", 1e-6),
        ("float32", 1e-6),
        ("float64", 0),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_is_the_same_at_every_depth(
    dtype: str, error: float, channels: int, tmp_path: Path
) -> None:
    wanted, path = tone(440), tmp_path / "x.wav"
    if dtype == "int24":
        wav24(path, wanted)
    else:
        top = 1.0 if dtype.startswith("float") else np.iinfo(dtype).max // (2 if dtype == "uint8" else 1)
        values = wanted * top + (128 if dtype == "uint8" else 0)
        values = np.rint(values).astype(dtype) if top != 1.0 else values.astype(dtype)
        wavfile.write(path, RATE, np.stack([values] * channels, 1) if channels > 1 else values)
    sound = read_sound(path)
    assert sound.rate == RATE
    assert np.abs(sound.samples - wanted).max() <= error


def test_a_spectrogram_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    form = MelFormat(RATE, 0.1, 10)
    samples = rng.normal(size=200 + 9 * 80)
    found = log_mel(Sound(samples, RATE, 1, ""), form)
    size, length = 200, 256
    mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    edges = [700 * (10 ** (mel(RATE / 2) * i / 11 / 2595) - 1) for i in range(12)]
    power = np.zeros((10, 10))
    for frame in range(10):
        for k in range(length // 2 + 1):
            total = 0j
            for n in range(size):
                window = 0.5 - 0.5 * math.cos(2 * math.pi * (n + 1) / (size + 1))
                total += samples[80 * frame + n] * window * np.exp(-2j * math.pi * k * n / length)
            f = k * RATE / length
            for m in range(10):
                low, middle, high = edges[m : m + 3]
                weight = min((f - low) / (middle - low), (high - f) / (high - middle))
                power[m, frame] += max(weight, 0) * abs(total) ** 2
    level = np.maximum(10 * np.log10(power / power.max()), -60)
    np.testing.assert_allclose(found, 255 * (1 + level / 60), atol=0.51)


def test_other_rates_and_loudness_and_silence_around_it_change_little() -> None:
    form = MelFormat(RATE, 0.2, 24)
    plain = log_mel(Sound(tone(700, 0.3), RATE, 1, ""), form).astype(int)
    loud = Sound(np.concatenate([np.zeros(4000), 1.9 * tone(700, 0.3), np.zeros(9000)]), RATE, 1, "")
    assert np.abs(log_mel(loud, form)[:, 3:-3].astype(int) - plain[:, 3:-3]).max() <= 1
    other = Sound(tone(700, 0.3, 22_050), 22_050, 1, "")
    bands = log_mel(other, form)[:, 4:16].mean(1)
    assert bands.argmax() == plain[:, 4:16].mean(1).argmax()
    short = log_mel(Sound(tone(700, 0.05), RATE, 1, ""), form)
    assert short[:, 3:].max() == 0
    assert short[:, :3].max() == 255


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "is empty"),
        ("text", "is not a valid WAV or FLAC file"),
        ("cut", "is cut short|broken"),
        ("silent", "is silent"),
        ("none", "has no samples|broken"),
        ("nan", "not finite"),
        ("slow", "has 500 samples a second"),
        ("gone", "No such file"),
    ],
)
def test_an_unusable_sound_is_refused(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    samples = (tone(440) * 32767).astype(np.int16)
    if name in ("empty", "text"):
        path.write_bytes(b"" if name == "empty" else b"hello, this is text" * 9)
    elif name == "nan":
        wavfile.write(path, RATE, np.array([0.1, np.nan, 0.2], dtype=np.float32))
    elif name != "gone":
        samples = {"silent": samples * 0, "none": samples[:0]}.get(name, samples)
        wavfile.write(path, 500 if name == "slow" else RATE, samples)
    if name == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnreadableError, match=message) as caught:
        read_sound(path)
    assert "\n" not in str(caught.value)


def test_flac_without_soundfile_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    (tmp_path / "x.flac").write_bytes(b"fLaC")
    with pytest.raises(DataError, match=r"x\.flac: FLAC needs soundfile: pip install 'fedmeta\[flac\]'"):
        read_sound(tmp_path / "x.flac")
