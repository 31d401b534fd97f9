"""Does relevance lie where the anomaly is: agreement of relevance with masks of the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xai.errors import InputError
from xai.relevance import Relevance

Array = NDArray[Any]


def localisation(
    relevance: Relevance | ArrayLike, masks: ArrayLike, *, magnitude: bool = False
) -> pd.DataFrame:
    r"""Compare every row's relevance with its mask.

    ``average_precision``
        :math:`\sum_n (r_n - r_{n-1}) p_n` over the thresholds of relevance, ``r`` recall and ``p``
        precision: 1 if everything inside is more relevant than everything outside; the mask's share
        of the features for relevance without information.
    ``pointing_game``
        Whether the most relevant feature lies inside; among equals, the share of them that does.
    ``cosine``
        Of the angle between relevance and mask; 0 for relevance that is zero throughout.
    ``mass_inside``
        Share of the positive relevance that lies inside; 0 where none is positive.

    ``.agg(["mean", "sem"])`` of the result gives means and standard errors.

    Parameters
    ----------
    relevance
        ``(n, ...)``.
    masks
        The truth, boolean or 0 and 1: of the same shape, or ``(n, h, w)`` for pictures with
        channels, whose relevance is then added up over them.
    magnitude
        Whether to judge ``|relevance|``, so that strong evidence against counts as a find as well.

    Raises
    ------
    InputError
        Shapes that do not fit, relevance or masks with other values, a mask that is empty or full:
        with nothing to find, or nothing to miss, none of these numbers means anything.

    Examples
    --------
    >>> relevance = np.array([[3.0, 1.0, 0.0, -1.0]])
    >>> frame = localisation(relevance, [[True, False, True, False]])
    >>> frame.round(3).iloc[0].to_dict()
    {'average_precision': 0.833, 'pointing_game': 1.0, 'cosine': 0.64, 'mass_inside': 0.75}
    """
    values = relevance.values if isinstance(relevance, Relevance) else np.asarray(relevance)
    inside = np.asarray(masks)
    if inside.dtype != bool and not np.isin(inside, (0, 1)).all():
        raise InputError("Expected masks of True and False, or 1 and 0, got other values.")
    if values.ndim == 4 and inside.ndim == 3:
        values = values.sum(3 if values.shape[3] == 3 else 1)
    if values.shape != inside.shape or values.ndim < 2:
        raise InputError(
            f"Expected one mask per row in the shape of the relevance {values.shape}, got "
            f"{inside.shape}."
        )
    r = values.reshape(len(values), -1).astype(np.float64)
    m = inside.reshape(len(values), -1).astype(bool)
    if not np.isfinite(r).all():
        raise InputError("Expected finite relevance, got NaN or infinity.")
    share = m.mean(1)
    if ((share == 0) | (share == 1)).any():
        row = int(np.flatnonzero((share == 0) | (share == 1))[0])
        raise InputError(
            f"Expected masks with something inside and something outside, got "
            f"{'an empty' if share[row] == 0 else 'a full'} mask in row {row}. Leave such rows out."
        )
    if magnitude:
        r = np.abs(r)
    rows = relevance.row_names if isinstance(relevance, Relevance) else None
    return pd.DataFrame(
        {
            "average_precision": _average_precision(r, m),
            "pointing_game": _pointing_game(r, m),
            "cosine": cosines(r, m.astype(np.float64)),
            "mass_inside": _mass_inside(r, m),
        },
        index=rows,
    )


def _average_precision(r: Array, m: Array) -> Array:
    order = np.argsort(-r, axis=1, kind="stable")
    ranked, hits = np.take_along_axis(r, order, 1), np.take_along_axis(m, order, 1)
    n = r.shape[1]
    precision = hits.cumsum(1) / np.arange(1, n + 1)
    # Ties share one threshold: every position takes the precision at the end of its group.
    last = np.ones_like(hits)
    last[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    ends = np.where(last, np.arange(n), n)
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    at_end = np.take_along_axis(precision, ends, 1)
    area: Array = (at_end * hits).sum(1) / hits.sum(1)
    return area


def _pointing_game(r: Array, m: Array) -> Array:
    top = r == r.max(1, keepdims=True)
    hit: Array = (top & m).sum(1) / top.sum(1)
    return hit


def cosines(r: Array, m: Array) -> Array:
    """Cosine of the angle between every row of ``r`` and of ``m`` ``(n, d)``; 0 next to zero.

    Examples
    --------
    >>> cosines(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[2.0, 0.0], [1.0, 1.0]])).tolist()
    [0.6, 0.0]
    """
    r, m = _unit(r), _unit(m)
    cosine: Array = (r * m).sum(1)
    return cosine


def _unit(r: Array) -> Array:
    # Scaled to a largest entry of 1 first, so that squares neither overflow nor vanish.
    peak = np.abs(r).max(1, keepdims=True)
    r = np.divide(r, peak, out=np.zeros(r.shape), where=peak > 0)
    norm = np.linalg.norm(r, axis=1, keepdims=True)
    unit: Array = np.divide(r, norm, out=np.zeros(r.shape), where=norm > 0)
    return unit


def _mass_inside(r: Array, m: Array) -> Array:
    positive = np.maximum(r, 0.0)
    total, inside = positive.sum(1), (positive * m).sum(1)
    share: Array = np.divide(inside, total, out=np.zeros_like(total), where=total > 0)
    return share
