"""Changes that nobody would notice: a shift by a pixel, a little light, a little noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xai.audit.context import AuditContext
from xai.plot.images import relevance_map
from xai.relevance import Array

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Directions (down, right) of a shift by one pixel; rows take turns."""

SMALL_SHIFT = 0.01
"""A shift by at most this share of the side is invisible."""

LIGHT = 0.02
"""Brighter or darker by this share."""

LEVELS = 255
"""Pictures are kept in so many steps; noise stays within half of one."""

JITTER = 0.01
"""Of a column's standard deviation: below what measurements repeat to."""


@dataclass(frozen=True)
class Change:
    """One way to alter rows.

    Attributes
    ----------
    name
        What was done to them, as a participle.
    harmless
        Whether no one would notice; a pixel is much of a small picture.
    below_noise
        Whether it is less than rows repeat to or are kept in.
    altered
        ``(rows, rng) -> (k, *shape)``.
    aligned
        ``(before, after, rows) -> (before, after)``: maps moved back, so that they may be compared.
    """

    name: str
    harmless: bool
    below_noise: bool
    altered: Callable[[Array, np.random.Generator], Array]
    aligned: Callable[[Array, Array, Array], tuple[Array, Array]]


def changes(audit: AuditContext) -> list[Change]:
    """What is asked of these data: three changes of pictures, one of tables."""
    if not audit.is_image:
        return [
            Change("jittered by 1% of a standard deviation", True, True, _jittered(audit), _same)
        ]
    small = SMALL_SHIFT * min(audit.planes.shape[1:3]) >= 1
    return [
        Change("shifted by one pixel", small, False, _shifted(audit), _shifted_back),
        Change("made 2% brighter or darker", True, False, _lit(audit), _same),
        Change("given noise below 8 bits", True, True, _noisy(audit), _same),
    ]


def _same(before: Array, after: Array, rows: Array) -> tuple[Array, Array]:
    if before.ndim > 2:
        return relevance_map(before), relevance_map(after)
    return before, after


def shift(planes: Array, step: tuple[int, int]) -> Array:
    """Pictures ``(n, h, w, ...)`` moved by ``step``, their edges repeated.

    Examples
    --------
    >>> shift(np.array([[[1, 2], [3, 4]]]), (0, 1)).tolist()
    [[[1, 1], [3, 3]]]
    """
    down, right = step
    h, w = planes.shape[1:3]
    rows = np.clip(np.arange(h) - down, 0, h - 1)
    columns = np.clip(np.arange(w) - right, 0, w - 1)
    moved: Array = planes[:, rows][:, :, columns]
    return moved


def _shifted(audit: AuditContext) -> Callable[[Array, np.random.Generator], Array]:
    def altered(rows: Array, rng: np.random.Generator) -> Array:
        planes = audit.planes[rows].copy()
        for k, step in enumerate(STEPS):
            turn = rows % len(STEPS) == k
            planes[turn] = shift(planes[turn], step)
        return np.stack([audit.from_planes(p).reshape(audit.data.shape[1:]) for p in planes])

    return altered


def _shifted_back(before: Array, after: Array, rows: Array) -> tuple[Array, Array]:
    before, after = relevance_map(before), relevance_map(after)
    for k, (down, right) in enumerate(STEPS):
        turn = rows % len(STEPS) == k
        after[turn] = np.roll(after[turn], (-down, -right), axis=(1, 2))
    # what came in at the edges has no counterpart
    return before[:, 1:-1, 1:-1], after[:, 1:-1, 1:-1]


def _lit(audit: AuditContext) -> Callable[[Array, np.random.Generator], Array]:
    """Contrast to the darkest value of the data, so that black stays black."""
    low = float(audit.data.min())

    def altered(rows: Array, rng: np.random.Generator) -> Array:
        sign = np.where(rng.random(len(rows)) < 0.5, -1.0, 1.0)
        factor = (1 + LIGHT * sign).reshape(-1, *[1] * (audit.data.ndim - 1))
        lit: Array = low + factor * (audit.data[rows] - low)
        return lit

    return altered


def _noisy(audit: AuditContext) -> Callable[[Array, np.random.Generator], Array]:
    half = (float(audit.data.max()) - float(audit.data.min())) / LEVELS / 2

    def altered(rows: Array, rng: np.random.Generator) -> Array:
        chosen = audit.data[rows]
        noisy: Array = chosen + rng.uniform(-half, half, chosen.shape)
        return noisy

    return altered


def _jittered(audit: AuditContext) -> Callable[[Array, np.random.Generator], Array]:
    spread = np.sqrt(audit.variance)

    def altered(rows: Array, rng: np.random.Generator) -> Array:
        chosen = audit.flat[rows]
        jittered: Array = chosen + JITTER * spread * rng.standard_normal(chosen.shape)
        return jittered

    return altered
