"""Detectors that are sums over features already: HBOS, ECOD, COPOD."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.neuralize.oracles.base import Array, Oracle, Shares


class _Additive(Oracle):
    def terms(self, x: Array) -> Array:
        """``O_i`` ``(n, d)``, which add up to the score."""
        raise NotImplementedError

    def evidence(self, x: Array) -> Array:
        return self.terms(x).sum(1)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        return Shares(self.terms(x))


class Histograms(_Additive):
    """HBOS: ``-log2(density + alpha)`` of the bin; outside all bins, the lowest density."""

    def __init__(self, model: Any) -> None:
        by_feature = isinstance(model.hist_, list)
        columns = range(len(model.hist_) if by_feature else model.hist_.shape[1])
        self.heights = [model.hist_[i] if by_feature else model.hist_[:, i] for i in columns]
        self.edges = [
            model.bin_edges_[i] if by_feature else model.bin_edges_[:, i] for i in columns
        ]
        self.alpha, self.tol = model.alpha, model.tol

    def _term(self, value: float, edges: Array, heights: Array) -> float:
        scores = -np.log2(heights + self.alpha)
        if value <= edges[0]:
            near = edges[0] - value <= (edges[1] - edges[0]) * self.tol
            return float(scores[0] if near else scores.max())
        if value > edges[-1]:
            near = value - edges[-1] <= (edges[-1] - edges[-2]) * self.tol
            return float(scores[-1] if near else scores.max())
        for b in range(len(heights)):
            if edges[b] < value <= edges[b + 1]:
                return float(scores[b])
        raise AssertionError("a value is below, above, or in one of the bins")

    def terms(self, x: Array) -> Array:
        out = np.zeros_like(x)
        for row in range(len(x)):
            for i in range(x.shape[1]):
                out[row, i] = self._term(x[row, i], self.edges[i], self.heights[i])
        return out


class EmpiricalTails(_Additive):
    """ECOD: tail probabilities counted over the training rows and the batch together."""

    def __init__(self, train: Array) -> None:
        self.train = train

    def tails(self, x: Array) -> tuple[Array, Array, Array]:
        """``-log P(X <= x)``, ``-log P(X >= x)`` and the tail the skewness chooses, ``(n, d)``."""
        everything = np.concatenate([self.train, x])
        left, right, chosen = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
        for i in range(x.shape[1]):
            column = everything[:, i]
            for row in range(len(x)):
                left[row, i] = -np.log(np.mean(column <= x[row, i]))
                right[row, i] = -np.log(np.mean(column >= x[row, i]))
            centred = column - column.mean()
            skewed = np.sign((centred**3).mean())
            if skewed > 0:
                chosen[:, i] = right[:, i]
            elif skewed < 0:
                chosen[:, i] = left[:, i]
            else:
                chosen[:, i] = left[:, i] + right[:, i]
        return left, right, chosen

    def terms(self, x: Array) -> Array:
        left, right, chosen = self.tails(x)
        return np.maximum(np.maximum(left, right), chosen)


class CopulaTails(EmpiricalTails):
    """COPOD: the chosen tail, at least the mean of both."""

    def terms(self, x: Array) -> Array:
        left, right, chosen = self.tails(x)
        return np.maximum(chosen, (left + right) / 2)
