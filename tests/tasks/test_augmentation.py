import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from fedmeta.tasks import Population, build_family, stream
from fedmeta.tasks.augmentation import AugmentationOptions, change_stroke, distort

SIDE = 41
ALL: dict[str, Any] = {
    "augment_rotation": 10.0,
    "augment_shift": 0.05,
    "augment_scale": 0.1,
    "augment_shear": 10.0,
    "augment_stroke": 0.5,
}


def dot(x: float, y: float) -> torch.Tensor:
    """A round blot of ink, its centre (x, y) pixels right of and below the middle."""
    place = torch.arange(SIDE) - SIDE // 2
    squares = (place - x).square()[None] + (place - y).square()[:, None]
    return torch.exp(-squares / 8.0)[None, None].float()


def centre(image: torch.Tensor) -> tuple[float, float]:
    down, right = ndimage.center_of_mass(image[0, 0].numpy())
    return right - SIDE // 2, down - SIDE // 2


@pytest.mark.parametrize(
    ("options", "amounts", "expected"),
    [
        # Counter-clockwise by 30 degrees; y counts downwards: (10 cos 30, -10 sin 30).
        ({"augment_rotation": 60.0}, [0.5, 0, 0, 0, 0, 0], (10 * math.cos(math.pi / 6), -5.0)),
        ({"augment_shift": 0.1}, [0, 0.5, -1, 0, 0, 0], (10 + 0.05 * SIDE, -0.1 * SIDE)),
        ({"augment_scale": 0.2}, [0, 0, 0, 1, 0, 0], (12.0, 0.0)),
        ({"augment_scale": 0.2}, [0, 0, 0, -1, 0, 0], (10 / 1.2, 0.0)),
        # A shear along rows leaves the middle row; all else on it is unchanged.
        ({"augment_shear": 20.0}, [0, 0, 0, 0, 1, 0], (10.0, 0.0)),
    ],
)
def test_ink_moves_where_geometry_says(
    options: dict[str, Any], amounts: list[float], expected: tuple[float, float]
) -> None:
    moved = distort(dot(10.0, 0.0), AugmentationOptions(**options), np.array([amounts]))
    assert centre(moved) == pytest.approx(expected, abs=0.05)


def test_a_shear_moves_rows_in_proportion_to_their_height() -> None:
    options = AugmentationOptions(augment_shear=20.0)
    moved = distort(dot(0.0, -9.0), options, np.array([[0, 0, 0, 0, 1.0, 0]]))
    assert centre(moved) == pytest.approx((9 * math.tan(math.radians(20)), -9.0), abs=0.05)


@pytest.mark.parametrize("part", [1.0, 0.5, -1.0, -0.25])
def test_strokes_are_dilated_or_eroded_in_part(part: float) -> None:
    page = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
    morph = ndimage.grey_dilation if part > 0 else ndimage.grey_erosion
    full = morph(page[0, 0].numpy(), footprint=cross, mode="nearest")
    expected = (1 - abs(part)) * page[0, 0].numpy() + abs(part) * full
    found = change_stroke(page, torch.tensor([part]))[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def digits(layout: str = "image", **options: Any) -> Any:
    return build_family("digits", {"layout": layout, "queries": 2, **options}, Population(4, 0, 1), 0)


def test_every_image_of_a_training_task_is_distorted_by_amounts_of_its_own() -> None:
    """On a pool of one and the same image."""
    family = digits(**ALL)
    family.pool = family.pool[:1].expand_as(family.pool).clone()
    tasks = family.sample(0, 2, stream(0))
    images = torch.cat([tasks.support_x, tasks.query_x], 1).flatten(0, 1).flatten(1)
    assert len(images.unique(dim=0)) == 2 * 5 * 3


def test_only_training_clients_tasks_are_augmented() -> None:
    plain, augmented = digits(), digits(**ALL)
    for client, same in ((0, False), (4, True)):
        one, other = (family.sample(client, 3, stream(7)) for family in (plain, augmented))
        assert torch.equal(one.query_x, other.query_x) is same
        assert torch.equal(one.query_y, other.query_y)


@pytest.mark.parametrize("layout", ["flat", "image"])
@pytest.mark.parametrize("before", [{}, {"augment_shift": 0.1, "augment_shear": 20.0}])
def test_raising_one_amount_changes_nothing_else(layout: str, before: dict[str, Any]) -> None:
    """Neither which images are drawn nor their other amounts."""
    family, barely = digits(layout, **before), digits(layout, **before, augment_stroke=1e-6)
    one, other = (each.sample(1, 3, stream(7)) for each in (family, barely))
    for (name, expected), (_, found) in zip(one.tensors(), other.tensors(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=name)
