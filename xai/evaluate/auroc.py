r"""Areas under ROC curves with their covariance, exactly (DeLong et al. 1988; Sun, Xu 2014).

For scores :math:`x_1, \dots, x_m` of anomalies and :math:`y_1, \dots, y_n` of normal rows,

.. math::
    A = \frac{1}{mn} \sum_{ij} \psi(x_i, y_j), \qquad
    \psi = 1, \tfrac12, 0 \text{ for } x > y, x = y, x < y,

with the components :math:`V_i = \frac1n \sum_j \psi(x_i, y_j)` and
:math:`W_j = \frac1m \sum_i \psi(x_i, y_j)`, and :math:`\operatorname{cov}(A^{(r)}, A^{(s)}) =
\operatorname{cov}_i(V^{(r)}, V^{(s)}) / m + \operatorname{cov}_j(W^{(r)}, W^{(s)}) / n`. All
components come from three rankings, in :math:`O((m + n) \log (m + n))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from xai.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Auroc:
    """Areas of several scores of the same rows.

    Attributes
    ----------
    area
        ``(k,)``, one per score.
    covariance
        ``(k, k)``; ``(area[r] - area[s]) / sqrt(c[r, r] + c[s, s] - 2 c[r, s])`` is DeLong's test
        of two detectors on the same rows.
    n_anomalies, n_normal
        Rows of each kind.
    """

    area: Array
    covariance: Array
    n_anomalies: int
    n_normal: int

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        r"""Lower and upper ends ``(k,)`` of confidence intervals.

        Normal on the logit scale, so that they stay between 0 and 1. An area of exactly 1 has no
        variance; its lower end is :math:`((1 - \text{level}) / 2)^{1/\min(m, n)}`: so many disjoint
        pairs of an anomaly and a normal row are all in order with probability
        :math:`A^{\min(m, n)}` at most. An area of 0 likewise.

        Raises
        ------
        InputError
            A level outside (0, 1).
        """
        if not 0 < level < 1:
            raise InputError(f"Expected a level between 0 and 1, got {level}.")
        a, tail = self.area, (1 - level) / 2
        inner = (a > 0) & (a < 1)
        safe = np.where(inner, a, 0.5)
        error = np.sqrt(np.diag(self.covariance)) / (safe * (1 - safe))
        width = norm.ppf(1 - tail) * error
        edge = tail ** (1 / min(self.n_anomalies, self.n_normal))
        low = np.where(inner, expit(logit(safe) - width), np.where(a > 0.5, edge, 0.0))
        high = np.where(inner, expit(logit(safe) + width), np.where(a > 0.5, 1.0, 1 - edge))
        return low, high


def auroc(labels: ArrayLike, scores: ArrayLike) -> Auroc:
    """Areas under the ROC curves of scores, with DeLong's covariance.

    Parameters
    ----------
    labels
        ``(n,)``, true for anomalies.
    scores
        ``(n,)``, or ``(k, n)`` of several detectors; higher is more abnormal.

    Raises
    ------
    InputError
        Rows of one kind only or fewer than two of a kind, shapes that do not fit, NaN.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson. Comparing the areas under two or more correlated ROC curves.
    Biometrics 44, 1988. Sun, Xu. Fast implementation of DeLong's algorithm. IEEE SPL 21, 2014.

    Examples
    --------
    >>> found = auroc([0, 0, 0, 1, 1], [0.1, 0.3, 0.6, 0.5, 0.9])
    >>> found.area.round(3).tolist(), found.covariance.round(4).tolist()
    ([0.833], [[0.0556]])
    """
    rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    truth = binary(labels)
    if rows.ndim != 2 or rows.shape[1] != len(truth):
        raise InputError(
            f"Expected one score per label, ({len(truth)},) or (k, {len(truth)}), got shape "
            f"{np.shape(scores)}."
        )
    if not np.isfinite(rows).all():
        raise InputError("Expected finite scores, got NaN or infinity.")
    m, n = int(truth.sum()), int((~truth).sum())
    if min(m, n) < 2:
        raise InputError(
            f"Expected at least 2 anomalies and 2 normal rows, got {m} and {n}. A ROC curve needs "
            "both; pass labels of 0 (normal) and 1 (anomaly)."
        )
    both = rankdata(rows, axis=1)
    v = (both[:, truth] - rankdata(rows[:, truth], axis=1)) / n
    w = 1 - (both[:, ~truth] - rankdata(rows[:, ~truth], axis=1)) / m
    covariance = np.atleast_2d(np.cov(v)) / m + np.atleast_2d(np.cov(w)) / n
    return Auroc(v.mean(1), covariance, m, n)


def binary(labels: ArrayLike) -> Array:
    """Labels ``(n,)`` of 0 and 1, or False and True, as booleans.

    Raises
    ------
    InputError
        Anything else.

    Examples
    --------
    >>> binary([0, 1]).tolist()
    [False, True]
    """
    truth = np.asarray(labels)
    if truth.ndim != 1 or not np.isin(truth, (0, 1)).all():
        raise InputError(
            "Expected labels (n,) of 0 (normal) and 1 (anomaly), got "
            f"{np.unique(truth)[:5].tolist()} of shape {truth.shape}."
        )
    return truth.astype(bool)
