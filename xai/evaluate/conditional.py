"""Removed features as a kernel density of the reference expects them, given those that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai.evaluate.trajectory import Replacement, Trajectory

Array = NDArray[Any]

STIFFNESS_GRID = 2.0 ** np.arange(-2, 13)
"""Candidates for ``g``, in units of one over the median squared distance of reference rows."""

_FIT_ROWS = 500


class ConditionalReplacement(Replacement):
    r"""What a kernel density of the reference expects, given the features that are kept.

    With ``S`` the kept features and ``u_j`` the reference rows, the conditional of a Gaussian
    kernel density is a mixture over the rows with weights

    .. math:: w_j = \frac{\exp(-g \, \|x_S - u_{jS}\|^2)}{\sum_k \exp(-g \, \|x_S - u_{kS}\|^2)},

    and removed features become its mean :math:`\sum_j w_j u_j`, or those of one row drawn from it.
    With nothing kept these are the mean of the reference and any of its rows. Distances are updated
    by what leaves: ``O(n m)`` a step, to which the mean adds one matrix product.

    Parameters
    ----------
    reference
        ``u`` ``(m, d)``.
    stiffness
        ``g``; :func:`imputation_stiffness` when missing.
    scale
        Units ``(d,)`` in which distances are measured, e.g. standard deviations; 1 when missing.
    sample
        Whether to draw a row instead of taking the mean.

    Examples
    --------
    >>> rule = ConditionalReplacement(np.array([[0.0, 1.0], [5.0, 9.0]]), stiffness=10.0)
    >>> rule.begin(np.array([[0.0, 4.0]]), [[0]]).remove(np.array([[1]])).tolist()
    [[0.0, 1.0]]
    """

    def __init__(
        self,
        reference: Array,
        *,
        stiffness: float | None = None,
        scale: Array | None = None,
        sample: bool = False,
    ) -> None:
        super().__init__(reference)
        self.scale = np.ones(reference.shape[1]) if scale is None else scale
        # Centred, because the update subtracts squares; the extra column is what padding removes.
        self.center = reference.mean(0)
        self.bank = _pad((reference - self.center) / self.scale)
        if stiffness is None:
            stiffness = imputation_stiffness(self.bank[:, :-1])
        self.stiffness = stiffness
        self.draws = sample

    def begin(self, x: Array, seeds: Sequence[Sequence[int]]) -> Trajectory:
        luck = None
        if self.draws:
            m = len(self.reference)
            luck = np.stack([np.random.default_rng([*seed]).gumbel(size=m) for seed in seeds])
        return _Conditional(x, self, luck)


class _Conditional(Trajectory):
    def __init__(self, x: Array, rule: ConditionalReplacement, luck: Array | None) -> None:
        super().__init__(x)
        self.rule, self.luck = rule, luck
        self.z = _pad((x - rule.center) / rule.scale)
        self.columns = np.ascontiguousarray(rule.bank.T)
        self.distance = _squared_distances(self.z, rule.bank)

    def fill(self, features: Array) -> Array:
        rows = np.arange(len(self.x))
        for column in features.T:
            self.distance -= (self.z[rows, column][:, None] - self.columns[column]) ** 2
        emptied = self.removed[:, :-1].all(1)
        self.distance[emptied] = 0.0  # exactly, not up to rounding
        logits = -self.rule.stiffness * self.distance
        if self.luck is not None:
            # Gumbel's trick: the argmax is a draw from the softmax, and stays put between steps.
            return self.replaced(self.rule.reference[(logits + self.luck).argmax(1)])
        return self.replaced(_softmax(logits) @ self.rule.reference)


def imputation_stiffness(bank: Array) -> float:
    r"""The ``g`` that best fills gaps in the reference itself.

    Every reference row (of at most 500, evenly spaced) loses a random share of its features, any
    share being as likely as another, and gets them back as :math:`\sum_{j \neq i} w_j u_j` from the
    other rows; the ``g`` of :data:`STIFFNESS_GRID` with the smallest mean squared error wins.

    Parameters
    ----------
    bank
        Reference rows ``(m, d)``, in the units distances are measured in.

    Examples
    --------
    >>> line = np.linspace(0, 1, 50)[:, None] * np.ones(3)  # columns tell each other exactly
    >>> noise = np.random.default_rng(0).normal(size=(50, 3))  # columns tell each other nothing
    >>> imputation_stiffness(line) > 100 * imputation_stiffness(noise)
    True
    """
    bank = bank[:: -(-len(bank) // _FIT_ROWS)]
    m, d = bank.shape
    rng = np.random.default_rng(0)
    kept = (rng.random((m, d)) < rng.random((m, 1))).astype(np.float64)
    # ||x_S - u_S||^2 for every pair, S that of the row
    known = bank * kept
    distance = (known**2).sum(1)[:, None] - 2 * known @ bank.T + kept @ (bank**2).T
    others = distance[~np.eye(m, dtype=bool)]
    middle = float(np.median(others)) if len(others) else 0.0
    if middle <= 0:
        return 1.0  # a single row, or rows that are all the same: every g gives the same weights
    np.fill_diagonal(distance, np.inf)
    errors = [
        (((_softmax(-g / middle * distance) @ bank - bank) * (1 - kept)) ** 2).sum()
        for g in STIFFNESS_GRID
    ]
    return float(STIFFNESS_GRID[int(np.argmin(errors))] / middle)


def _softmax(logits: Array) -> Array:
    w: Array = np.exp(logits - logits.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    return w


def _pad(rows: Array) -> Array:
    return np.hstack([rows, np.zeros((len(rows), 1))])


def _squared_distances(x: Array, bank: Array) -> Array:
    h: Array = (x**2).sum(1)[:, None] - 2 * x @ bank.T + (bank**2).sum(1)
    return np.maximum(h, 0.0, out=h)
