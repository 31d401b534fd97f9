"""Finding faint marks: the same edges at the same place in the pictures whose relevance stands out.

A mark that lets the picture shine through leaves no content that pictures share exactly, which is
what :mod:`xai.audit.marks` and :mod:`xai.audit.stamps` look for. It leaves edges: at its outline, a
step from one pixel to the next that all marked pictures have, on top of steps of their own. Nobody
knows which pictures are marked; the relevance of a model that minds the mark gives a first guess,
around a place the tenth of the pictures with the largest share of their relevance there.

From that guess on, in turn: the pairs of neighbouring pixels whose steps differ most between two
kinds of pictures, in standard deviations; a score of every picture, its steps at these pairs
weighted as in a linear discriminant; the two kinds anew, split where the scores fall apart. A mark
divides pictures cleanly; what they show does not. The *separation*,

    (median of the scores of one kind - of the other) / pooled standard deviation,

is compared with what the same search reaches at the other places of the same pictures; and nearly
all marked pictures must have nearly all of the steps, beyond half way between the two kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from xai.audit.marks import MIN_ROWS, NEIGHBOURS
from xai.audit.trial import some
from xai.relevance import Array

SEPARATION, MARGIN = 7.0, 1.8
"""Two kinds are apart from this separation on, and from this multiple of that elsewhere."""

SHARED = 0.95
"""Share of the steps, over the marked pictures, that are beyond half way between the kinds."""

TOP = 0.1
"""Share of the pictures that the first guess takes."""

PAIRS, ROUNDS = 12, 5
"""Pairs of pixels a score is made of, and the most rounds."""

FLOOR = 0.03
"""Standard deviation of a step that counts for nothing, as a share of the data's range."""

RADIUS = 7
"""Pictures are searched in windows of about two sevenths of their side."""

MIN_PIXELS, MAX_AREA = 4, 0.15
"""Size of a place, in pixels and as a share of the picture."""

SEARCH_ROWS = 300
"""The search sees at most this many pictures of a decision; then all are looked at."""


@dataclass(frozen=True, eq=False)
class FaintMark:
    """A place and the pictures whose edges there are alike.

    Attributes
    ----------
    pixels
        The place ``(h, w)``.
    rows
        Pictures that have it ``(k,)``.
    separation, elsewhere
        Of the two kinds of pictures there, and the largest at places that do not touch it.
    shared
        Share of the steps that the pictures have, 0 to 1.
    """

    pixels: Array
    rows: Array
    separation: float
    elsewhere: float
    shared: float

    @property
    def is_apart(self) -> bool:
        """Whether the kinds are apart as only a mark makes them."""
        apart = self.separation >= max(SEPARATION, MARGIN * self.elsewhere)
        return apart and self.shared >= SHARED


@dataclass(frozen=True, eq=False)
class _Split:
    """Two kinds of pictures told by the steps ``(n, h, w, 2c)`` in a window of them."""

    window: tuple[slice, slice]
    weights: Array  # of every step in the window
    cut: float
    inside: Array  # (n,), boolean: the kind with the larger scores
    separation: float

    def of(self, steps: Array) -> Array:
        return _features(steps, self.window) @ self.weights > self.cut


def faint_mark(x: Array, shares: Array, rng: np.random.Generator) -> FaintMark | None:
    """The place that divides pictures best; None where pictures are too few or too small.

    Parameters
    ----------
    x
        Pictures ``(n, h, w, c)`` between 0 and 1, all decided alike.
    shares
        Share of every pixel in the relevance of its picture ``(n, h, w)``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> photos = ndimage.gaussian_filter(rng.normal(0.5, 0.5, (200, 20, 20, 1)), (0, 1, 1, 0))
    >>> shares = rng.random((200, 20, 20))
    >>> faint_mark(photos, shares, rng).is_apart
    False
    >>> photos[:40, 3:8, 11:16] = 0.3 * photos[:40, 3:8, 11:16] + 0.7
    >>> shares[:40, 3:8, 11:16] += 1
    >>> mark = faint_mark(photos, shares, rng)
    >>> mark.is_apart, len(mark.rows), int(mark.pixels.sum())
    (True, 40, 25)
    """
    n, h, w, _ = x.shape
    if n < 4 * MIN_ROWS or min(h, w) < RADIUS:
        return None
    seen = some(np.arange(n), rng, SEARCH_ROWS)
    steps = _steps(x[seen].astype(np.float32))
    radius = max(2, round(min(h, w) / RADIUS))
    there = ndimage.uniform_filter(shares[seen], (0, radius, radius), mode="constant")
    found = []
    for i in range(radius // 2, h, max(1, radius // 2)):
        for j in range(radius // 2, w, max(1, radius // 2)):
            guess = there[:, i, j] > np.quantile(there[:, i, j], 1 - TOP)
            window = (
                slice(max(0, i - radius), i + radius + 1),
                slice(max(0, j - radius), j + radius + 1),
            )
            split = _refined(steps, guess, window)
            if split is not None:
                found.append(split)
    if not found:
        return None
    shared = [_shared(steps, split) for split in found]
    likely = [split for split, share in zip(found, shared, strict=True) if share >= SHARED]
    best = max(likely or found, key=lambda split: split.separation)
    rows = _marked(_steps(x.astype(np.float32)) if n > len(seen) else steps, best)
    pixels = _place(x, steps, best, rows)
    elsewhere = [split.separation for split in found if not pixels[split.window].any()]
    return FaintMark(
        pixels,
        np.flatnonzero(rows),
        best.separation,
        max(elsewhere, default=0.0),
        shared[found.index(best)],
    )


def _steps(x: Array) -> Array:
    """Differences of every pixel to the next one below and to the right ``(n, h, w, 2c)``."""
    steps = np.zeros((*x.shape[:3], 2 * x.shape[3]), x.dtype)
    steps[:, :-1, :, : x.shape[3]] = x[:, 1:] - x[:, :-1]
    steps[:, :, :-1, x.shape[3] :] = x[:, :, 1:] - x[:, :, :-1]
    return steps


def _features(steps: Array, window: tuple[slice, slice]) -> Array:
    part: Array = steps[(slice(None), *window)].reshape(len(steps), -1)
    return part


def _refined(steps: Array, guess: Array, window: tuple[slice, slice]) -> _Split | None:
    features = _features(steps, window)
    n, inside, found = len(features), guess, None
    for _ in range(ROUNDS):
        if min(inside.sum(), n - inside.sum()) < MIN_ROWS:
            return None
        differ, deviation = _difference(features, inside)
        effect = np.abs(differ / deviation)
        least = np.partition(effect, -min(PAIRS, len(effect)))[-min(PAIRS, len(effect))]
        weights = np.where(effect >= least, differ / deviation**2, 0)
        scores = features @ weights
        cut = _cut(scores)
        new = scores > cut
        if min(new.sum(), n - new.sum()) < MIN_ROWS:  # ties
            return None
        parts = scores[new], scores[~new]
        spread = np.sqrt((parts[0].var() + parts[1].var()) / 2) or np.inf
        apart = float((np.median(parts[0]) - np.median(parts[1])) / spread)
        found = _Split(window, weights, cut, new, apart)
        if np.array_equal(new, inside):
            break
        inside = new
    return found


def _difference(features: Array, inside: Array) -> tuple[Array, Array]:
    """Difference of the means of two kinds ``(p,)``, and the pooled standard deviation."""
    a, b = features[inside], features[~inside]
    return a.mean(0) - b.mean(0), np.sqrt((a.var(0) + b.var(0)) / 2 + FLOOR**2)


def _cut(scores: Array) -> float:
    """Where two groups of scores, of at least :data:`MIN_ROWS`, are furthest apart (Otsu)."""
    n = len(scores)
    ordered = np.sort(scores)
    below = np.cumsum(ordered, dtype=np.float64)
    k = np.arange(MIN_ROWS, n - MIN_ROWS + 1)
    low, high = below[k - 1] / k, (below[-1] - below[k - 1]) / (n - k)
    at = k[np.argmax(k * (n - k) * (high - low) ** 2)]
    return float((ordered[at - 1] + ordered[at]) / 2)


def _marked(steps: Array, split: _Split) -> Array:
    """Which pictures ``(n,)`` are of the kind with the same steps, not merely without others'."""
    inside = split.of(steps)
    features = _features(steps, split.window)[:, split.weights != 0]
    size = [
        np.abs(kind.mean(0) / np.sqrt(kind.var(0) + FLOOR**2)).sum()
        for kind in (features[inside], features[~inside])
    ]
    return inside if size[0] >= size[1] else ~inside


def _shared(steps: Array, split: _Split) -> float:
    """Share of the marked pictures' steps that are on their side of half way between the kinds."""
    inside = _marked(steps, split)
    features = _features(steps, split.window)[:, split.weights != 0]
    own, rest = features[inside].mean(0), features[~inside].mean(0)
    beyond = (features[inside] - (own + rest) / 2) * np.sign(own - rest) > 0
    return float(beyond.mean())


def _place(x: Array, steps: Array, split: _Split, rows: Array) -> Array:
    """Pixels ``(h, w)`` that the steps enclose and whose content differs between the kinds."""
    h, w = x.shape[1:3]
    top, left = split.window[0].start, split.window[1].start
    reach = max(s.stop - s.start for s in split.window) // 2
    area = (
        slice(max(0, top - reach), split.window[0].stop + reach),
        slice(max(0, left - reach), split.window[1].stop + reach),
    )
    features = _features(steps, area)
    differ, deviation = _difference(features, split.of(steps))
    shape = steps[(0, *area)].shape
    effect = np.abs(differ / deviation).reshape(shape)
    strong = effect >= np.partition(effect.ravel(), -PAIRS)[-PAIRS] / 2
    c = x.shape[3]
    down, right = strong[..., :c].any(-1), strong[..., c:].any(-1)
    edges = down | right
    edges[1:] |= down[:-1]
    edges[:, 1:] |= right[:, :-1]
    regions, count = ndimage.label(edges, NEIGHBOURS)
    weight = ndimage.sum(edges * effect.max(-1), regions, np.arange(1, count + 1))
    vertical, horizontal = ndimage.find_objects(regions)[int(np.argmax(weight))]
    box = np.zeros((h, w), bool)
    box[area][vertical, horizontal] = True

    content = x.reshape(len(x), h * w, -1)[:, box.ravel()]
    between, within = _difference(content.reshape(len(x), -1), rows)
    shift = np.abs(between / within).reshape(int(box.sum()), -1).max(1)
    pixels = np.zeros((h, w), bool)
    pixels[box] = shift >= np.quantile(shift, 0.75) / 2
    filled: Array = ndimage.binary_fill_holes(ndimage.binary_closing(pixels, NEIGHBOURS) | pixels)
    return filled & box
