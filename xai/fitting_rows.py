"""Which rows a repaired model is fitted on: of a detector, those that count as normal."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from neuralize import Neuralized
from xai.audit.context import STAND_IN_QUANTILE
from xai.audit.inputs import rows_of
from xai.errors import InputError
from xai.relevance import Array
from xai.rows import match_columns

MIN_NORMAL = 20
"""Normal rows below which a detector is not fitted again."""


class FittingRows(NamedTuple):
    """Rows ``(m, ...)``, and which they are, in words."""

    x: Array
    words: str


def rows_to_fit(
    old: Neuralized, x: Array, labels: Array | None = None, given: Any = None
) -> FittingRows:
    """Choose rows to fit a model like ``old`` on.

    A detector learns what is normal, so that anomalies among its rows become normal to it. Rows
    that are given for it are taken as they are; of others, those of label 0 where labels are 0 and
    1, else those that the old model calls normal by a threshold of its own.

    Parameters
    ----------
    old
        The network of the old model.
    x
        Rows to choose from ``(n, ...)``.
    labels
        Class of every row ``(n,)``.
    given
        Rows like those the old model was fitted on, to take instead.

    Raises
    ------
    InputError
        Rows of another shape, or fewer than 20 normal ones.

    Examples
    --------
    >>> from neuralize import neuralize
    >>> from sklearn.neighbors import KernelDensity
    >>> x, label = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) // 40
    >>> old = neuralize(KernelDensity().fit(x))
    >>> rows_to_fit(old, x, label).words
    'the 40 rows labelled normal (0)'
    """
    if given is not None:
        rows = rows_of(match_columns(given, old.feature_names, "the rows to fit on"))[0]
        if rows[0].size == x[0].size and 2 in (rows.ndim, x.ndim):
            rows = rows.reshape(-1, *x.shape[1:])  # pictures, one of them flat
        if rows.shape[1:] != x.shape[1:]:
            raise InputError(
                f"Expected rows to fit on of shape {x.shape[1:]}, like those of the audit, got "
                f"{rows.shape[1:]}."
            )
        return FittingRows(rows.astype(x.dtype), f"the {len(rows)} rows given for it")
    if old.kind != "outlier":
        return FittingRows(x, f"{len(x)} of the audited rows")
    if labels is not None and set(np.unique(labels)) <= {0, 1} and (labels == 0).any():
        return _normal(x, labels == 0, "labelled normal (0)")
    if old.threshold is not None:
        return _normal(x, evidence_of(old, x) <= old.threshold, "that the old model calls normal")
    return FittingRows(
        x, f"{len(x)} of the audited rows, though neither labels nor a threshold say which of them "
        "are normal",
    )  # fmt: skip


def _normal(x: Array, normal: Array, words: str) -> FittingRows:
    count = int(normal.sum())
    if count < MIN_NORMAL:
        raise InputError(
            f"Expected at least {MIN_NORMAL} rows {words} to fit the detector on again, got "
            f"{count} of {len(x)}. Give rows like those it was fitted on (fit_on=, --fit-on)."
        )
    return FittingRows(x[normal], f"the {count} rows {words}")


def evidence_of(net: Neuralized, rows: Array) -> Array:
    """Evidence of rows, in float64: ``(n,)`` of outliers, ``(n, K)`` of clusters."""
    with torch.no_grad():
        found: Array = net(torch.as_tensor(rows)).double().cpu().numpy()
    return found


def threshold_of(net: Neuralized, evidence: Array) -> float:
    """The detector's threshold, or what stands in for it where it has none."""
    if net.threshold is not None:
        return float(net.threshold)
    return float(np.quantile(evidence, STAND_IN_QUANTILE))
