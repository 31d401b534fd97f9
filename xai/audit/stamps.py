"""Finding stamps: the same content at the same place on top of content that varies, as in photos.

:mod:`xai.audit.marks` tells a mark from content by the plain ground around it. Photographs have no
such ground. What they have instead: content fades. Where many of them agree on a pixel they mostly
agree on its neighbours, and nearly as many agree one step to the side. A *stamp* is a connected
place with

* a *sharp end*: among the rows that agree on its content, the share that still holds it falls by
  at least :data:`DROP` from the inside to the outside of its edge, and by :data:`MARGIN` more than
  for the same content at any other place;
* *more rows* than hold the same content at any other place, by :data:`EXCESS` standard errors.

Both comparisons are made in the same pictures, so that no model of natural images is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from xai.audit.marks import (
    BINS,
    LEVEL,
    MIN_ROWS,
    MIN_SHARE,
    NEARLY,
    NEIGHBOURS,
    TOLERANCE,
    Mark,
)
from xai.audit.pooling import averaged, enlarged, working_factor
from xai.relevance import Array

DROP, MARGIN = 0.25, 0.15
"""Fall of the agreement at the edge of a stamp, and by how much it exceeds that elsewhere."""

EXCESS = 4.0
"""Rows with the content beyond the most at any other place, in standard errors (Poisson)."""

TOLERANCES = (0.02, 0.1)
"""Content is the same up to this share of the data's range: of exact copies, and of inexact."""

MATCHING = 0.9
"""A row holds the content where it agrees on this share of the place's pixels."""

MIN_PIXELS, MAX_AREA = 4, 0.25
"""Size of a stamp, in pixels and as a share of the picture; a frame is large."""

SEARCH_ROWS = 2000
"""The search sees at most this many rows; who carries a stamp is then looked up among all."""

LEVELS = (10, 40)
"""Grids of grey levels that pairs of pixels are counted on."""

RADII = (4, 8, 14)
"""Distances at which a pair's count is compared with the same pair's elsewhere."""

SEEDS, LEAST = 8, 5.0
"""Starting points per channel, grid and direction, and the excess from which on one is tried."""

STEP = 2
"""Distance of the two pixels of a pair."""

PLACES = 24
"""Other places at which the content is looked for."""

CONTOURS = np.arange(0.95, 0.45, -0.05)
"""Shares of agreement at which the edge of a place is looked for."""


@dataclass(frozen=True, eq=False)
class _Place:
    pixels: Array  # (h, w)
    content: Array  # (h, w, c)
    rows: Array  # (k,)


def find_stamps(
    planes: Array, rng: np.random.Generator, *, on_ground: bool = False
) -> tuple[Mark, ...]:
    """Search pictures ``(n, h, w, c)`` for stamps, those in most rows first.

    Pictures of centred objects on a plain ground end sharply by themselves, at the same places.
    There (``on_ground``) a stamp is no ground, and next to no row nearly holds its content.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> photos = 8 * ndimage.gaussian_filter(rng.normal(size=(300, 24, 24, 1)), (0, 3, 3, 0))
    >>> len(find_stamps(photos, rng))
    0
    >>> photos[20:80, 1:5, 18:23] = 2.0
    >>> (stamp,) = find_stamps(photos, rng)
    >>> len(stamp.rows) >= 60, int(stamp.pixels.sum())
    (True, 20)
    """
    n, h, w, _ = planes.shape
    factor = working_factor(h, w)
    small = averaged(planes, factor)
    low, scale = float(small.min()), float(np.ptp(small)) or 1.0
    small = (small - low) / scale
    seen = small
    if n > SEARCH_ROWS:
        seen = small[np.sort(rng.choice(n, SEARCH_ROWS, replace=False))]
    need = max(MIN_ROWS, int(np.ceil(MIN_SHARE * len(seen))))
    found: list[Mark] = []
    ground = ground_content(seen) if on_ground else None
    for place, tolerance in _stamps(seen, need, rng, ground):
        agrees = agree(small[:, place.pixels], place.content[place.pixels], tolerance)
        rows = np.flatnonzero(agrees.mean(1) >= MATCHING)
        found.append(Mark(enlarged(place.pixels, factor, h, w), rows))
    return tuple(sorted(found, key=lambda mark: -len(mark.rows)))


def _stamps(
    x: Array, need: int, rng: np.random.Generator, ground: Array | None
) -> Iterator[tuple[_Place, float]]:
    taken = np.zeros(x.shape[1:3], dtype=bool)
    tried = set()
    for pixel, rows in _seeds(x, need):
        for tolerance in TOLERANCES:
            if taken[pixel]:
                break
            place = _grown(x, pixel, rows, need, tolerance, ground)
            if place is None or (taken & place.pixels).any():
                continue
            key = (place.pixels.tobytes(), len(place.rows))
            if (
                key not in tried
                and (ground is None or _all_or_nothing(x, place))
                and _is_stamp(x, place, tolerance, rng)
            ):
                taken |= ndimage.binary_dilation(place.pixels, NEIGHBOURS)
                yield place, tolerance
            tried.add(key)


# -- where to start -------------------------------------------------------------------------------


def _seeds(x: Array, need: int) -> list[tuple[tuple[int, int], Array]]:
    """Pixels and rows that hold a pair of levels more often than rows do some pixels away."""
    found = []
    for channel in range(x.shape[3]):
        for levels in LEVELS:
            for dy, dx in ((0, STEP), (STEP, 0)):
                found += _pairs(x[..., channel], levels, dy, dx, need)
    return [(pixel, rows) for _, pixel, rows in sorted(found, key=lambda seed: -seed[0])]


def _pairs(
    x: Array, levels: int, dy: int, dx: int, need: int
) -> list[tuple[float, tuple[int, int], Array]]:
    n = len(x)
    level = np.minimum((x * levels).astype(np.int32), levels - 1)
    first, second = level[:, : level.shape[1] - dy, : level.shape[2] - dx], level[:, dy:, dx:]
    h, w = first.shape[1:]
    pair = (first * levels + second).reshape(n, -1)
    kinds = levels**2
    counts = np.bincount((pair + np.arange(h * w) * kinds).ravel(), minlength=h * w * kinds)
    count = counts.reshape(h, w, kinds).astype(np.float32)
    usual = np.full_like(count, np.inf)
    for radius in RADII:
        np.minimum(usual, _most_around(count, radius), out=usual)
    excess = np.where(count >= need, (count - usual) / np.sqrt(usual + 1), 0.0)
    best = excess.argmax(2)
    height = np.take_along_axis(excess, best[..., None], 2)[..., 0]
    # One start per neighbourhood.
    peak = (height == ndimage.maximum_filter(height, 3)) & (height >= LEAST)
    order = sorted(map(tuple, np.argwhere(peak)), key=lambda at: -height[at])[:SEEDS]
    return [
        (float(height[i, j]), (int(i), int(j)), np.flatnonzero(pair[:, i * w + j] == best[i, j]))
        for i, j in order
    ]


def _most_around(count: Array, radius: int) -> Array:
    """Largest count at the eight places at this distance; infinite where there is none."""
    h, w = count.shape[:2]
    most = np.full_like(count, -1)
    for sy in (-radius, 0, radius):
        for sx in (-radius, 0, radius):
            if (sy or sx) and abs(sy) < h and abs(sx) < w:
                to = np.s_[max(0, -sy) : h - max(0, sy), max(0, -sx) : w - max(0, sx)]
                of = np.s_[max(0, sy) : h - max(0, -sy), max(0, sx) : w - max(0, -sx)]
                most[to] = np.maximum(most[to], count[of])
    return np.where(most < 0, np.inf, most)


# -- from a start to a place ----------------------------------------------------------------------


def _grown(
    x: Array,
    pixel: tuple[int, int],
    rows: Array,
    need: int,
    tolerance: float,
    ground: Array | None,
) -> _Place | None:
    """The place around the pixel with the sharpest edge, for the rows that hold its content."""
    for _ in range(3):
        content = usual_content(x[rows])
        share = agree(x[rows], content, tolerance).mean(0)
        if ground is not None:
            share[agree(content, ground, 2 * TOLERANCE)] = 0.0
        pixels = _sharpest(share, pixel)
        if pixels is None:
            return None
        holds = agree(x[:, pixels], content[pixels], tolerance).mean(1) >= MATCHING
        new = np.flatnonzero(holds)
        if len(new) < need:
            return None
        if np.array_equal(new, rows):
            break
        rows = new
    assert pixels is not None
    return _Place(pixels, content, rows)


def _sharpest(share: Array, pixel: tuple[int, int]) -> Array | None:
    """Of the regions around the pixel where most agree, the one whose edge is sharpest."""
    i, j = pixel
    best, found = 0.0, None
    for level in CONTOURS:
        regions, _ = ndimage.label(share >= level, NEIGHBOURS)
        near = regions[max(0, i - 1) : i + STEP, max(0, j - 1) : j + STEP]
        near = near[near > 0]
        if not len(near):
            continue
        pixels = regions == np.bincount(near).argmax()
        if pixels.sum() < MIN_PIXELS or pixels.mean() > MAX_AREA:
            continue
        fall = _fall(share, pixels)
        if fall > best:
            best, found = fall, pixels
    return found


def _fall(share: Array, pixels: Array) -> float:
    """Mean fall of the share over the edge of the region, from inside to outside."""
    falls = []
    for axis in (0, 1):
        a, inside = np.moveaxis(share, axis, 0), np.moveaxis(pixels, axis, 0)
        down, up = inside[:-1] & ~inside[1:], ~inside[:-1] & inside[1:]
        falls += [(a[:-1] - a[1:])[down], (a[1:] - a[:-1])[up]]
    every = np.concatenate(falls)
    return float(every.mean()) if len(every) else 0.0


# -- is it a stamp --------------------------------------------------------------------------------


def _all_or_nothing(x: Array, place: _Place) -> bool:
    """Whether few rows nearly hold the content: what pictures show comes in all degrees."""
    far = np.sqrt(((x[:, place.pixels] - place.content[place.pixels]) ** 2).mean((1, 2)))
    holds = (far <= 2 * TOLERANCE).sum()
    return bool((far <= 4 * TOLERANCE).sum() - holds <= NEARLY * holds)


def _is_stamp(x: Array, place: _Place, tolerance: float, rng: np.random.Generator) -> bool:
    fall = _end(x, place.pixels, place.content, place.rows, tolerance)
    if fall < DROP:
        return False
    most, sharpest = 0, 0.0
    for pixels, content in _elsewhere(place, rng):
        holds = agree(x[:, pixels], content[pixels], tolerance).mean(1) >= MATCHING
        rows = np.flatnonzero(holds)
        most = max(most, len(rows))
        if len(rows) >= MIN_ROWS:
            sharpest = max(sharpest, _end(x, pixels, content, rows, tolerance))
    more = (len(place.rows) - most) / np.sqrt(most + 1)
    return bool(fall >= sharpest + MARGIN and more >= EXCESS)


def _end(x: Array, pixels: Array, content: Array, rows: Array, tolerance: float) -> float:
    """How sharply the content ends: of the rows, how many hold its edge one step outside, too."""
    around = ndimage.binary_dilation(pixels, NEIGHBOURS)
    vertical, horizontal = ndimage.find_objects(around.astype(int))[0]
    nearest = ndimage.distance_transform_edt(~pixels, return_distances=False, return_indices=True)
    extended = content[tuple(nearest)][vertical, horizontal]
    share = agree(x[rows, vertical, horizontal], extended, tolerance).mean(0)
    return _fall(share, pixels[vertical, horizontal])


def _elsewhere(place: _Place, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """The place and its content moved to random other places; none for a frame."""
    (rows, columns) = ndimage.find_objects(place.pixels.astype(int))[0]
    height, width = rows.stop - rows.start, columns.stop - columns.start
    h, w = place.pixels.shape
    shifts = [
        (y - rows.start, x - columns.start)
        for y in range(h - height + 1)
        for x in range(w - width + 1)
        if abs(y - rows.start) >= height or abs(x - columns.start) >= width
    ]
    for k in rng.permutation(len(shifts))[:PLACES]:
        yield np.roll(place.pixels, shifts[k], (0, 1)), np.roll(place.content, shifts[k], (0, 1))


def agree(x: Array, content: Array, tolerance: float) -> Array:
    """Whether all channels of a pixel hold the content."""
    same: Array = (np.abs(x - content) <= tolerance).all(-1)
    return same


def usual_content(x: Array) -> Array:
    """Every pixel's most frequent content: the mean in the fullest of overlapping intervals."""
    flat = x.reshape(len(x), -1)
    p, width = flat.shape[1], BINS + LEVEL - 1
    bins = np.minimum((flat * BINS).astype(np.int32), BINS - 1)
    counts = np.bincount((bins + np.arange(p) * width).ravel(), minlength=p * width)
    windows = np.lib.stride_tricks.sliding_window_view(counts.reshape(p, width), LEVEL, axis=1)
    start = windows.sum(-1).argmax(1)
    inside = (bins >= start) & (bins < start + LEVEL)
    usual: Array = np.where(inside, flat, 0).sum(0) / np.maximum(inside.sum(0), 1)
    return usual.reshape(x.shape[1:])


def ground_content(x: Array) -> Array:
    """The most frequent content of all pixels ``(c,)``."""
    ground: Array = usual_content(x.reshape(-1, 1, 1, x.shape[-1]))[0, 0]
    return ground
