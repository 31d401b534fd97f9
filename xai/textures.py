"""Pictures of ground surfaces with defects and their masks, made by code.

A stand-in for inspection data that may not be passed on, e.g. the magnetic tiles of Huang et al.
(2018): grey surfaces with grinding grain and uneven light, and four kinds of defect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from xai.errors import InputError
from xai.relevance import Array

MIN_SIZE = 24


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Pictures, which of them have a defect, and where.

    Attributes
    ----------
    images
        ``(n, h, w)``, grey from 0 to 1, float32.
    labels
        1 with a defect, 0 without ``(n,)``.
    masks
        Where the defect is ``(n, h, w)``, boolean; empty for pictures without one.
    kinds
        ``"free"``, ``"blowhole"``, ``"crack"``, ``"fray"`` or ``"break"`` ``(n,)``.
    """

    images: Array
    labels: Array
    masks: Array
    kinds: Array

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: Array) -> Surfaces:
        """Only these rows, by number or by a boolean mask."""
        return Surfaces(self.images[rows], self.labels[rows], self.masks[rows], self.kinds[rows])


def ground_surfaces(n_free: int, n_defect: int, *, size: int = 64, seed: int = 0) -> Surfaces:
    """Draw ``n_free`` clean surfaces, then ``n_defect`` with one defect each, in turn of each kind.

    Parameters
    ----------
    n_free, n_defect
        How many.
    size
        Side in pixels, at least 24.
    seed
        Of everything random; other numbers of pictures leave the first ones as they are.

    Raises
    ------
    InputError
        A negative number, none at all, or pictures too small for defects.

    Examples
    --------
    >>> surfaces = ground_surfaces(2, 4, size=32)
    >>> surfaces.images.shape, surfaces.kinds.tolist()
    ((6, 32, 32), ['free', 'free', 'blowhole', 'crack', 'fray', 'break'])
    >>> surfaces.masks.any((1, 2)).tolist() == (surfaces.labels == 1).tolist()
    True
    """
    if n_free < 0 or n_defect < 0 or n_free + n_defect == 0:
        raise InputError(f"Expected some surfaces, got n_free={n_free}, n_defect={n_defect}.")
    if size < MIN_SIZE:
        raise InputError(f"Expected a size of at least {MIN_SIZE} pixels, got {size}.")
    names = tuple(DEFECTS)
    kinds = ["free"] * n_free + [names[i % len(names)] for i in range(n_defect)]
    numbers = [(0, i) for i in range(n_free)] + [(1, i) for i in range(n_defect)]
    images = np.empty((len(kinds), size, size), dtype=np.float32)
    masks = np.zeros((len(kinds), size, size), dtype=bool)
    for row, (kind, number) in enumerate(zip(kinds, numbers, strict=True)):
        rng = np.random.default_rng((seed, *number))
        picture = _surface(size, rng)
        if kind != "free":
            masks[row] = DEFECTS[kind](picture, rng)
        noisy = picture + rng.normal(0, 0.02, picture.shape)
        images[row] = np.clip(noisy, 0, 1)
    labels = np.array([int(kind != "free") for kind in kinds])
    return Surfaces(images, labels, masks, np.array(kinds))


def _surface(size: int, rng: np.random.Generator) -> Array:
    """Grain along one direction under uneven light."""
    grain = gaussian_filter(rng.normal(size=(size, size)), (size / 8, 0.7))
    grain /= grain.std()
    light = gaussian_filter(rng.normal(size=(size, size)), size / 4)
    light /= np.abs(light).max()
    surface: Array = 0.5 + 0.05 * grain + 0.08 * light + rng.normal(0, 0.03)
    return surface


def _place(size: int, rng: np.random.Generator, margin: float) -> Array:
    place: Array = rng.uniform(margin * size, (1 - margin) * size, 2)
    return place


def _blob(size: int, center: Array, radii: Array, angle: float) -> Array:
    """Distance from the centre in units of the radii ``(h, w)``."""
    y, x = np.mgrid[:size, :size] - center[:, None, None]
    u, v = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    distance: Array = np.hypot(u / radii[0], v / radii[1])
    return distance


def _blowhole(picture: Array, rng: np.random.Generator) -> Array:
    """A small dark hole with a bright rim."""
    size = len(picture)
    radii = rng.uniform(0.025, 0.06, 2) * size + 1
    d = _blob(size, _place(size, rng, 0.15), radii, rng.uniform(0, np.pi))
    picture += 0.08 * np.exp(-(((d - 1.3) / 0.25) ** 2)) - 0.3 / (1 + np.exp(8 * (d - 1)))
    inside: Array = d < 1.2
    return inside


def _crack(picture: Array, rng: np.random.Generator) -> Array:
    """A thin dark line that wanders."""
    size = len(picture)
    steps = int(rng.uniform(0.35, 0.7) * size)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, steps))
    path = _place(size, rng, 0.25)[:, None] + np.cumsum([np.sin(heading), np.cos(heading)], 1)
    y, x = np.round(path[:, ((path >= 0) & (path < size - 0.5)).all(0)]).astype(int)
    line = np.zeros_like(picture)
    line[y, x] = 1.0
    soft = gaussian_filter(line, 0.7)
    soft /= soft.max()
    picture -= rng.uniform(0.2, 0.3) * soft
    inside: Array = soft > 0.25
    return inside


def _fray(picture: Array, rng: np.random.Generator) -> Array:
    """A patch whose grain is rough."""
    size = len(picture)
    radii = rng.uniform(0.1, 0.2, 2) * size
    d = _blob(size, _place(size, rng, 0.2), radii, rng.uniform(0, np.pi))
    rough = gaussian_filter(rng.normal(size=picture.shape), 0.8)
    picture += 0.12 * rough / rough.std() / (1 + np.exp(6 * (d - 1)))
    inside: Array = d < 1.1
    return inside


def _break(picture: Array, rng: np.random.Generator) -> Array:
    """A piece that broke off at an edge, dark and ragged."""
    size = len(picture)
    edge = rng.integers(4)
    along = rng.uniform(0.2, 0.8) * size
    center = np.array([[0, along], [along, 0], [size - 1, along], [along, size - 1]][edge])
    radii = rng.uniform(0.12, 0.22, 2) * size
    ragged = gaussian_filter(rng.normal(size=picture.shape), size / 24)
    d = _blob(size, center, radii, rng.uniform(0, np.pi)) + 0.15 * ragged / ragged.std()
    picture -= 0.22 / (1 + np.exp(10 * (d - 1)))
    inside: Array = d < 1.1
    return inside


Draw = Callable[[Array, np.random.Generator], Array]

DEFECTS: dict[str, Draw] = {
    "blowhole": _blowhole,
    "crack": _crack,
    "fray": _fray,
    "break": _break,
}
"""Each draws into the picture and returns its mask."""
