"""Per-region overlap: whether a map finds every defect, the small as much as the large ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from xai.errors import InputError

Array = NDArray[Any]

TOUCHING = np.ones((3, 3), dtype=int)
"""Pixels that touch at a corner belong to the same region."""


def per_region_overlap(maps: ArrayLike, masks: ArrayLike, *, limit: float = 0.3) -> float:
    r"""PRO: area under the curve of mean region overlap against false positives, up to a limit.

    At a threshold, a region's overlap is the share of its pixels at or above it; the false positive
    rate is the share of the pixels outside all masks that are. The area is divided by ``limit``, so
    1 is best and a map without information has ``limit / 2`` (Bergmann, Fauser, Sattlegger, Steger,
    CVPR 2020, section 4; IJCV 129, 2021). The curve is exact: every value of the maps is a
    threshold, and between them it is straight.

    Parameters
    ----------
    maps
        ``(n, h, w)``, higher for more abnormal, comparable from picture to picture.
    masks
        The truth ``(n, h, w)``, boolean or 0 and 1; empty for pictures without defects.
    limit
        Largest false positive rate, above 0 and at most 1.

    Raises
    ------
    InputError
        Shapes that do not fit, values that are not finite, masks with other values, nothing inside
        any mask or nothing outside, a limit that is no share.

    Examples
    --------
    >>> masks = np.array([[[1, 0, 0], [0, 0, 0], [0, 1, 1]]])
    >>> per_region_overlap(masks, masks)
    1.0
    >>> found = np.array([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    >>> round(per_region_overlap(found, masks), 3)  # one of two regions, and that at once
    0.575
    """
    values, inside = np.asarray(maps), np.asarray(masks)
    if values.ndim != 3 or values.shape != inside.shape:
        raise InputError(
            f"Expected maps and masks (n, h, w) of one shape, got {values.shape} and "
            f"{inside.shape}."
        )
    if inside.dtype != bool and not np.isin(inside, (0, 1)).all():
        raise InputError("Expected masks of True and False, or 1 and 0, got other values.")
    if not 0 < limit <= 1:
        raise InputError(f"Expected a limit above 0 and at most 1, got {limit}.")
    if not np.isfinite(values).all():
        raise InputError("Expected finite maps, got NaN or infinity.")
    inside = inside.astype(bool)
    if not inside.any() or inside.all():
        raise InputError(
            "Expected masks with something inside and something outside, got "
            f"{'nothing inside' if not inside.any() else 'nothing outside'}."
        )
    found = region_sizes(inside)
    regions = sum(len(sizes) for _, sizes in found)
    # what a pixel adds to the mean overlap, and to the false positive rate, once it is found
    overlap = np.stack([sizes[labels - 1] if len(sizes) else np.zeros(labels.shape)
                        for labels, sizes in found])  # fmt: skip
    overlap = np.divide(1.0, overlap * regions, out=np.zeros(overlap.shape), where=inside)
    order = np.argsort(values, axis=None)[::-1]
    ranked = values.ravel()[order]
    false = np.cumsum(~inside.ravel()[order]) / (~inside).sum()
    true = np.cumsum(overlap.ravel()[order])
    ends = np.append(ranked[1:] != ranked[:-1], True)  # equal values are one threshold
    false, true = np.append(0, false[ends]), np.append(0, true[ends])
    at_limit = np.interp(limit, false, true)
    below = false < limit
    x, y = np.append(false[below], limit), np.append(true[below], at_limit)
    return float(np.trapezoid(y, x) / limit)


def region_sizes(masks: Array) -> list[tuple[Array, Array]]:
    """For every mask ``(h, w)``: the number of each pixel's region, 0 outside, and their sizes."""
    found = []
    for mask in masks:
        labels, count = ndimage.label(mask, TOUCHING)
        found.append((labels, np.bincount(labels.ravel(), minlength=count + 1)[1:]))
    return found
