"""Per-region overlap against a loop over thresholds and a flood fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xai.errors import InputError
from xai.evaluate import per_region_overlap

Array = np.ndarray


def regions(mask: Array) -> list[list[tuple[int, int]]]:
    """Pixels of every region; they may touch at corners."""
    left = {(int(i), int(j)) for i, j in np.argwhere(mask)}
    found = []
    while left:
        todo = [left.pop()]
        region = []
        while todo:
            i, j = todo.pop()
            region.append((i, j))
            around = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= around
            todo.extend(around)
        found.append(region)
    return found


def slow(maps: Array, masks: Array, limit: float) -> float:
    every = [(k, r) for k, mask in enumerate(masks) for r in regions(mask)]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        above = maps >= threshold
        overlap = np.mean([np.mean([above[k][p] for p in r]) for k, r in every])
        points.append((above[~masks].mean(), float(overlap)))
    x, y = np.array(points).T
    grid = np.linspace(0, limit, 200_001)
    return float(np.trapezoid(np.interp(grid, x, y), grid) / limit)


@pytest.mark.parametrize("ties", [1, 8])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_equals_the_curve_drawn_by_hand(ties: int, limit: float) -> None:
    dice = np.random.default_rng(0)
    masks = dice.random((3, 9, 8)) > 0.75
    masks[1] = False
    maps = np.round(dice.random(masks.shape) + 0.3 * masks, ties)
    assert per_region_overlap(maps, masks, limit=limit) == pytest.approx(
        slow(maps, masks, limit), abs=1e-5
    )


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, :5, :6] = masks[0, 9, 9] = True
    large = np.where(np.arange(10)[:, None] < 5, masks, False).astype(float)
    small = masks - large
    assert per_region_overlap(small, masks) == pytest.approx(per_region_overlap(large, masks))
    assert 0.5 < per_region_overlap(large, masks) < 0.99
    assert per_region_overlap(masks, masks) == pytest.approx(1)


def test_without_information_half_the_limit() -> None:
    masks = np.zeros((2, 6, 6), dtype=bool)
    masks[0, 2:4, 2:4] = True
    assert per_region_overlap(np.zeros(masks.shape), masks) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("maps", "masks", "limit", "match"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), 0.3, r"\(n, h, w\)"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 3)), 0.3, "one shape"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), 2), 0.3, "1 and 0"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), 0.3, "nothing inside"),
        (np.zeros((1, 2, 2)), np.ones((1, 2, 2)), 0.3, "nothing outside"),
        (np.full((1, 2, 2), np.nan), np.eye(2)[None], 0.3, "finite"),
        (np.zeros((1, 2, 2)), np.eye(2)[None], 0.0, "limit"),
    ],
)
def test_refuses(maps: Any, masks: Any, limit: float, match: str) -> None:
    with pytest.raises(InputError, match=match):
        per_region_overlap(maps, masks, limit=limit)
