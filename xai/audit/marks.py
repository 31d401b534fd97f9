"""Finding marks: small places where some pictures share a content that the others do not have.

No model is asked here, and no place is given. A *mark* is a connected set of pixels such that

* *shared*: a group of rows agrees on its content, to within ``2 TOLERANCE`` (root mean square over
  the place, as a share of the data's range);
* *all or nothing*: next to no row nearly agrees;
* *out of place*: nearly all other rows hold the usual (most frequent) content there, mostly the
  plain ground;
* *apart*: the pixels around it mostly hold the usual content in the group, so that it is no part of
  what the picture shows, and none of them is shared by half the group, so that it ends sharply;
* *small*: at most a tenth of the picture, unless it is a frame along its edges;
* *repeated* in at least one row in a hundred.

Content that varies from picture to picture fails at least one of them, whatever the model does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from xai.audit.pooling import averaged, enlarged, working_factor
from xai.relevance import Array

TOLERANCE = 0.05
"""Content is the same up to this share of the data's range."""

MIN_ROWS, MIN_SHARE = 10, 0.01
"""A group has at least this many rows, and at least this share of all."""

MIN_PIXELS, MAX_AREA = 3, 0.1
"""Size of a mark, in pixels and as a share of the picture."""

FRAME, MAX_FRAME = 7, 0.45
"""A place within a seventh of the picture from its edges is a frame and may be larger."""

USUAL_ELSEWHERE = 0.8
"""Share of the other rows' pixels at the place that must hold the usual content."""

USUAL_AROUND = 0.5
"""Share of the group's pixels around the place that must hold the usual content."""

FADING = 0.5
"""A mark ends where less than this share of the group agrees; content fades from pixel to pixel."""

NEARLY = 0.2
"""At most this many rows may nearly agree, as a share of the group."""

AGREEING = 0.9
"""Share of the rows found at two pixels that must agree on a third for it to belong there."""

SAME_ROWS = 0.8
"""Places whose groups overlap this much (intersection over union) are one mark."""

SEARCH_ROWS = 4000
"""The search sees at most this many rows; the group is then looked up among all."""

BINS, LEVEL = 40, 4
"""A level is an interval of ``LEVEL`` of ``BINS`` bins of the data's range."""

NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Mark:
    """One mark.

    Attributes
    ----------
    pixels
        Where it is ``(h, w)``.
    rows
        Which rows carry it ``(k,)``, sorted.
    """

    pixels: Array
    rows: Array


@dataclass(frozen=True, eq=False)
class Scan:
    """What the search saw.

    Attributes
    ----------
    marks
        What it found, in the order of group size.
    empty
        Share of the pixels that hold their usual content in nearly all rows: where there are none,
        nothing can be out of place and the search says nothing.
    """

    marks: tuple[Mark, ...]
    empty: float


def find_marks(planes: Array, rng: np.random.Generator) -> Scan:
    """Search pictures ``(n, h, w, c)`` for marks.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> pictures = np.zeros((60, 8, 8, 1))
    >>> pictures[:, 3:6, 3:6] = rng.uniform(size=(60, 3, 3, 1))
    >>> len(find_marks(pictures, rng).marks)
    0
    >>> pictures[10:25, :2, 6:] = 1.0
    >>> (mark,) = find_marks(pictures, rng).marks
    >>> mark.rows.tolist() == list(range(10, 25)), np.argwhere(mark.pixels).tolist()
    (True, [[0, 6], [0, 7], [1, 6], [1, 7]])
    """
    n, h, w, channels = planes.shape
    factor = working_factor(h, w)
    small = averaged(planes, factor)
    seen = np.arange(n)
    if n > SEARCH_ROWS:
        seen = np.sort(rng.choice(n, SEARCH_ROWS, replace=False))
    found: list[Mark] = []
    empty = []
    for channel in range(channels):
        search = _Search(small[..., channel], seen)
        empty.append(search.empty)
        found.extend(search.marks())
    marks = [Mark(enlarged(m.pixels, factor, h, w), m.rows) for m in united(found)]
    return Scan(tuple(marks), float(np.mean(empty)))


class _Search:
    """The search in one channel ``(n, h, w)``."""

    def __init__(self, pictures: Array, seen: Array) -> None:
        self.low = float(pictures.min())
        self.range = float(np.ptp(pictures)) or 1.0
        self.all = pictures
        self.x = (pictures[seen] - self.low) / self.range
        n, self.h, self.w = self.x.shape
        self.need = max(MIN_ROWS, int(np.ceil(MIN_SHARE * n)))
        flat = self.x.reshape(n, -1)
        bins = np.minimum((flat * BINS).astype(np.int16), BINS - 1)
        usual = _fullest_level(bins, np.ones_like(flat, dtype=bool))
        self.usual = _median_where(flat, usual).reshape(self.h, self.w)
        self.at_usual = np.abs(self.x - self.usual) <= TOLERANCE
        at_usual = self.at_usual.reshape(n, -1)
        level = _fullest_level(bins, ~at_usual)
        others = np.maximum((~level).sum(0), 1)
        quiet = (at_usual & ~level).sum(0) / others >= USUAL_ELSEWHERE
        self.empty = float((at_usual.mean(0) >= USUAL_ELSEWHERE).mean())
        self.level = (level & quiet).reshape(n, self.h, self.w)

    def marks(self) -> Iterator[Mark]:
        done = np.zeros((self.h, self.w), dtype=bool)
        for seed, group in self._seeds():
            if done[seed].any():
                continue
            pixels = self._grow(seed, group)
            if pixels is None:
                continue
            rows = self._members(pixels, group)
            if rows is not None:
                done |= ndimage.binary_dilation(pixels, NEIGHBOURS)
                yield Mark(pixels, rows)

    def _seeds(self) -> Iterator[tuple[tuple[slice, slice], Array]]:
        """Pairs of neighbouring pixels at their second level in enough rows, most rows first."""
        pairs: list[tuple[int, tuple[slice, slice], Array]] = []
        for dy, dx in ((1, 0), (0, 1)):
            both = self.level[:, dy:, dx:] & self.level[:, : self.h - dy, : self.w - dx]
            count = both.sum(0)
            for i, j in np.argwhere(count >= self.need):
                where = (slice(i, i + 1 + dy), slice(j, j + 1 + dx))
                pairs.append((int(count[i, j]), where, both[:, i, j]))
        for _, where, group in sorted(pairs, key=lambda pair: -pair[0]):
            yield where, group

    def _grow(self, seed: tuple[slice, slice], group: Array) -> Array | None:
        """All pixels around the seed on whose unusual content the group agrees."""
        # Nearly all, since a row may share two pixels with the group by chance.
        regions, _ = ndimage.label(self._agreement(self.x[group]) >= AGREEING, NEIGHBOURS)
        inside = regions[seed][regions[seed] > 0]
        if not len(inside):
            return None
        pixels: Array = regions == np.bincount(inside).argmax()
        # Three pixels are a tenth of no picture worth searching, but of an eight by eight one.
        area = MAX_FRAME if _is_frame(pixels) else MAX_AREA
        largest = max(MIN_PIXELS + 1, area * pixels.size)
        return pixels if MIN_PIXELS <= pixels.sum() <= largest else None

    def _agreement(self, content: Array) -> Array:
        """Share of rows ``(k, h, w)`` that agree on a pixel; 0 where it is the usual content."""
        middle = np.median(content, axis=0)
        unusual = np.abs(middle - self.usual) > 2 * TOLERANCE
        agreeing = (np.abs(content - middle) <= 2 * TOLERANCE).mean(0)
        shared: Array = np.where(unusual, agreeing, 0.0)
        return shared

    def _members(self, pixels: Array, group: Array) -> Array | None:
        """The rows that carry the mark, among all rows; None if it is none."""
        content = np.median(self.x[group][:, pixels], axis=0)
        far = np.sqrt(((self.x[:, pixels] - content) ** 2).mean(1))
        carries = far <= 2 * TOLERANCE
        nearly = ((far > 2 * TOLERANCE) & (far <= 4 * TOLERANCE)).sum()
        if carries.sum() < self.need or nearly > NEARLY * carries.sum():
            return None
        if carries.all() or self.at_usual[~carries][:, pixels].mean() < USUAL_ELSEWHERE:
            return None
        around = ndimage.binary_dilation(pixels, NEIGHBOURS) & ~pixels
        if self.at_usual[carries][:, around].mean() < USUAL_AROUND:
            return None
        if (self._agreement(self.x[carries]) >= FADING)[around].any():
            return None
        # In more than half of the pictures, a mark is the usual content and its absence the other;
        # the ground around it tells the two apart.
        usual, ground = self.usual[pixels], np.median(self.usual[around]) if around.any() else 0.0
        if np.abs(usual - ground).mean() > np.abs(content - ground).mean():
            content = usual
        everything = (self.all[:, pixels] - self.low) / self.range
        far = np.sqrt(((everything - content) ** 2).mean(1))
        return np.flatnonzero(far <= 2 * TOLERANCE)


def _is_frame(pixels: Array) -> bool:
    h, w = pixels.shape
    y, x = max(1, h // FRAME), max(1, w // FRAME)
    return not pixels[y : h - y, x : w - x].any()


def _fullest_level(bins: Array, where: Array) -> Array:
    """For every column, the rows in the interval of ``LEVEL`` bins that holds most of them."""
    p = bins.shape[1]
    width = BINS + LEVEL - 1
    places = (bins + np.arange(p) * width)[where]
    counts = np.bincount(places, minlength=p * width).reshape(p, width)
    windows = np.lib.stride_tricks.sliding_window_view(counts, LEVEL, axis=1).sum(-1)
    # Among equally full intervals the middle one, so that values lie away from its ends.
    first = windows.argmax(1)
    last = windows.shape[1] - 1 - windows[:, ::-1].argmax(1)
    full = windows[np.arange(p), (first + last) // 2] == windows.max(1)
    start = np.where(full, (first + last) // 2, first)
    level: Array = where & (bins >= start) & (bins < start + LEVEL)
    return level


def _median_where(x: Array, where: Array) -> Array:
    """Median of every column over the rows ``where``, of which every column has some."""
    last = np.sort(np.where(where, x, np.inf), axis=0)
    middle = (where.sum(0) - 1) // 2
    median: Array = np.take_along_axis(last, middle[None], axis=0)[0]
    return median


def united(marks: list[Mark]) -> list[Mark]:
    """Pieces carried by the same rows, made one; the largest group first."""
    united: list[Mark] = []
    for mark in sorted(marks, key=lambda m: -len(m.rows)):
        for i, other in enumerate(united):
            common = len(np.intersect1d(mark.rows, other.rows))
            if common >= SAME_ROWS * len(np.union1d(mark.rows, other.rows)):
                united[i] = Mark(other.pixels | mark.pixels, other.rows)
                break
        else:
            united.append(mark)
    return united
