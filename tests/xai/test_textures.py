"""Surfaces made by code: masks are where the picture changed, and numbers do not matter."""

from __future__ import annotations

import numpy as np
import pytest

from xai.errors import InputError
from xai.textures import DEFECTS, MIN_SIZE, ground_surfaces


def test_shapes_ranges_and_kinds() -> None:
    surfaces = ground_surfaces(3, 9, size=40, seed=2)
    assert len(surfaces) == 12
    assert surfaces.images.shape == surfaces.masks.shape == (12, 40, 40)
    assert surfaces.images.dtype == np.float32
    assert surfaces.images.min() >= 0 and surfaces.images.max() <= 1
    assert set(surfaces.kinds[3:]) == set(DEFECTS)
    assert (surfaces.labels == (surfaces.kinds != "free")).all()
    assert (surfaces.masks.any((1, 2)) == (surfaces.labels == 1)).all()
    assert len(surfaces.select(surfaces.kinds == "crack")) == 2


@pytest.mark.parametrize("size", [MIN_SIZE, 64])
@pytest.mark.parametrize("kind", DEFECTS)
def test_defects_change_the_picture_inside_their_mask(kind: str, size: int) -> None:
    for seed in range(30):
        picture = np.full((size, size), 0.5)
        mask = DEFECTS[kind](picture, np.random.default_rng(seed))
        change = np.abs(picture - 0.5)
        assert mask.any() and not mask.all()
        assert change[mask].sum() > 0.75 * change.sum()
        assert change[mask].max() > 0.1


def test_seeds_repeat_and_more_pictures_leave_the_first_alone() -> None:
    few, more = ground_surfaces(2, 3, seed=1), ground_surfaces(5, 6, seed=1)
    np.testing.assert_array_equal(few.images[:2], more.images[:2])
    np.testing.assert_array_equal(few.images[2:], more.images[5:8])
    assert np.abs(few.images[0] - ground_surfaces(1, 0, seed=2).images[0]).max() > 0.01


@pytest.mark.parametrize("options", [{"n_free": -1}, {"n_free": 0}, {"size": 10}])
def test_impossible_wishes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="Expected"):
        ground_surfaces(**{"n_free": 1, "n_defect": 0, **options})
