"""Robustness index: do neighbours in an embedding share the label or the place they came from.

Definitions as published with PathoROB (arXiv 2507.17845), here for any label and any group (centre,
scanner, batch). Every neighbour of a sample is SS, SO, OS or OO: first letter Same or Other label,
second Same or Other group. With counts over all samples and their first ``k`` neighbours,

    ``RI(k) = SO / (SO + OS)``:

of the neighbours that agree in exactly one of the two, the share that agrees in the label. 0.5 is
balance. Neighbours from the sample's own unit (slide, patient) do not count. Counts are pooled: a
sample with neither SO nor OS contributes nothing, so the *support*, the share of samples with
either, belongs beside the index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import balanced_accuracy_score

from xai.errors import InputError

KINDS = ("SS", "SO", "OS", "OO")
"""Of a neighbour: same or other label, same or other group."""

CHUNK = 2048
"""Rows whose distances to all others are held at once."""


@dataclass(frozen=True, eq=False)
class RobustnessCurve:
    """Counts of the four kinds of neighbours for every ``k``.

    Attributes
    ----------
    counts
        ``(k, 4)``: SS, SO, OS, OO among the first ``1 .. k`` neighbours, over all samples.
    supported
        ``(k,)``: samples with at least one SO or OS among them.
    accuracy
        ``(k,)``: balanced accuracy of the label by majority of the first ``k`` neighbours.
    samples
        Number of samples.
    """

    counts: NDArray[np.int64]
    supported: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    samples: int

    @property
    def index(self) -> NDArray[np.float64]:
        """``RI(k)`` ``(k,)``; NaN where no neighbour is SO or OS."""
        so, os = self.counts[:, 1].astype(float), self.counts[:, 2]
        index = np.full(len(so), np.nan)
        np.divide(so, so + os, out=index, where=so + os > 0)
        return index

    @property
    def support(self) -> NDArray[np.float64]:
        """Share of samples behind the index ``(k,)``."""
        share: NDArray[np.float64] = self.supported / self.samples
        return share

    @property
    def best_k(self) -> int:
        """``k`` of the best accuracy for the label, the smallest of equals."""
        return int(self.accuracy.argmax()) + 1

    def to_frame(self) -> pd.DataFrame:
        """One row per ``k``: counts, index, support, accuracy, and the index of de Jong et al.

        ``label_over_group`` is (SS + SO) / (SS + OS), above 1 where the label dominates.
        """
        ss, so, os, _ = self.counts.T.astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            over = (ss + so) / (ss + os)
        frame = pd.DataFrame(self.counts, columns=list(KINDS))
        frame["robustness_index"] = self.index
        frame["support"] = self.support
        frame["balanced_accuracy"] = self.accuracy
        frame["label_over_group"] = over
        return frame.set_index(pd.RangeIndex(1, len(frame) + 1, name="k"))


def robustness_index(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    units: ArrayLike | None = None,
    subsets: ArrayLike | None = None,
    max_k: int = 100,
) -> RobustnessCurve:
    """The curve of the robustness index over ``k``.

    Parameters
    ----------
    features
        ``(n, d)``; rows are scaled to length one, so neighbours are by cosine.
    labels, groups
        What should matter and what should not ``(n,)``.
    units
        What a sample must not be its own neighbour by: slide, patient ``(n,)``; every sample is its
        own when missing.
    subsets
        Samples of different subsets are no neighbours; counts are pooled over them (the paired
        design: two labels by two groups each).
    max_k
        Longest neighbourhood; less where a subset does not have as many neighbours.

    Raises
    ------
    InputError
        Lengths that differ, values that are not finite, rows of length zero, or no neighbours.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> labels, groups = np.array([0, 0, 1, 1]), np.array(["a", "b", "a", "b"])
    >>> robustness_index(x, labels, groups, max_k=2).index.round(3).tolist()
    [1.0, 0.667]
    """
    x, label, group, unit = checked(features, labels, groups, units)
    subset = np.zeros(len(x), int) if subsets is None else _codes(subsets, len(x), "subsets")
    parts = [np.flatnonzero(subset == s) for s in np.unique(subset)]
    longest = min(max_k, *(_longest(unit[part]) for part in parts))
    if longest < 1:
        raise InputError(
            "Expected neighbours outside every sample's own unit, got a unit that holds all of its "
            "subset: the index cannot be assessed."
        )
    counts = np.zeros((longest, 4), np.int64)
    supported = np.zeros(longest, np.int64)
    votes = np.empty((longest, len(x)), np.int64)
    for part in parts:
        for rows, near in _neighbours(x[part], unit[part], longest):
            me, other = part[rows], part[near]
            same = label[other] == label[me][:, None]
            here = group[other] == group[me][:, None]
            kind = 2 * (~same) + (~here)
            for number in range(4):
                counts[:, number] += np.cumsum((kind == number).sum(0))
            either = np.maximum.accumulate((kind == 1) | (kind == 2), axis=1)
            supported += either.sum(0)
            votes[:, me] = _majority(label[other]).T
    accuracy = np.array([balanced_accuracy_score(label, vote) for vote in votes])
    return RobustnessCurve(counts, supported, accuracy, len(x))


def index_of_each(
    features: ArrayLike, labels: ArrayLike, groups: ArrayLike, k: int
) -> NDArray[np.float64]:
    """``RI(k)`` ``(m,)`` for ``m`` ways to deal out groups ``(m, n)`` to the same rows.

    Neighbours are found once. For permutations: with groups of different sizes, or labels that
    features hardly tell, the index is far from 0.5 without any influence of the group.

    Raises
    ------
    InputError
        What :func:`robustness_index` refuses.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> index_of_each(x, [0, 0, 1, 1], [["a", "b", "a", "b"], ["a", "a", "b", "b"]], k=2).round(3)
    array([0.667,   nan])
    """
    dealt = np.asarray(groups)
    if dealt.ndim != 2:
        raise InputError(f"Expected several ways to deal out groups (m, n), got {dealt.shape}.")
    x, label, _, unit = checked(features, labels, dealt[0])
    so, os = np.zeros(len(dealt)), np.zeros(len(dealt))
    for rows, near in _neighbours(x, unit, min(k, len(x) - 1)):
        same = label[near] == label[rows][:, None]
        for i, group in enumerate(dealt):
            here = group[near] == group[rows][:, None]
            so[i] += (same & ~here).sum()
            os[i] += (~same & here).sum()
    index = np.full(len(dealt), np.nan)
    np.divide(so, so + os, out=index, where=so + os > 0)
    return index


def checked(
    features: ArrayLike, labels: ArrayLike, groups: ArrayLike, units: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Unit-length features, and codes of labels, groups and units.

    Raises
    ------
    InputError
        What :func:`robustness_index` refuses.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not len(x):
        raise InputError(f"Expected features (n, d), got shape {x.shape}.")
    if not np.isfinite(x).all():
        raise InputError(
            f"Expected finite features, got {(~np.isfinite(x)).any(1).sum()} rows that are not."
        )
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise InputError(
            f"Expected features with a direction, got row {int(length.argmin())} of length zero."
        )
    unit = np.arange(len(x)) if units is None else _codes(units, len(x), "units")
    return x / length, _codes(labels, len(x), "labels"), _codes(groups, len(x), "groups"), unit


def _codes(values: ArrayLike, n: int, name: str) -> NDArray[np.int64]:
    column = np.asarray(values)
    if column.shape != (n,):
        raise InputError(f"Expected {n} {name}, one per row, got shape {column.shape}.")
    return np.unique(column, return_inverse=True)[1].astype(np.int64)


def _longest(unit: NDArray[np.int64]) -> int:
    """Neighbours that every sample has outside its own unit."""
    return len(unit) - int(np.bincount(unit).max())


def _neighbours(
    x: NDArray[np.float64], unit: NDArray[np.int64], k: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows, and their ``k`` nearest of other units in order ``(r, k)``; equals by position."""
    for begin in range(0, len(x), CHUNK):
        rows = np.arange(begin, min(begin + CHUNK, len(x)))
        far = -(x[rows] @ x.T)
        far[unit[rows][:, None] == unit[None]] = np.inf
        near = np.argpartition(far, k - 1, axis=1)[:, :k] if k < len(x) else np.arange(k)[None]
        near = np.sort(np.broadcast_to(near, (len(rows), k)), 1)
        order = np.argsort(np.take_along_axis(far, near, 1), axis=1, kind="stable")
        yield rows, np.take_along_axis(near, order, 1)


def _majority(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The commonest label among the first ``1 .. k`` ``(r, k)``; of equals, the smallest."""
    best = np.zeros(labels.shape, np.int64)
    most = np.full(labels.shape, -1)
    for label in np.unique(labels):
        count = np.cumsum(labels == label, axis=1)
        best[count > most] = label
        most = np.maximum(most, count)
    return best
