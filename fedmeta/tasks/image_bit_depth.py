"""Infers the bit depth in use of images with more than 8 bits, from all images together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmeta.errors import DataError
from fedmeta.tasks.image_pixels import Decoded, UnreadableError

RANGES = (8, 10, 12, 14, 16)
"""Possible bit depths in files with room for more than 8 bits."""

_SATURATED = 0.01
_SURE = 0.9


@dataclass(frozen=True)
class Reach:
    """The range of the samples of one deep image.

    Attributes:
        file: The image.
        bits: Declared bits per sample; 0: floating point.
        most: The largest number stored, including hidden colours and opacities of more than 8 bits,
            which also tell the range.
        share: Share of the samples with that value.
        seen: The largest visible sample.
        alpha: The largest opacity, if it has more than 8 bits; otherwise 0.
    """

    file: Path
    bits: int
    most: float
    share: float
    seen: float
    alpha: float


def reach_of(file: Path, image: Decoded) -> Reach:
    """Measure a deep image.

    Raises:
        UnreadableError: If its samples are not brightness: not finite, negative, or beyond 16 bits.
    """
    samples, alpha = image.samples, image.alpha
    if not np.isfinite(samples).all():
        raise UnreadableError("has samples that are not finite: save it as 8 or 16 bits")
    if samples.min() < 0:
        raise UnreadableError(f"has negative samples ({samples.min():g}): save it as 8 or 16 bits")
    most = float(samples.max())
    if most > _top(RANGES[-1]):
        raise UnreadableError(f"has samples of {most:g}, beyond 16 bits: save it as 8 or 16 bits")
    seen = samples if alpha is None else samples[alpha > 0]
    opacity = float(alpha.max()) if alpha is not None and image.alpha_bits > 8 else 0.0
    share = float((samples == most).mean()) if most >= opacity else 0.0
    return Reach(file, image.bits, max(most, opacity), share, float(seen.max(initial=0)), opacity)


def tops(reaches: Sequence[Reach], samples: int | None) -> tuple[list[tuple[float, float]], list[str]]:
    """Return the values of white and of full opacity for each deep image, and notes.

    Floats up to 1 are taken as 0 to 1. All others share the smallest of the `RANGES` that holds the
    largest sample, so that a dark image among others stays dark; but an image that declares a smaller
    range, or has 1% of its samples exactly at its top, has that range.

    Args:
        reaches: The images.
        samples: The bits in use; None: inferred as above.

    Raises:
        DataError: If a sample is beyond `samples` bits, or floats are neither up to 1 nor up to 8 bits.
    """
    notes: list[str] = []
    found: dict[int, tuple[float, float]] = {}
    for floats in (False, True):
        places = [i for i, one in enumerate(reaches) if (one.bits == 0) == floats]
        if places:
            group = [reaches[place] for place in places]
            white, said = _white(group, floats, samples)
            notes += said
            for place, top in zip(places, white, strict=True):
                # Opacities have the range of the colours, unless they go beyond it.
                opaque = top if reaches[place].alpha <= top else _top(RANGES[-1])
                found[place] = (top, opaque)
    return [found[place] for place in range(len(reaches))], notes


def _white(group: list[Reach], floats: bool, samples: int | None) -> tuple[list[float], list[str]]:
    last = max(group, key=lambda one: one.most)
    what = "float samples" if floats else "samples of more than 8 bits"
    reach = f"{what} reach {last.most:.6g}"
    if floats and last.most <= 1:
        return [1.0] * len(group), [f"{reach}: taken as 0 to 1"]
    if samples is not None:
        beyond = max(group, key=lambda one: one.seen)
        if beyond.seen > _top(samples):
            raise DataError(
                f"{beyond.file}: {what} reach {beyond.seen:.6g}, beyond the {_top(samples):.0f} of "
                f"{samples} bits"
            )
        return [_top(samples)] * len(group), [f"{reach}: taken as {samples} bits, as given"]
    if floats and last.most < _top(4):
        raise DataError(
            f"{last.file}: {reach}, neither 0 to 1 nor 8 bits: save it as 8 or 16 bits, "
            "or set the bits in use with --samples"
        )
    whole = _fewest(last.most)
    own = [_own(one, whole) for one in group]
    shared = [one for one, bits in zip(group, own, strict=True) if bits is None]
    notes = []
    if shared:
        guess = last.most < _SURE * _top(whole) and whole < RANGES[-1]
        sure = "a guess: set --samples to be sure" if guess else "--samples overrides it"
        notes.append(f"{reach}: taken as {whole} bits ({sure})")
    for bits in sorted({bits for bits in own if bits is not None}):
        those = [one.file for one, its in zip(group, own, strict=True) if its == bits]
        notes.append(f"{len(those)} of {len(group)} taken as {bits} bits each, such as {those[0]}")
    return [_top(bits or whole) for bits in own], notes


def _own(one: Reach, whole: int) -> int | None:
    """Return the bits that an image itself shows; None to use those of all images."""
    if 8 < one.bits < RANGES[-1]:
        return one.bits
    bits = _fewest(one.most)
    told = bits < whole and one.most == _top(bits) and one.share >= _SATURATED
    return bits if told and one.bits else None


def _fewest(most: float) -> int:
    return next(bits for bits in RANGES if most <= _top(bits))


def _top(bits: int) -> float:
    return float(2**bits - 1)
