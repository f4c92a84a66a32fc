"""Reads sound files, and turns sounds into log-mel spectrograms."""

import math
import struct
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fedmeta.errors import DataError
from fedmeta.files import open_file, reason
from fedmeta.tasks.image_pixels import UnreadableError

Samples = NDArray[np.float64]

MOST_BYTES = 1 << 28
"""Most bytes of a sound file."""
RATES = (1_000, 384_000)
WINDOW, HOP = 0.025, 0.01
"""Length of a frame and step between frames, in seconds."""
RANGE = 6.0
"""Dynamic range of a spectrogram, in powers of ten: 60 decibels."""
_BROKEN = (OSError, ValueError, EOFError, struct.error, TypeError, LookupError, MemoryError)


@dataclass(frozen=True)
class Sound:
    """A sound.

    Attributes:
        samples: ``[N]``, the mean of its channels, in [-1, 1].
        rate: Samples per second.
        channels: Number of channels.
        kind: Its format and depth, such as ``WAV, int16``.
    """

    samples: Samples
    rate: int
    channels: int
    kind: str


def read_sound(file: Path) -> Sound:
    """Read a WAV file of 8, 16, 24, 32 bits or floats, or a FLAC file.

    Raises:
        UnreadableError: If it is not a complete file of these, is silent, or too large.
        DataError: If it is a FLAC file, and soundfile is missing.
    """
    try:
        with open_file(file, MOST_BYTES) as opened:
            if not file.stat().st_size:
                raise UnreadableError("is empty")
            if file.suffix.lower() == ".flac":
                return _sound(*_flac(file))
            return read_wav(opened)
    except _BROKEN as error:
        raise UnreadableError(f"is not a valid WAV or FLAC file ({reason(error)})") from None


def read_wav(opened: IO[bytes]) -> Sound:
    """Read an open WAV file; `UnreadableError` as in `read_sound`."""
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            rate, samples = wavfile.read(opened)
    except _BROKEN as error:
        raise UnreadableError(f"is not a valid WAV or FLAC file ({reason(error)})") from None
    if any("EOF" in str(one.message) for one in said):
        raise UnreadableError("is cut short")
    return _sound(rate, samples, f"WAV, {samples.dtype}")


def _sound(rate: int, samples: NDArray[Any], kind: str) -> Sound:
    if not RATES[0] <= rate <= RATES[1]:
        raise UnreadableError(f"has {rate} samples a second, not {RATES[0]} to {RATES[1]}")
    if not samples.size:
        raise UnreadableError("has no samples")
    channels = samples.shape[1] if samples.ndim == 2 else 1
    mono = _scaled(samples).reshape(len(samples), -1).mean(axis=1)
    if not np.isfinite(mono).all():
        raise UnreadableError("has samples that are not finite")
    if mono.min() == mono.max():
        raise UnreadableError("is silent")
    return Sound(mono, int(rate), channels, kind)


def _scaled(samples: NDArray[np.generic]) -> Samples:
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    bits = samples.dtype.itemsize * 8
    values = samples.astype(np.float64) - (128.0 if samples.dtype == np.uint8 else 0.0)
    scaled: Samples = values / 2.0 ** (bits - 1)
    return scaled


def _flac(file: Path) -> tuple[int, NDArray[np.float64], str]:
    try:
        import soundfile
    except (ImportError, OSError):
        raise DataError(f"{file}: FLAC needs soundfile: pip install 'fedmeta[flac]'") from None
    try:
        samples, rate = soundfile.read(file, dtype="float64")
    except soundfile.SoundFileError as error:
        raise UnreadableError(f"is not a valid WAV or FLAC file ({reason(error)})") from None
    return rate, samples, "FLAC"


@dataclass(frozen=True)
class MelFormat:
    """The format of spectrograms.

    Attributes:
        rate: Samples per second that sounds are resampled to.
        seconds: Length of the part that is shown.
        mels: Number of bands.
    """

    rate: int
    seconds: float
    mels: int

    @property
    def frames(self) -> int:
        """Number of frames."""
        return max(round(self.seconds / HOP), 1)


def log_mel(sound: Sound, form: MelFormat) -> NDArray[np.uint8]:
    """Return the log-mel spectrogram ``[mels, frames]`` of the loudest part of a sound.

    Power spectra of Hann windows are summed in triangular bands that are evenly spaced in mel (HTK's
    scale, ``2595 log10(1 + f / 700)``) up to half the rate. 255 is the loudest band of the part, 0 is
    60 decibels below or less. In steps of a quarter of a decibel, results do not depend on the machine.
    """
    step = math.gcd(sound.rate, form.rate)
    from scipy.signal import resample_poly

    samples = resample_poly(sound.samples, form.rate // step, sound.rate // step)
    size, hop = round(WINDOW * form.rate), round(HOP * form.rate)
    samples = np.pad(samples, (0, max(size - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(size + 2)[1:-1], _length(size))) ** 2
    power = spectra @ _bands(form.rate, form.mels, _length(size)).T
    first = _loudest(power.sum(axis=1), form.frames)
    shown = power[first : first + form.frames]
    peak = max(float(shown.max()), 1e-30)
    level = 1.0 + np.log10(np.maximum(shown / peak, 10.0**-RANGE)) / RANGE
    grey = np.zeros((form.mels, form.frames), dtype=np.uint8)
    grey[:, : len(level)] = np.rint(level.T * 255.0).clip(0, 255)
    return grey


def _length(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _loudest(energy: Samples, frames: int) -> int:
    """Return the first frame of the part with most energy."""
    if len(energy) <= frames:
        return 0
    total = np.concatenate([[0.0], np.cumsum(energy)])
    parts = total[frames:] - total[:-frames]
    # Up to rounding, so that of parts with equal energy every machine takes the first.
    return int((parts >= parts.max() * (1 - 1e-9)).argmax())


@cache
def _bands(rate: int, mels: int, length: int) -> Samples:
    """Return the weight of each frequency in each band, ``[mels, frequencies]``."""
    top = 2595.0 * math.log10(1.0 + rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, mels + 2) / 2595.0) - 1.0)
    places = np.arange(length // 2 + 1) * rate / length
    rising = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    bands: Samples = np.clip(np.minimum(rising, falling), 0.0, None)
    return bands
