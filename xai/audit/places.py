"""Places in a picture: their names, and places of the same shape elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xai.audit.context import LARGE, AuditContext
from xai.audit.trial import FEWER_PLACES, RANDOM_PLACES, Replacement
from xai.relevance import Array


def elsewhere(pixels: Array, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Shifts (rows, columns) that move the place to random others, which it does not overlap.

    As many as :data:`~xai.audit.trial.RANDOM_PLACES` (:data:`~xai.audit.trial.FEWER_PLACES` in large
    pictures), or all there are. Where a place is so large
    that every shift overlaps it, the shifts that overlap least.

    Examples
    --------
    >>> pixels = np.zeros((4, 4), dtype=bool)
    >>> pixels[:2, :2] = True
    >>> sorted(elsewhere(pixels, np.random.default_rng(0)))
    [(0, 2), (1, 2), (2, 0), (2, 1), (2, 2)]
    """
    top, bottom, left, right = box(pixels)
    h, w = pixels.shape
    shifts = [
        (dy, dx)
        for dy in range(-top, h - bottom)
        for dx in range(-left, w - right)
        if (dy, dx) != (0, 0)
    ]
    overlap = np.array([(moved(pixels, shift) & pixels).sum() for shift in shifts])
    if not len(shifts):
        return []
    free = np.flatnonzero(overlap == overlap.min())
    most = RANDOM_PLACES if pixels.size < LARGE else FEWER_PLACES
    chosen = rng.choice(free, min(most, len(free)), replace=False)
    return [shifts[i] for i in chosen]


def moved(picture: Array, shift: tuple[int, int]) -> Array:
    """A picture ``(h, w, ...)`` shifted, what leaves it coming in again on the other side."""
    rolled: Array = np.roll(picture, shift, axis=(0, 1))
    return rolled


def box(pixels: Array) -> tuple[int, int, int, int]:
    """First and last row, first and last column of a place."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def place_name(pixels: Array) -> str:
    """Where a place is, in words and in pixels.

    Examples
    --------
    >>> pixels = np.zeros((28, 28), dtype=bool)
    >>> pixels[23:27, 23:27] = True
    >>> place_name(pixels)
    'at the bottom right (rows 23 to 26, columns 23 to 26 of 28 x 28)'
    """
    top, bottom, left, right = box(pixels)
    h, w = pixels.shape
    vertical = _third((top + bottom) / 2, h, ("top", "", "bottom"))
    horizontal = _third((left + right) / 2, w, ("left", "", "right"))
    name = " ".join(filter(None, (vertical, horizontal)))
    where = f"at the {name}" if name else "in the middle"
    return f"{where} (rows {top} to {bottom}, columns {left} to {right} of {h} x {w})"


def _third(centre: float, size: int, names: tuple[str, str, str]) -> str:
    return names[min(2, int(3 * (centre + 0.5) / size))]


def replacements(
    audit: AuditContext, pixels: Array, content: Array, shifts: Sequence[tuple[int, int]]
) -> tuple[Replacement, list[Replacement]]:
    """The usual ``content`` ``(d,)`` at a place, and at the shifted places theirs."""
    others = [Replacement(audit.features_of(moved(pixels, shift)), content) for shift in shifts]
    return Replacement(audit.features_of(pixels), content), others


def transplants(
    audit: AuditContext, pixels: Array, content: Array, shifts: Sequence[tuple[int, int]]
) -> tuple[Replacement, list[Replacement]]:
    """``content`` ``(d,)`` of the place put there, and the same content at the shifted places."""
    own = Replacement(audit.features_of(pixels), content)
    picture = audit.as_planes(content)
    others = [
        Replacement(
            audit.features_of(moved(pixels, shift)), audit.from_planes(moved(picture, shift))
        )
        for shift in shifts
    ]
    return own, others
