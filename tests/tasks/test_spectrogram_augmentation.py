"""Shifts and stretches of spectrograms, on a single dot whose place is known."""

import numpy as np
import pytest
import torch

from fedmeta.tasks import TaskBatch, stream
from fedmeta.tasks.spectrogram_augmentation import (
    SpectrogramAugmentation,
    augment_spectrograms,
    change,
)

MELS, FRAMES = 20, 40


def dot(band: int, frame: int) -> torch.Tensor:
    sound = torch.zeros(1, 1, MELS, FRAMES)
    sound[0, 0, band, frame] = 1.0
    return sound


def brightest(sound: torch.Tensor) -> tuple[int, int]:
    place = int(sound.flatten().argmax())
    return place // FRAMES, place % FRAMES


@pytest.mark.parametrize(
    ("option", "amounts", "place"),
    [
        # A quarter of 40 frames to the right, of 20 bands up.
        ("augment_time", [1, 0, 0, 0, 0], (6, 20)),
        ("augment_time", [-1, 0, 0, 0, 0], (6, 0)),
        ("augment_pitch", [0, 1, 0, 0, 0], (11, 10)),
        # The middle of frame 10, 10.5 from the start, by 1.25: 13.1, and 0.8: 8.4. Band 6: 8.1 and 5.2.
        ("augment_tempo", [0, 0, 1, 0, 0], (6, 13)),
        ("augment_tempo", [0, 0, -1, 0, 0], (6, 8)),
        ("augment_formants", [0, 0, 0, 1, 0], (8, 10)),
        ("augment_formants", [0, 0, 0, -1, 0], (5, 10)),
    ],
)
def test_a_dot_goes_where_it_should(option: str, amounts: list[float], place: tuple[int, int]) -> None:
    options = SpectrogramAugmentation(**{option: 0.25})
    changed = change(dot(6, 10), options, np.array([amounts], dtype=float))
    assert brightest(changed) == place


def test_what_comes_in_is_silence() -> None:
    options = SpectrogramAugmentation(augment_time=0.25)
    changed = change(torch.ones(1, 1, MELS, FRAMES), options, np.array([[1.0, 0, 0, 0, 0]]))
    assert changed[0, 0, :, :10].max() < 1e-6
    assert torch.allclose(changed[0, 0, :, 10:], torch.ones(MELS, 30))


def tasks() -> TaskBatch:
    x = torch.from_numpy(stream(0).random((3, 4, 1, MELS, FRAMES), dtype=np.float32))
    y = torch.arange(2).expand(3, 2)
    return TaskBatch(x[:, :2], y, x[:, 2:], y)


def test_without_amounts_tasks_are_as_they_were() -> None:
    before = tasks()
    assert augment_spectrograms(before, SpectrogramAugmentation(), stream(1)) is before


def test_noise_fills_what_is_quieter_and_leaves_the_rest() -> None:
    before = tasks()
    changed = augment_spectrograms(before, SpectrogramAugmentation(augment_noise=0.5), stream(1))
    for half in ("support_x", "query_x"):
        old, new = getattr(before, half), getattr(changed, half)
        assert bool((new >= old).all())
        assert torch.equal(new[old > 0.5], old[old > 0.5])
        assert float((new - old).max()) > 0.1


def test_each_spectrogram_is_changed_by_amounts_of_its_own() -> None:
    same = torch.rand(1, 1, 1, MELS, FRAMES, generator=torch.Generator().manual_seed(0)).expand(
        3, 4, -1, -1, -1
    )
    y = torch.arange(2).expand(3, 2)
    changed = augment_spectrograms(
        TaskBatch(same[:, :2], y, same[:, 2:], y), SpectrogramAugmentation(augment_tempo=0.3), stream(1)
    )
    every = torch.cat([changed.support_x, changed.query_x], 1).flatten(0, 1)
    assert len({tuple(one.flatten().tolist()) for one in every}) == 12
