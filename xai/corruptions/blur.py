"""Blur by frosted glass and by motion."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve, gaussian_filter

from xai.relevance import Array


def glass_blur(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Frosted glass: neighbouring pixels swapped at random, between two slight Gaussian blurs."""
    sigma, reach, rounds = (
        (0.4, 1, 1), (0.5, 1, 2), (0.6, 1, 3), (0.7, 2, 2), (0.8, 2, 3),
    )[severity - 1]  # fmt: skip
    blurred = gaussian_filter(x, sigma)
    h, w = blurred.shape
    i, j = np.mgrid[:h, :w]
    grey = blurred.ravel().tolist()  # a list, since swaps follow one another
    for _ in range(rounds):
        down, right = rng.integers(-reach, reach + 1, (2, h, w))
        other = np.clip(i + down, 0, h - 1) * w + np.clip(j + right, 0, w - 1)
        for p, q in enumerate(other.ravel().tolist()):
            grey[p], grey[q] = grey[q], grey[p]
    swapped: Array = gaussian_filter(np.reshape(grey, (h, w)), sigma)
    return swapped


def motion_blur(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Mean over a straight path of a share of the side, in a random direction."""
    length = (0.1, 0.18, 0.25, 0.35, 0.45)[severity - 1] * min(x.shape)
    angle = rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    along = np.linspace(-length / 2, length / 2, 16 * reach)
    rows = np.rint(reach + along * np.sin(angle)).astype(int)
    columns = np.rint(reach + along * np.cos(angle)).astype(int)
    np.add.at(kernel, (rows, columns), 1.0)
    blurred: Array = convolve(x, kernel / kernel.sum(), mode="constant")
    return blurred
