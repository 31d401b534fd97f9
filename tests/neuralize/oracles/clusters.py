"""Clusterings: k-means, the bisecting tree, Gaussian kernel k-means (arXiv 1906.07633)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.neuralize.oracles.base import COINCIDENT, Array, Oracle, Shares, softmax
from tests.neuralize.oracles.kernels import SoftNearest
from tests.neuralize.oracles.parts import Parts


def take_most(gaps: Array, stiffness: float) -> Array:
    """Relevance per unit of each gap, ``R_k / h_k`` ``(m,)``, of the evidence ``min_k h_k``.

    Soft-min weights where the evidence is positive; where it is not, the smallest gap takes all.
    """
    f = gaps.min()
    winners = (gaps == f).astype(float)
    if f <= 0 or np.isinf(stiffness):
        return winners / winners.sum()
    return softmax(-stiffness * gaps) * f / gaps


class _Gaps(Oracle):
    """Evidence is the smallest of signed differences between two entries of a bank of distances."""

    kind = "cluster"
    parts: Parts
    stiffness: float
    n_clusters: int

    def pairs(self, c: int) -> list[tuple[int, int]]:
        """``(other, own)`` for every gap that target ``c`` has to win."""
        raise NotImplementedError

    def gaps(self, h: Array, c: int) -> Array:
        return np.array([h[other] - h[own] for other, own in self.pairs(c)])

    def evidence(self, x: Array) -> Array:
        h = self.parts(x).sum(-1)
        return np.array([[self.gaps(row, c).min() for c in range(self.n_clusters)] for row in h])

    def relevance(self, x: Array, target: Array | None) -> Shares:
        assert target is not None
        parts = self.parts(x)
        values = np.zeros_like(x)
        for row, c in enumerate(target):
            per_unit = take_most(self.gaps(parts[row].sum(-1), c), self.stiffness)
            for weight, (other, own) in zip(per_unit, self.pairs(c), strict=True):
                # (x - m)_i w_i of the midpoint rule is the difference of the squared parts
                values[row] += weight * (parts[row, other] - parts[row, own])
        return Shares(values)

    def gap(self, x: Array, target: Array | None) -> Array:
        assert target is not None
        h = self.parts(x).sum(-1)
        out = np.full(len(x), np.inf)
        for row, c in enumerate(target):
            gaps = np.sort(self.gaps(h[row], c))
            scale = np.abs(h[row]).max()
            out[row] = abs(gaps[0]) / scale  # the treatment changes where the evidence turns sign
            if len(gaps) > 1 and (gaps[0] <= 0 or np.isinf(self.stiffness)):
                out[row] = min(out[row], (gaps[1] - gaps[0]) / scale)
        return out


class NearestCentroid(_Gaps):
    """``f_c = min_{k != c} h_k - h_c`` over a bank of squared distances to the centroids."""

    def __init__(self, parts: Parts, n_clusters: int, stiffness: float) -> None:
        self.parts, self.n_clusters, self.stiffness = parts, n_clusters, stiffness

    def pairs(self, c: int) -> list[tuple[int, int]]:
        return [(k, c) for k in range(self.n_clusters) if k != c]


class BisectingTree(_Gaps):
    """The decision goes down the tree: one gap per split on the path to the cluster's leaf."""

    def __init__(self, model: Any, make_parts: Any, stiffness: float) -> None:
        shift = getattr(model, "_X_mean", 0.0)
        centers: list[Array] = []
        self._paths: dict[int, list[tuple[int, int]]] = {}

        def visit(node: Any, path: list[tuple[int, int]]) -> None:
            if node.left is None:
                self._paths[int(node.label)] = path
                return
            left, right = len(centers), len(centers) + 1
            centers.extend([node.left.center + shift, node.right.center + shift])
            visit(node.left, [*path, (right, left)])
            visit(node.right, [*path, (left, right)])

        visit(model._bisecting_tree, [])
        self.parts = make_parts(np.array(centers))
        self.centers = np.array(centers)
        self.n_clusters = len(self._paths)
        self.stiffness = stiffness

    def pairs(self, c: int) -> list[tuple[int, int]]:
        return self._paths[c]


class KernelClusters(Oracle):
    """Gaussian kernel k-means: ``f_c = min_{k != c} o_k - o_c``, ``o_k`` soft minimum distances."""

    kind = "cluster"

    def __init__(
        self,
        make_parts: Any,
        support: Array,
        labels: Array,
        weights: Array,
        gamma: float,
        stiffness: float,
        form: str,
    ) -> None:
        self.n_clusters = int(labels.max()) + 1
        self.banks = [
            SoftNearest(make_parts(support[labels == k]), weights[labels == k], gamma)
            for k in range(self.n_clusters)
        ]
        self.stiffness, self.form = stiffness, form

    def evidence(self, x: Array) -> Array:
        o = np.stack([bank.evidence(x) for bank in self.banks], 1)
        f = np.zeros_like(o)
        for c in range(self.n_clusters):
            f[:, c] = np.delete(o, c, 1).min(1) - o[:, c]
        return f

    def relevance(self, x: Array, target: Array | None) -> Shares:
        assert target is not None
        return self._stable(x, target) if self.form == "stable" else self._midpoint(x, target)

    def _gaps(self, x: Array, row: int, c: int) -> tuple[list[int], Array]:
        others = [k for k in range(self.n_clusters) if k != c]
        o = [bank.evidence(x[row : row + 1])[0] for bank in self.banks]
        return others, np.array([o[k] - o[c] for k in others])

    def _stable(self, x: Array, target: Array) -> Shares:
        shares = [bank.relevance(x, None) for bank in self.banks]
        values, coincident = np.zeros_like(x), np.zeros(len(x))
        for row, c in enumerate(target):
            others, gaps = self._gaps(x, row, c)
            for weight, k in zip(take_most(gaps, self.stiffness), others, strict=True):
                for sign, share in ((1, shares[k]), (-1, shares[c])):
                    assert share.values is not None
                    values[row] += sign * weight * share.values[row]
                    coincident[row] += sign * weight * share.absorbed[COINCIDENT][row]
        return Shares(values, {COINCIDENT: coincident})

    def _midpoint(self, x: Array, target: Array) -> Shares:
        """``R_ijk = p_i q_j R_k``, then ``(x - m_ij) w_ij / h_ij`` for each pair."""
        parts = [bank.parts(x) for bank in self.banks]
        weights = [bank.weights_of(x) for bank in self.banks]
        values = np.zeros_like(x)
        for row, c in enumerate(target):
            others, gaps = self._gaps(x, row, c)
            per_unit = take_most(gaps, self.stiffness)
            for weight, gap, k in zip(per_unit, gaps, others, strict=True):
                for i, p in enumerate(weights[c][row]):
                    for j, q in enumerate(weights[k][row]):
                        contributions = parts[k][row, j] - parts[c][row, i]
                        share = p * q * weight * gap
                        values[row] += share * contributions / contributions.sum()
        return Shares(values)

    def gap(self, x: Array, target: Array | None) -> Array:
        assert target is not None
        out = np.full(len(x), np.inf)
        for row, c in enumerate(target):
            _, gaps = self._gaps(x, row, c)
            gaps = np.sort(gaps)
            scale = np.abs(gaps).max()
            out[row] = abs(gaps[0]) / scale
            if len(gaps) > 1 and (gaps[0] <= 0 or np.isinf(self.stiffness)):
                out[row] = min(out[row], (gaps[1] - gaps[0]) / scale)
            if self.form == "midpoint":
                out[row] = min(out[row], self._smallest_pair(x[row : row + 1], c))
        return out

    def _smallest_pair(self, x: Array, c: int) -> float:
        """Smallest ``|d_j - d_i|`` against the largest: the published form divides by each."""
        h = [bank.parts(x).sum(-1)[0] for bank in self.banks]
        pairs = [np.abs(h[k][:, None] - h[c][None]) for k in range(self.n_clusters) if k != c]
        return float(min(p.min() for p in pairs) / max(p.max() for p in pairs))
