"""Random small distortions of the images of training tasks."""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedmeta.options import Key, Options
from fedmeta.tasks.batch import TaskBatch
from fedmeta.tasks.image_files import ImageStyle

DRAWS = 6
"""Uniform numbers of an image: rotation, two shifts, scale, shear and stroke."""


class AugmentationOptions(Options):
    """How images of training clients' tasks are distorted; each image by its own random amounts.

    The largest amounts; 0 leaves a kind out, and with all at 0 the tasks are those without augmentation.
    Which images a task has does not depend on them.

    Attributes:
        augment_rotation: Maximum rotation in degrees, in either direction.
        augment_shift: Shift along each axis, up to this fraction of the image's side either way.
        augment_scale: Maximum scaling x: by a factor between 1 / (1 + x) and 1 + x.
        augment_shear: Maximum shear in degrees, in either direction.
        augment_stroke: Maximum change of stroke width, in pixels on each side of a stroke.
    """

    augment_rotation: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=180.0)
    augment_shift: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=0.5)
    augment_scale: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=1.0)
    augment_shear: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=60.0)
    augment_stroke: Annotated[float, Key(arm="any")] = Field(default=0.0, ge=0.0, le=1.0)

    @property
    def moves(self) -> bool:
        """Whether images are moved, turned, scaled or sheared."""
        return any((self.augment_rotation, self.augment_shift, self.augment_scale, self.augment_shear))

    @property
    def augments(self) -> bool:
        """Whether images are changed at all."""
        return self.moves or self.augment_stroke > 0


def augment(
    tasks: TaskBatch,
    options: AugmentationOptions,
    rng: np.random.Generator,
    image: tuple[int, ...],
    style: ImageStyle,
) -> TaskBatch:
    """Distort each image ``x`` of both halves by amounts of its own.

    The random numbers do not depend on the options, so raising one amount changes nothing else.

    Args:
        tasks: Tasks with images ``x [T, B, ...]``.
        options: The largest amounts; if all are 0, the tasks are returned as they are.
        rng: The generator that drew the tasks.
        image: Shape ``(C, H, W)`` of an image, square; those of `tasks` may be flat.
        style: Their mean and deviation; images are ink 1 on paper 0 without it.
    """
    if not options.augments:
        return tasks
    support, query = tasks.support_x, tasks.query_x
    x = torch.cat([support, query], dim=1)
    amounts = rng.uniform(-1.0, 1.0, (x.shape[0] * x.shape[1], DRAWS))
    ink = x.view(-1, *image) * style.deviation + style.mean
    changed = (distort(ink, options, amounts) - style.mean) / style.deviation
    rows, changed = support.shape[1], changed.view(x.shape)
    return TaskBatch(
        {**tasks.support, "x": changed[:, :rows].contiguous()},
        {**tasks.query, "x": changed[:, rows:].contiguous()},
    )


def distort(images: Tensor, options: AugmentationOptions, amounts: NDArray[np.float64]) -> Tensor:
    """Distort images ``[N, C, H, W]`` in [0, 1], ink 1 on paper 0.

    Args:
        images: The images.
        options: The largest amounts.
        amounts: ``[N, 6]`` in [-1, 1], each the part that is taken of: rotation, shift right, shift
            down, scale, shear, stroke.
    """
    if options.moves:
        grid = F.affine_grid(_inverse(options, amounts), list(images.shape), align_corners=False)
        # Bicubic costs no more than bilinear here and keeps thin strokes as sharp as they were.
        images = F.grid_sample(images, grid, mode="bicubic", align_corners=False).clamp_(0.0, 1.0)
    if options.augment_stroke:
        part = torch.from_numpy(amounts[:, 5] * options.augment_stroke).to(images.dtype)
        images = change_stroke(images, part)
    return images


def change_stroke(images: Tensor, pixels: Tensor) -> Tensor:
    """Widen strokes of ``images [N, C, H, W]`` by ``pixels [N]`` on each side, or thin them below 0.

    A pixel moves by that part towards the largest (smallest) of itself and its four neighbours, which is
    a grey dilation (erosion) by one pixel.
    """
    by = pixels.view(-1, 1, 1, 1)
    # An erosion is a dilation of the paper.
    ink = torch.where(by < 0, -images, images)
    widest = ink.clone()
    # A twentieth of the time of two max-pools.
    for here, beside in (
        (widest[..., 1:], ink[..., :-1]),
        (widest[..., :-1], ink[..., 1:]),
        (widest[..., 1:, :], ink[..., :-1, :]),
        (widest[..., :-1, :], ink[..., 1:, :]),
    ):
        torch.maximum(here, beside, out=here)
    return images + by * (widest - ink)


def _inverse(options: AugmentationOptions, amounts: NDArray[np.float64]) -> Tensor:
    """Return the maps ``[N, 2, 3]`` from each place of the new image to its place in the old one."""
    angle = np.deg2rad(options.augment_rotation) * amounts[:, 0]
    shift = 2.0 * options.augment_shift * amounts[:, 1:3]  # the side of an image is 2 long
    shrink = (1.0 + options.augment_scale) ** -amounts[:, 3]
    shear = np.tan(np.deg2rad(options.augment_shear) * amounts[:, 4])
    cos, sin = np.cos(angle) * shrink, np.sin(angle) * shrink
    # Counter-clockwise as seen, with rows counted downwards, after a shear along rows.
    matrix = np.stack([cos + shear * sin, -sin + shear * cos, sin, cos], axis=1).reshape(-1, 2, 2)
    offset = -(matrix @ shift[:, :, None])
    return torch.from_numpy(np.concatenate([matrix, offset], axis=2).astype(np.float32))
