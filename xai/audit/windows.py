"""Small windows of a picture: which of them holds most of a map, and how much of it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from xai.relevance import Array

AREA = 0.05
"""Of the picture, at most."""


def window_side(h: int, w: int) -> int:
    """Pixels a side of the largest square of at most :data:`AREA` of a picture.

    Examples
    --------
    >>> window_side(224, 224), window_side(32, 32), window_side(4, 4)
    (50, 7, 1)
    """
    return max(1, min(int(np.sqrt(AREA * h * w)), h, w))


def window_shares(maps: Array) -> Array:
    """Share of the positive part of each map in every window, ``(n, h - s + 1, w - s + 1)``.

    Entry ``(y, x)`` is of the window whose upper left corner is there; all are 0 for a map without
    a positive part.

    Examples
    --------
    >>> maps = np.zeros((1, 10, 10))
    >>> maps[0, 2, 3], maps[0, 9, 9] = 3.0, 1.0
    >>> shares = window_shares(maps)
    >>> shares.shape, float(shares.max()), float(shares[0, 1, 2])
    ((1, 9, 9), 0.75, 0.75)
    """
    positive = np.maximum(maps.astype(np.float64), 0)
    total = positive.sum((1, 2), keepdims=True)
    s = window_side(*maps.shape[1:])
    # the mean over a window, by its centre as scipy counts it
    means = uniform_filter(positive, size=(0, s, s), mode="constant")
    first = s // 2
    h, w = (length - s + 1 for length in maps.shape[1:])
    sums = means[:, first : first + h, first : first + w] * s * s
    found: Array = np.clip(sums / np.where(total > 0, total, 1.0), 0.0, 1.0)
    return found


def window(corner: tuple[int, int], h: int, w: int) -> Array:
    """Mask ``(h, w)`` of the window whose upper left corner this is."""
    s = window_side(h, w)
    pixels = np.zeros((h, w), bool)
    pixels[corner[0] : corner[0] + s, corner[1] : corner[1] + s] = True
    return pixels
