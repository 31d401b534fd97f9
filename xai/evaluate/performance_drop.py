"""Average performance drop: what entangled training data cost a probe (PathoROB, arXiv 2507.17845).

``APD = mean_t mean_{s >= 1} (acc_st / acc_0t) - 1`` over splits ``s`` of growing association
between label and group, and trials ``t``; the test samples stay balanced.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from xai.errors import InputError
from xai.evaluate.robustness import checked


@dataclass(frozen=True, eq=False)
class PerformanceDrop:
    """Accuracy as labels and groups of the training samples become entangled.

    Attributes
    ----------
    accuracy
        Balanced accuracy ``(splits, trials)``, on test samples in which they are not.
    cramers_v
        Their association in each split's training samples ``(splits,)``.
    """

    accuracy: NDArray[np.float64]
    cramers_v: NDArray[np.float64]

    @property
    def per_trial(self) -> NDArray[np.float64]:
        """``mean_{s >= 1} acc_s / acc_0 - 1`` ``(trials,)``; negative is a drop."""
        drop: NDArray[np.float64] = (self.accuracy[1:] / self.accuracy[0]).mean(0) - 1
        return drop

    @property
    def average(self) -> float:
        """The mean over trials."""
        return float(self.per_trial.mean())


C_GRID = 10 ** np.linspace(-8, 4, 15)
"""Inverse regularisation, chosen on validation samples."""


def average_performance_drop(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    units: ArrayLike | None = None,
    *,
    splits: int = 5,
    trials: int = 20,
    seed: int = 1000,
    max_iter: int = 100,
) -> PerformanceDrop:
    """How much worse a probe for the label gets when training entangles label and group.

    In split ``s`` of ``S`` each label takes a share ``(1 + (G - 1) t) / G`` of its training samples
    from its own one of ``G`` groups, ``t = s / (S - 1)``, and the rest evenly from the others, at
    the same number of samples throughout. Validation and test samples are balanced over all cells
    and of other units. The probe is a logistic regression on the features as they are; its
    regularisation is the first best on the validation samples.

    Parameters
    ----------
    units
        Slide or patient: samples of one are never on both sides.
    splits, trials
        Degrees of entanglement, and random divisions of the units.
    max_iter
        Of the solver, as published; it need not have converged.

    Raises
    ------
    InputError
        What :func:`robustness_index` refuses; a label that lacks a group; too few units in one.
    """
    _, label, group, unit = checked(features, labels, groups, units)
    x = np.asarray(features, np.float64)
    if splits < 2 or trials < 1:
        raise InputError(f"Expected at least 2 splits and 1 trial, got {splits} and {trials}.")
    accuracy = np.zeros((splits, trials))
    table = np.zeros((splits, label.max() + 1, group.max() + 1), int)
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        pools = _pools(label, group, unit, rng)
        for s in range(splits):
            train = _entangled(pools[0], s / (splits - 1), rng)
            np.add.at(table[s], (label[train], group[train]), 1)
            model = _chosen_probe(x, label, train, _balanced(pools[1], rng), max_iter)
            test = _balanced(pools[2], rng)
            accuracy[s, trial] = balanced_accuracy_score(label[test], model.predict(x[test]))
    return PerformanceDrop(accuracy, np.array([cramers_v(t) for t in table]))


Pool = list[list[NDArray[np.int64]]]
"""Rows by label and group."""


def _pools(
    label: NDArray[np.int64], group: NDArray[np.int64], unit: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[Pool, Pool, Pool]:  # fmt: skip
    """Units of every cell divided into training (half), validation and test (a quarter each)."""
    pools: tuple[Pool, Pool, Pool] = ([], [], [])
    for a in range(label.max() + 1):
        for pool in pools:
            pool.append([])
        for g in range(group.max() + 1):
            rows = np.flatnonzero((label == a) & (group == g))
            units = rng.permutation(np.unique(unit[rows]))
            if len(units) < 4:
                raise InputError(
                    f"Expected at least 4 units of every label in every group, got {len(units)} of "
                    f"label {a} in group {g}: the drop cannot be assessed."
                )
            cuts = [len(units) // 2, len(units) // 2 + len(units) // 4]
            for pool, some in zip(pools, np.split(units, cuts), strict=True):
                pool[a].append(rows[np.isin(unit[rows], some)])
    return pools


def _entangled(pool: Pool, t: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Training rows in which label ``a`` prefers group ``a mod G`` to the degree ``t``."""
    groups = len(pool[0])
    # what the smallest cell can give when it is the preferred one decides the size for all
    size = min(len(rows) for row in pool for rows in row)
    chosen = []
    for a, row in enumerate(pool):
        for g, rows in enumerate(row):
            share = (1 + (groups - 1) * t) if g == a % groups else 1 - t
            chosen.append(rng.permutation(rows)[: round(size * share / groups)])
    return np.concatenate(chosen)


def _balanced(pool: Pool, rng: np.random.Generator) -> NDArray[np.int64]:
    size = min(len(rows) for row in pool for rows in row)
    return np.concatenate([rng.permutation(rows)[:size] for row in pool for rows in row])


def _chosen_probe(
    x: NDArray[np.float64], label: NDArray[np.int64], train: NDArray[np.int64],
    validation: NDArray[np.int64], max_iter: int,
) -> LogisticRegression:  # fmt: skip
    best, found = -1.0, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for c in C_GRID:
            model = LogisticRegression(C=c, max_iter=max_iter).fit(x[train], label[train])
            score = balanced_accuracy_score(label[validation], model.predict(x[validation]))
            if score > best:
                best, found = score, model
    return found


def cramers_v(table: ArrayLike) -> float:
    """Association of rows and columns of a table of counts, 0 (none) to 1.

    Examples
    --------
    >>> cramers_v([[5, 5], [5, 5]]), cramers_v([[5, 0], [0, 5]])
    (0.0, 1.0)
    """
    counts = np.asarray(table, np.float64)
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if min(counts.shape) < 2:
        return 0.0
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return float(np.sqrt(chi2 / (counts.sum() * (min(counts.shape) - 1))))
