"""Noise of the sensor: photons that are counted, pixels that fail."""

from __future__ import annotations

import numpy as np

from xai.relevance import Array


def shot_noise(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Poisson counts: ``Poisson(c x) / c`` with ``c`` photons at white; black stays black."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    counted: Array = rng.poisson(x * photons) / photons
    return counted


def impulse_noise(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Salt and pepper: a share of the pixels becomes white or black, evenly."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = rng.random(x.shape) < share
    x[hit] = rng.integers(0, 2, hit.sum())
    return x
