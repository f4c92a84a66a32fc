"""Random small changes of the spectrograms of training tasks."""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedmeta.options import Key, Options
from fedmeta.tasks.batch import TaskBatch

DRAWS = 5
"""Uniform numbers of a spectrogram: two shifts, two stretches, and the noise's level."""


class SpectrogramAugmentation(Options):
    """How spectrograms of training clients' tasks are changed; each by its own random amounts.

    The largest amounts; 0 leaves a kind out, and with all at 0 the tasks are those without augmentation.
    Which sounds a task has does not depend on them.

    Attributes:
        augment_time: Shift in time, up to this fraction of the length either way.
        augment_pitch: Shift in pitch, up to this fraction of the bands either way.
        augment_tempo: Maximum stretch x in time: by a factor between 1 / (1 + x) and 1 + x.
        augment_formants: The same along the bands, as voices differ in the length of the vocal tract.
        augment_noise: Maximum level of noise, as a fraction of the range from silence to the loudest.
    """

    augment_time: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=0.5)
    augment_pitch: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=0.5)
    augment_tempo: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=1.0)
    augment_formants: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=1.0)
    augment_noise: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=1.0)

    @property
    def moves(self) -> bool:
        """Whether spectrograms are shifted or stretched."""
        return any((self.augment_time, self.augment_pitch, self.augment_tempo, self.augment_formants))

    @property
    def augments(self) -> bool:
        """Whether spectrograms are changed at all."""
        return self.moves or self.augment_noise > 0


def augment_spectrograms(
    tasks: TaskBatch, options: SpectrogramAugmentation, rng: np.random.Generator
) -> TaskBatch:
    """Change each spectrogram ``x [T, B, 1, mels, frames]`` of both halves by amounts of its own.

    Args:
        tasks: Tasks with spectrograms in [0, 1], 0 silence.
        options: The largest amounts; if all are 0, the tasks are returned as they are.
        rng: The generator that drew the tasks.
    """
    if not options.augments:
        return tasks
    support, query = tasks.support_x, tasks.query_x
    x = torch.cat([support, query], dim=1)
    amounts = rng.uniform(-1.0, 1.0, (x.shape[0] * x.shape[1], DRAWS))
    changed = change(x.flatten(0, 1), options, amounts)
    if options.augment_noise:
        changed = _with_noise(changed, options.augment_noise * (amounts[:, 4] + 1.0) / 2.0, rng)
    rows, changed = support.shape[1], changed.view(x.shape)
    return TaskBatch(
        {**tasks.support, "x": changed[:, :rows].contiguous()},
        {**tasks.query, "x": changed[:, rows:].contiguous()},
    )


def change(sounds: Tensor, options: SpectrogramAugmentation, amounts: NDArray[np.float64]) -> Tensor:
    """Shift and stretch spectrograms ``[N, 1, mels, frames]``; what comes in from outside is silence.

    Args:
        sounds: The spectrograms.
        options: The largest amounts.
        amounts: ``[N, 5]`` in [-1, 1], each the part that is taken of: shift to later, shift to higher
            bands, tempo, formants, and noise, which is not applied here.
    """
    if not options.moves:
        return sounds
    # A grid is in units of half a side, and says where each place of the new spectrogram was.
    slower = (1.0 + options.augment_tempo) ** -amounts[:, 2]
    wider = (1.0 + options.augment_formants) ** -amounts[:, 3]
    later = 2.0 * options.augment_time * amounts[:, 0]
    higher = 2.0 * options.augment_pitch * amounts[:, 1]
    none = np.zeros(len(amounts))
    # Sounds start at the left and voices at the lowest band: both stay there when stretched.
    rows = [slower, none, slower - 1.0 - slower * later, none, wider, wider - 1.0 - wider * higher]
    inverse = torch.from_numpy(np.stack(rows, axis=1).reshape(-1, 2, 3).astype(np.float32))
    grid = F.affine_grid(inverse, list(sounds.shape), align_corners=False)
    return F.grid_sample(sounds, grid, align_corners=False)


def _with_noise(sounds: Tensor, level: NDArray[np.float64], rng: np.random.Generator) -> Tensor:
    """Fill what is quieter than a sound's noise with it: levels are logarithms, the louder is heard."""
    drawn = rng.random(sounds.shape, dtype=np.float32) * level.reshape(-1, 1, 1, 1).astype(np.float32)
    return torch.maximum(sounds, torch.from_numpy(drawn))
