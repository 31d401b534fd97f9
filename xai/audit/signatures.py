"""Traces that a device, a codec or a resampler leaves in a picture, whatever the picture shows.

Each signature is one number per picture. Where the pictures of an audit are of two kinds by one of
them, they come from two sources; that alone is no fault of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.fft import dctn

from xai.relevance import Array

MIN_SIDE = 16
"""Smaller pictures hold too little to tell traces from content."""

BLOCK = 8
"""Codecs of the JPEG family work on blocks of 8 x 8 pixels."""

FINE, MIDDLE = 0.35, 0.15
"""Bands in cycles per pixel along an axis: fine from .35 on, the middle from .15 on."""

QUIET, QUIETEST = 4, 0.1
"""Noise is looked for in the quietest tenth of all blocks of 4 x 4 pixels."""

STEP = 1 / 255
"""One level of eight bits: saturated and plain pictures are not quieter than that."""

FLOOR = 1e-4
"""What is added before a logarithm, as a share of the data's range."""

NUMBERS_AT_ONCE = 2**22
"""Numbers that are brought into float64 at a time; traces make several copies of them."""

# What is left of a plane or an edge is nothing (Immerkaer, Computer Vision and Image Understanding
# 64, 1996).
_NOISE = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6


def fineness(pictures: Array) -> Array:
    """Log energy of the finest structures over that of middling ones ``(n,)``: low after a blur."""
    grey = pictures.mean(-1)
    h, w = grey.shape[1:]
    energy = dctn(grey, axes=(1, 2), norm="ortho") ** 2
    frequency = np.hypot(np.arange(h)[:, None] / h, np.arange(w) / w) / 2
    fine, middle = frequency >= FINE, (frequency >= MIDDLE) & (frequency < FINE)
    ratio: Array = np.log(energy[:, fine].mean(1) + FLOOR**2) - np.log(
        energy[:, middle].mean(1) + FLOOR**2
    )
    return ratio


def noise(pictures: Array) -> Array:
    """Log noise in the quietest block ``(n,)``."""
    grey = pictures.mean(-1)
    left = np.abs(ndimage.convolve(grey, _NOISE[None], mode="nearest"))[:, 1:-1, 1:-1]
    level = ndimage.uniform_filter(left, (0, QUIET, QUIET))[:, 1:-1, 1:-1]
    quiet: Array = np.log(np.quantile(level.reshape(len(level), -1), QUIETEST, axis=1) + STEP)
    return quiet


def compression(pictures: Array) -> Array:
    """How many more fine coefficients are zero on the grid of a codec than off it ``(n,)``."""
    on, off = (_zeros(pictures[:, shift:, shift:].mean(-1)) for shift in (0, BLOCK // 2))
    difference: Array = on - off
    return difference


def _zeros(grey: Array) -> Array:
    n, h, w = grey.shape
    h, w = h - h % BLOCK, w - w % BLOCK
    blocks = grey[:, :h, :w].reshape(n, h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    coefficients = dctn(blocks, axes=(2, 4), norm="ortho")
    fine = np.add.outer(np.arange(BLOCK), np.arange(BLOCK)) >= BLOCK
    fine_ones = np.moveaxis(coefficients, 3, 2)[..., fine]
    busy = np.abs(fine_ones).max(-1) > FLOOR  # a flat block says nothing
    empty = (np.abs(fine_ones) < 1.5 * STEP).mean(-1)
    share: Array = np.where(busy, empty, 0).sum((1, 2)) / np.maximum(busy.sum((1, 2)), 1)
    return share


def redness(pictures: Array) -> Array:
    """Log of red over green, on average ``(n,)``."""
    return _ratio(pictures, 0)


def blueness(pictures: Array) -> Array:
    """Log of blue over green, on average ``(n,)``."""
    return _ratio(pictures, 2)


def _ratio(pictures: Array, channel: int) -> Array:
    mean = pictures.mean((1, 2)) + 0.01
    ratio: Array = np.log(mean[:, channel]) - np.log(mean[:, 1])
    return ratio


@dataclass(frozen=True)
class Signature:
    """One trace.

    Attributes
    ----------
    name
        What it is called in a report.
    less, more
        What pictures with less and with more of it are called.
    of
        From pictures ``(n, h, w, c)`` between 0 and 1 to ``(n,)``.
    coloured
        Whether it needs three channels.
    """

    name: str
    less: str
    more: str
    of: Callable[[Array], Array]
    coloured: bool = False


SIGNATURES = (
    Signature("fineness", "blurred or resampled", "sharper", fineness),
    Signature("noise", "quieter", "noisier", noise),
    Signature("compression", "less compressed", "more compressed in blocks", compression),
    Signature("redness", "less red", "redder", redness, True),
    Signature("blueness", "less blue", "bluer", blueness, True),
)


def signatures(
    pictures: Array, low: float = 0.0, scale: float = 1.0
) -> Iterator[tuple[Signature, Array]]:
    """Every signature of pictures ``(n, h, w, c)``, and its values ``(n,)``.

    Pictures hold ``low`` to ``low + scale``, and are brought to 0 to 1 some at a time.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> pictures = rng.random((4, 16, 16, 1))
    >>> pictures[2:] = ndimage.gaussian_filter(pictures[2:], (0, 1, 1, 0))
    >>> found = {signature.name: values for signature, values in signatures(pictures)}
    >>> found["fineness"].round().tolist()
    [-0.0, -0.0, -5.0, -4.0]
    """
    if min(pictures.shape[1:3]) < MIN_SIDE:
        return
    rows = max(1, NUMBERS_AT_ONCE // pictures[0].size)
    for signature in SIGNATURES:
        if signature.coloured and pictures.shape[3] != 3:
            continue
        parts = [
            signature.of(((pictures[i : i + rows] - low) / scale).astype(np.float64))
            for i in range(0, len(pictures), rows)
        ]
        yield signature, np.concatenate(parts)


# -- two kinds ------------------------------------------------------------------------------------

VALLEY = 0.15
"""Between two kinds, at most this share of the lower of the two peaks is left."""

APART = 3.0
"""They lie at least so many of their typical spreads apart."""

LEAST_ROWS, LEAST_SHARE = 20, 0.03
"""The smaller kind has at least so many rows, and at least this share."""

GRID = 512


def two_kinds(values: Array) -> Array | None:
    """Which values ``(n,)`` are of the upper of two kinds; None where they are of one.

    Two kinds leave a deep valley in the density of the values. One kind, however skew, leaves none.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> two_kinds(rng.gamma(2.0, size=500)) is None
    True
    >>> upper = two_kinds(np.concatenate([rng.normal(size=400), 8 + rng.normal(size=100)]))
    >>> int(upper.sum())
    100
    """
    n = len(values)
    least = max(LEAST_ROWS, int(np.ceil(LEAST_SHARE * n)))
    if n < 2 * least or not np.ptp(values) > 0:
        return None
    low, high = np.quantile(values, [0.005, 0.995])
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        return None
    inside = np.clip(values, low, high)
    counts, edges = np.histogram(inside, GRID, (low, high))
    # Half of Silverman's width for one kind, at least two cells: narrow enough to show a valley.
    spread = min(inside.std(), np.subtract(*np.quantile(inside, [0.75, 0.25])) / 1.34 or np.inf)
    width = max(2.0, 0.45 * spread * n**-0.2 / (edges[1] - edges[0]))
    density = ndimage.gaussian_filter1d(counts.astype(float), width, mode="constant")
    below = np.cumsum(counts)
    peaks = np.minimum(np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1])
    valley = (below >= least) & (n - below >= least) & (density <= VALLEY * peaks)
    best, found = APART, None
    for first, last in _runs(valley):
        upper: Array = values > (edges[first + 1] + edges[last + 1]) / 2
        parts = [values[upper], values[~upper]]
        if min(map(len, parts)) < least:
            continue
        spreads = [1.4826 * np.median(np.abs(p - np.median(p))) for p in parts]
        typical = max(float(np.hypot(*spreads)) / 2**0.5, edges[1] - edges[0])
        apart = (np.median(parts[0]) - np.median(parts[1])) / typical
        if apart >= best:
            best, found = apart, upper
    return found


def _runs(where: Array) -> Iterator[tuple[int, int]]:
    """First and last position of every run of True."""
    change = np.diff(np.concatenate([[0], where.astype(int), [0]]))
    yield from zip(np.flatnonzero(change == 1), np.flatnonzero(change == -1) - 1, strict=True)
