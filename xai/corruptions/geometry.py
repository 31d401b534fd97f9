"""Affine maps about the centre of the picture, with bilinear interpolation; outside is black."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import affine_transform

from xai.relevance import Array


def shear(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Rows slide sideways in proportion to their height, to a random side."""
    slope = _signed((0.2, 0.3, 0.4, 0.6, 0.8)[severity - 1], rng)
    return _about_center(x, np.array([[1.0, 0.0], [slope, 1.0]]))


def scale(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Shrink."""
    return _about_center(x, np.eye(2) / (0.9, 0.8, 0.7, 0.6, 0.5)[severity - 1])


def rotate(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Turn by 10, 20, 30, 45 or 60 degrees, to a random side."""
    angle = np.deg2rad(_signed((10, 20, 30, 45, 60)[severity - 1], rng))
    c, s = np.cos(angle), np.sin(angle)
    return _about_center(x, np.array([[c, -s], [s, c]]))


def translate(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Shift by a share of the side, in a random direction."""
    distance = (0.06, 0.1, 0.14, 0.18, 0.22)[severity - 1] * min(x.shape)
    angle = rng.uniform(0, 2 * np.pi)
    return _about_center(x, np.eye(2), distance * np.array([np.sin(angle), np.cos(angle)]))


def _signed(size: float, rng: np.random.Generator) -> float:
    return size * float(rng.choice([-1.0, 1.0]))


def _about_center(x: Array, matrix: Array, shift: Array | float = 0.0) -> Array:
    """The picture whose pixel ``p`` shows ``matrix (p - center) + center - shift`` of ``x``."""
    center = (np.array(x.shape) - 1) / 2
    moved: Array = affine_transform(
        x, matrix, offset=center - matrix @ center - shift, order=1, mode="constant"
    )
    return moved
