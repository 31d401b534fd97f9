"""Artefacts to plant: in pictures ``(n, h, w, c)`` between 0 and 1, and in tables ``(n, d)``.

Each gives pictures that all have it; who keeps it is decided by :mod:`cases`. Those with a place
say where. Types, places and seeds used while thresholds were chosen are in ``TUNED``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from xai.audit.conditions import blurred, compressed, noisy

Array = np.ndarray

TUNED = {
    "types": "tag, logo, text, border, blur, noise, JPEG, colour cast; never the ruler",
    "seeds": "100 and above, which draw the classes, the places, the letters and the greys",
    "data": "Fashion-MNIST, MNIST and CIFAR-10",
}


@dataclass(frozen=True)
class Planted:
    """Pictures with the artefact ``(n, h, w, c)``, and where it is ``(h, w)`` if somewhere."""

    pictures: Array
    place: Array | None


def _corner(h: int, w: int, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    margin = int(rng.integers(0, 3))
    top = margin if rng.random() < 0.5 else h - height - margin
    left = margin if rng.random() < 0.5 else w - width - margin
    return top, left


def _pasted(x: Array, patch: Array, where: Array, rng: np.random.Generator) -> Planted:
    """``patch`` ``(a, b, c)`` where ``where`` ``(a, b)`` says, in a random corner."""
    h, w = x.shape[1:3]
    top, left = _corner(h, w, *where.shape, rng)
    place = np.zeros((h, w), dtype=bool)
    place[top : top + where.shape[0], left : left + where.shape[1]] = where
    out = x.copy()
    out[:, place] = patch[where]
    return Planted(out, place)


def tag(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """A square of one grey."""
    side = 5 if strong else 3
    patch = np.full((side, side, x.shape[3]), 1.0 if strong else 0.7)
    return _pasted(x, patch, np.ones((side, side), dtype=bool), rng)


def logo(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """A disc with a cross cut out, in two tones, on a transparent ground."""
    side = 11 if strong else 8
    yy, xx = np.mgrid[:side, :side] - (side - 1) / 2
    radius = np.hypot(yy, xx)
    where = radius < side / 2
    cross = (np.abs(yy) < 1) | (np.abs(xx) < 1)
    patch = np.where(cross[..., None], 0.95, rng.uniform(0.2, 0.5, x.shape[3]))
    return _pasted(x, patch, where, rng)


GLYPHS = {
    "A": ("010", "101", "111", "101", "101"),
    "E": ("111", "100", "110", "100", "111"),
    "H": ("101", "101", "111", "101", "101"),
    "7": ("111", "001", "010", "010", "010"),
    "4": ("101", "101", "111", "001", "001"),
}


def text(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """A few letters, one pixel thin."""
    letters = rng.choice(list(GLYPHS), 4 if strong else 2)
    rows = ["0".join(GLYPHS[letter][i] for letter in letters) for i in range(5)]
    where = np.array([[c == "1" for c in row] for row in rows])
    patch = np.full((*where.shape, x.shape[3]), 1.0 if strong else 0.8)
    return _pasted(x, patch, where, rng)


def ruler(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """A scale bar with ticks."""
    length = 17 if strong else 11
    where = np.zeros((4, length), dtype=bool)
    where[3] = True
    where[:, ::4] = True
    patch = np.full((*where.shape, x.shape[3]), 0.9 if strong else 0.6)
    return _pasted(x, patch, where, rng)


def border(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """A frame of one grey along all edges."""
    h, w = x.shape[1:3]
    width = 2 if strong else 1
    place = np.ones((h, w), dtype=bool)
    place[width : h - width, width : w - width] = False
    out = x.copy()
    out[:, place] = rng.uniform(0.35, 0.65)
    return Planted(out, place)


def cast(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """Less green and blue."""
    gains = (1.0, 0.7, 0.5) if strong else (1.0, 0.85, 0.7)
    return Planted(x * np.array(gains), None)


def jpeg(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """Quality 10 or 30."""
    return Planted(compressed(x, 10 if strong else 30), None)


def kernel(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """Smaller and back with bilinear interpolation and no antialiasing."""
    factor = 0.5 if strong else 0.7
    t = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    size = [round(side * factor) for side in x.shape[1:3]]
    small = torch.nn.functional.interpolate(t, size=size, mode="bilinear")
    back = torch.nn.functional.interpolate(small, size=x.shape[1:3], mode="bilinear")
    return Planted(np.moveaxis(back.numpy(), 1, -1), None)


def noise(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """Gaussian, of .15 or .05 of the range."""
    return Planted(noisy(x, 0.15 if strong else 0.05, rng), None)


def scanner(x: Array, strong: bool, rng: np.random.Generator) -> Planted:
    """The blur of another lens and a little less contrast."""
    soft = blurred(x, 1.2 if strong else 0.7)
    mean = ndimage.uniform_filter(soft, (0, 9, 9, 0), mode="nearest")
    return Planted(mean + 0.9 * (soft - mean), None)


Artefact = Callable[[Array, bool, np.random.Generator], Planted]

PLACED: dict[str, Artefact] = {
    "tag": tag,
    "logo": logo,
    "text": text,
    "border": border,
    "ruler": ruler,
}
ACQUIRED: dict[str, Artefact] = {
    "colour cast": cast,
    "JPEG": jpeg,
    "resize kernel": kernel,
    "noise": noise,
    "scanner blur": scanner,
}
