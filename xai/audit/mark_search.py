"""Marks by both searches, their pieces put together, and their places made whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from xai.audit.marks import NEIGHBOURS, TOLERANCE, Mark, find_marks, united
from xai.audit.pooling import averaged, enlarged, working_factor
from xai.audit.stamps import agree, find_stamps, ground_content, usual_content
from xai.relevance import Array

EMPTY_ENOUGH = 0.01
"""Share of the pixels that must hold the same content in nearly all pictures for a plain ground."""

AGREED, ELSEWHERE = 0.9, 0.6
"""A pixel belongs to a mark if so many of its rows agree on it, and not so many of the others."""

COMMON = 0.5
"""Two marks that share this much of the smaller one's pixels, and of its rows, are one."""

OTHERS = 1000
"""Rows without the mark that are looked at, drawn at random."""


@dataclass(frozen=True, eq=False)
class Search:
    """What was found.

    Attributes
    ----------
    marks
        The largest group first.
    on_ground
        Whether the pictures have a plain ground, which says what lies under a mark.
    empty
        Share of the pixels that hold the same content in nearly all pictures.
    """

    marks: tuple[Mark, ...]
    on_ground: bool
    empty: float


def search(planes: Array, rng: np.random.Generator) -> Search:
    """Search pictures ``(n, h, w, c)`` for marks on a plain ground and on varying content.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> photos = 8 * ndimage.gaussian_filter(rng.normal(size=(300, 24, 24, 1)), (0, 3, 3, 0))
    >>> photos[20:80, 1:5, 18:23] = 2.0
    >>> found = search(photos, rng)
    >>> found.on_ground, [int(mark.pixels.sum()) for mark in found.marks]
    (False, [20])
    """
    scan = find_marks(planes, rng)
    on_ground = bool(scan.marks) or scan.empty >= EMPTY_ENOUGH
    stamps = find_stamps(planes, rng, on_ground=on_ground)
    pieces = united([*scan.marks, *stamps])
    kept: list[Mark] = []
    for mark in (_whole(planes, piece, rng, on_ground) for piece in pieces):
        if not any(_same(mark, other) for other in kept):
            kept.append(mark)
    return Search(tuple(kept), on_ground, scan.empty)


def _same(mark: Mark, other: Mark) -> bool:
    pixels = (mark.pixels & other.pixels).sum() / min(mark.pixels.sum(), other.pixels.sum())
    rows = len(np.intersect1d(mark.rows, other.rows)) / min(len(mark.rows), len(other.rows))
    return bool(pixels >= COMMON and rows >= COMMON)


def _whole(planes: Array, mark: Mark, rng: np.random.Generator, on_ground: bool) -> Mark:
    """The mark with all pixels around it that its rows agree on and the others do not.

    Bare ground does not count: rows of one class agree on it where others show something.
    """
    n, h, w, _ = planes.shape
    factor = working_factor(h, w)
    bare = np.setdiff1d(np.arange(n), mark.rows)
    bare = rng.choice(bare, min(len(bare), OTHERS), replace=False)
    carriers, others = averaged(planes[mark.rows], factor), averaged(planes[bare], factor)
    low = min(carriers.min(), others.min())
    scale = max(carriers.max(), others.max()) - low or 1.0
    carriers, others = (carriers - low) / scale, (others - low) / scale
    content = usual_content(carriers)
    agreed = agree(carriers, content, 2 * TOLERANCE).mean(0) >= AGREED
    apart = agree(others, content, 2 * TOLERANCE).mean(0) < ELSEWHERE
    if on_ground:
        agreed &= ~agree(content, ground_content(others), 2 * TOLERANCE)
    own = mark.pixels[::factor, ::factor]
    parts = ndimage.binary_dilation(agreed & apart | own, NEIGHBOURS)
    regions, _ = ndimage.label(parts, NEIGHBOURS)
    touched = np.isin(regions, np.unique(regions[own]))
    return Mark(enlarged((agreed & apart & touched) | own, factor, h, w), mark.rows)
