"""What a pen or a printer leaves: an inverted stripe, a dotted line, a zigzag."""

from __future__ import annotations

import numpy as np

from xai.relevance import Array


def stripe(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """Grey values inverted in an upright stripe at a random place."""
    w = x.shape[1]
    width = max(1, round((0.07, 0.11, 0.14, 0.2, 0.25)[severity - 1] * w))
    left = int(rng.integers(w // 8, w - w // 8 - width + 1))
    x[:, left : left + width] = 1 - x[:, left : left + width]
    return x


def dotted_line(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """White dots on straight lines from the left to the right edge; severity is their number."""
    h, w = x.shape
    for _ in range(severity):
        start, end = rng.uniform(0.1 * h, 0.9 * h, 2)
        columns = np.arange(int(rng.integers(0, 3)), w, 3)
        rows = np.rint(start + (end - start) * columns / (w - 1)).astype(int)
        _dots(x, rows, columns)
    return x


def zigzag(x: Array, severity: int, rng: np.random.Generator) -> Array:
    """A white line that runs up and down about a straight one from edge to edge."""
    h, w = x.shape
    start, end = rng.uniform(0.3 * h, 0.7 * h, 2)
    height = (0.06, 0.1, 0.14, 0.2, 0.26)[severity - 1] * h
    along = np.linspace(0, w - 1, 20 * w)
    period, phase = w / 4.5, rng.uniform(0, 1)
    teeth = 2 * np.abs(2 * ((along / period + phase) % 1) - 1) - 1
    rows = np.rint(start + (end - start) * along / (w - 1) + height * teeth).astype(int)
    _dots(x, rows, np.rint(along).astype(int))
    return x


def _dots(x: Array, rows: Array, columns: Array) -> None:
    inside = (rows >= 0) & (rows < x.shape[0])
    x[rows[inside], columns[inside]] = 1.0
