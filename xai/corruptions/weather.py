"""Weather: fog by midpoint displacement, and splashes on the lens."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from xai.relevance import Array


def fog(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """A fractal cloud is added and the range kept: ``(x + c cloud) / (1 + c)``, cloud in 0 to 1."""
    c, roughness = ((0.4, 2.2), (0.6, 2.0), (0.8, 1.9), (1.1, 1.8), (1.5, 1.7))[severity - 1]
    mist: Array = (x + c * cloud(x.shape, roughness, rng)) / (1 + c)
    return mist


def cloud(shape: tuple[int, ...], decay: float, rng: np.random.Generator) -> Array:
    """Diamond-square noise (Fournier, Fussell, Carpenter, CACM 1982), scaled to 0 to 1.

    Its displacements become ``decay`` times smaller with every halving of the grid; the grid is a
    torus.
    """
    size = 1 << (max(shape) - 1).bit_length()
    z = np.zeros((size, size))
    step, amplitude = size, 1.0
    while step > 1:
        half = step // 2
        corners = z[::step, ::step]
        right = np.roll(corners, -1, 1)
        centers = (corners + right + np.roll(corners, -1, 0) + np.roll(right, -1, 0)) / 4
        centers += rng.uniform(-amplitude, amplitude, centers.shape)
        z[half::step, half::step] = centers
        beside = (corners + right + centers + np.roll(centers, 1, 0)) / 4
        z[::step, half::step] = beside + rng.uniform(-amplitude, amplitude, beside.shape)
        below = (corners + np.roll(corners, -1, 0) + centers + np.roll(centers, 1, 1)) / 4
        z[half::step, ::step] = below + rng.uniform(-amplitude, amplitude, below.shape)
        step, amplitude = half, amplitude / decay
    z = z[: shape[0], : shape[1]]
    scaled: Array = (z - z.min()) / (z.max() - z.min())
    return scaled


def spatter(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Drops on the lens: where smoothed noise is high, the picture shows light grey instead."""
    share = (0.03, 0.05, 0.08, 0.12, 0.16)[severity - 1]
    noise = gaussian_filter(rng.standard_normal(x.shape), 1.3)
    drops = noise > np.quantile(noise, 1 - share)
    cover = np.clip(1.5 * gaussian_filter(drops.astype(np.float64), 0.5), 0, 1)
    covered: Array = x * (1 - cover) + 0.8 * cover
    return covered
