"""Grey values: a brighter picture, and one that is nothing but edges."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, label, sobel

from xai.relevance import Array

STRONG, WEAK = 0.3, 0.15
"""Slopes, as shares of the steepest, that start an edge and that carry one on."""


def brightness(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """A constant added to every pixel; white stays white."""
    brighter: Array = np.minimum(x + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1], 1.0)
    return brighter


def canny_edges(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Canny's edges (TPAMI 1986) in white on black, of a picture blurred the more the severer."""
    blurred = gaussian_filter(x, (0.5, 0.75, 1.0, 1.25, 1.5)[severity - 1])
    down, right = sobel(blurred, 0, mode="nearest"), sobel(blurred, 1, mode="nearest")
    slope = np.hypot(down, right)
    if not slope.max() > 0:
        return np.zeros_like(x)
    ridge = _ridges(slope, down, right)
    weak = ridge & (slope >= WEAK * slope.max())
    parts, _ = label(weak, np.ones((3, 3)))
    started = np.unique(parts[weak & (slope >= STRONG * slope.max())])
    edges: Array = (np.isin(parts, started) & weak).astype(np.float64)
    return edges


def _ridges(slope: Array, down: Array, right: Array) -> Array:
    """Pixels whose slope is not smaller than on either side, across the edge."""
    # The direction of steepest ascent, rounded to a multiple of 45 degrees.
    eighth = np.rint(4 * np.arctan2(down, right) / np.pi).astype(int) % 4
    padded = np.pad(slope, 1)
    h, w = slope.shape
    ridge = np.zeros(slope.shape, dtype=bool)
    for i, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]
        behind = padded[1 - dy : 1 - dy + h, 1 - dx : 1 - dx + w]
        # Strict on one side, so that two equal neighbours give an edge of one pixel.
        ridge |= (eighth == i) & (slope >= ahead) & (slope > behind)
    return ridge
