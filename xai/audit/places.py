"""Places in a picture: their names, and places of the same shape elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from xai.audit.context import LARGE, AuditContext
from xai.audit.trial import FEWER_PLACES, RANDOM_PLACES, Replacement
from xai.evaluate.inpainting import harmonic_inpainting
from xai.relevance import Array


def elsewhere(pixels: Array, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Shifts (rows, columns) that move the place to random others, which it does not overlap.

    As many as :data:`~xai.audit.trial.RANDOM_PLACES`, in large pictures
    :data:`~xai.audit.trial.FEWER_PLACES`, or all there are. Where a place is so large that every
    shift overlaps it, the shifts that overlap least.

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


def other_places(pixels: Array, rng: np.random.Generator) -> list[Array]:
    """Places of the same shape elsewhere; squares of the same area where none fits, as for a frame.

    Examples
    --------
    >>> frame = np.ones((6, 6), dtype=bool)
    >>> frame[1:-1, 1:-1] = False
    >>> {int(place.sum()) for place in other_places(frame, np.random.default_rng(0))}
    {20}
    """
    shifts = elsewhere(pixels, rng)
    if shifts:
        return [moved(pixels, shift) for shift in shifts]
    h, w = pixels.shape
    area = int(pixels.sum())
    height = min(h, max(1, round(np.sqrt(area))))
    width = min(w, -(-area // height))
    places = []
    for _ in range(FEWER_PLACES):
        y, x = rng.integers(h - height + 1), rng.integers(w - width + 1)
        cells = [(y + i // width, x + i % width) for i in range(min(area, height * width))]
        place = np.zeros_like(pixels)
        place[tuple(np.transpose(cells))] = True
        places.append(place)
    return places


def replacements(
    audit: AuditContext, pixels: Array, content: Array, others: Sequence[Array]
) -> tuple[Replacement, list[Replacement]]:
    """The usual ``content`` ``(d,)`` at a place, and at other places theirs."""
    return Replacement(audit.features_of(pixels), content), [
        Replacement(audit.features_of(place), content) for place in others
    ]


def inpaintings(
    audit: AuditContext, pixels: Array, rows: Array, others: Sequence[Array]
) -> tuple[Replacement, Iterator[Replacement]]:
    """A place filled in smoothly from around it in these rows ``(k,)``, and other places alike.

    For pictures without a usual content; one place after the other, for memory.
    """

    def filled(place: Array) -> Replacement:
        return Replacement(audit.features_of(place), inpainted(audit, rows, place))

    return filled(pixels), (filled(place) for place in others)


def inpainted(audit: AuditContext, rows: Array, place: Array) -> Array:
    """These rows with a place filled in from around it ``(k, d)``."""
    top, bottom, left, right = box(place)
    near = np.s_[max(0, top - 1) : bottom + 2, max(0, left - 1) : right + 2]
    planes = audit.planes[rows].astype(np.float64)
    masks = np.broadcast_to(place[near], (len(rows), *place[near].shape))
    planes[(slice(None), *near)] = harmonic_inpainting(planes[(slice(None), *near)], masks)
    return np.stack([audit.from_planes(picture) for picture in planes])


def transplants(
    audit: AuditContext, pixels: Array, content: Array, others: Sequence[Array]
) -> tuple[Replacement, list[Replacement]]:
    """``content`` ``(d,)`` of the place put there, and the same content at the other places."""
    own = Replacement(audit.features_of(pixels), content)
    picture = audit.as_planes(content)
    return own, [
        Replacement(audit.features_of(place), audit.from_planes(_carried(picture, pixels, place)))
        for place in others
    ]


def _carried(picture: Array, pixels: Array, place: Array) -> Array:
    """The content at ``pixels`` brought to ``place``, pixel by pixel where shapes agree."""
    there = np.zeros_like(picture)
    content = picture[pixels]
    if place.sum() != len(content):
        content = content[np.arange(int(place.sum())) % len(content)]
    there[place] = content
    return there
