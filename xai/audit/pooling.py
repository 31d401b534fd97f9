"""Pictures made small enough to search, and places in them made large again."""

from __future__ import annotations

import numpy as np

from xai.relevance import Array

SIDE = 64
"""Larger pictures are averaged down to at most this many pixels a side for a search."""


def working_factor(h: int, w: int) -> int:
    """By how much a picture is averaged down."""
    return max(1, -(-max(h, w) // SIDE))


def averaged(planes: Array, factor: int) -> Array:
    """Blocks of ``factor`` x ``factor`` pixels averaged; a remainder repeats the last pixel."""
    if factor == 1:
        return planes.astype(np.float64)
    n, h, w, c = planes.shape
    pad = ((0, -h % factor), (0, -w % factor), (0, 0))
    averaged = np.empty((n, -(-h // factor), -(-w // factor), c))
    for picture, small in zip(planes, averaged, strict=True):  # one at a time, for memory
        padded = np.pad(picture, pad, mode="edge")
        blocks = padded.reshape(len(small), factor, -1, factor, c)
        small[:] = blocks.mean((1, 3), dtype=np.float64)
    return averaged


def enlarged(pixels: Array, factor: int, h: int, w: int) -> Array:
    """A place ``(h / factor, w / factor)`` in the picture ``(h, w)`` it stands for."""
    return np.kron(pixels, np.ones((factor, factor), dtype=bool))[:h, :w]
