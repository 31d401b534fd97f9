"""Distances to neighbours, the local outlier factor, cluster-based distances, PyOD's PCA."""

from __future__ import annotations

import numpy as np

from tests.neuralize.oracles.base import Array, Oracle, Shares, spread
from tests.neuralize.oracles.parts import Parts, euclidean

FLOOR = "reachability floor"


def relative_gaps(ordered: Array) -> Array:
    """Distance between consecutive sorted distances, relative to the larger."""
    top = np.maximum(np.abs(ordered[..., 1:]), 1e-300)
    return np.diff(ordered, axis=-1) / top


class Neighbours(Oracle):
    """k-th, mean or median distance to the ``k`` nearest support points."""

    def __init__(self, parts: Parts, k: int, aggregation: str) -> None:
        self.parts, self.k = parts, k
        if aggregation == "largest":
            self.ranks = [k - 1]
        elif aggregation == "mean":
            self.ranks = list(range(k))
        elif k % 2:
            self.ranks = [k // 2]
        else:
            self.ranks = [k // 2 - 1, k // 2]

    def evidence(self, x: Array) -> Array:
        return np.sort(self.parts(x).sum(-1), 1)[:, self.ranks].mean(1)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        parts = self.parts(x)
        values = np.zeros_like(x)
        for row in range(len(x)):
            order = np.argsort(parts[row].sum(-1), kind="stable")
            for rank in self.ranks:
                values[row] += parts[row, order[rank]] / len(self.ranks)
        return Shares(values)

    def gap(self, x: Array, target: Array | None) -> Array:
        steps = relative_gaps(np.sort(self.parts(x).sum(-1), 1))
        borders = [rank for rank in (self.ranks[0] - 1, self.ranks[-1]) if rank >= 0]
        return steps[:, borders].min(1)


class LocalFactor(Oracle):
    """``LOF(x) = mean_j lrd_j (mean_j max(d(x, u_j), kdist_j) + 1e-10)`` over ``k`` neighbours."""

    def __init__(self, parts: Parts, train: Array, k: int, within: Parts | None = None) -> None:
        self.parts, self.k = parts, k
        d = (within or parts)(train).sum(-1)
        np.fill_diagonal(d, np.inf)
        order = np.argsort(d, 1, kind="stable")[:, :k]
        nearest = np.take_along_axis(d, order, 1)
        self.k_distance = nearest[:, -1]
        reach = np.maximum(nearest, self.k_distance[order])
        self.lrd = 1 / (reach.mean(1) + 1e-10)

    def _terms(self, d: Array) -> tuple[Array, float]:
        """Neighbours of a row and the mean density of their surroundings."""
        order = np.argsort(d, kind="stable")[: self.k]
        return order, float(self.lrd[order].mean())

    def evidence(self, x: Array) -> Array:
        out = np.zeros(len(x))
        for row, d in enumerate(self.parts(x).sum(-1)):
            order, density = self._terms(d)
            out[row] = density * (np.maximum(d[order], self.k_distance[order]).mean() + 1e-10)
        return out

    def relevance(self, x: Array, target: Array | None) -> Shares:
        parts = self.parts(x)
        values, floor = np.zeros_like(x), np.zeros(len(x))
        for row in range(len(x)):
            d = parts[row].sum(-1)
            order, density = self._terms(d)
            floor[row] = density * 1e-10
            for j in order:
                if d[j] >= self.k_distance[j]:
                    values[row] += density * parts[row, j] / self.k
                else:
                    floor[row] += density * self.k_distance[j] / self.k
        return Shares(values, {FLOOR: floor})

    def gap(self, x: Array, target: Array | None) -> Array:
        out = np.zeros(len(x))
        for row, d in enumerate(self.parts(x).sum(-1)):
            order, _ = self._terms(d)
            k_distance = np.maximum(self.k_distance[order], 1e-300)
            floor = np.abs(d[order] - k_distance) / k_distance
            border = relative_gaps(np.sort(d))[self.k - 1]
            out[row] = min(floor.min(), border)
        return out


class ClusterDistance(Oracle):
    """CBLOF: distance to the own centre, in small clusters to the nearest large one."""

    def __init__(self, centers: Array, large: Array, sizes: Array | None) -> None:
        self.parts, self.large, self.sizes = euclidean(centers), large, sizes

    def _choice(self, d: Array) -> tuple[int, float]:
        label = int(d.argmin())
        weight = 1.0 if self.sizes is None else float(self.sizes[label])
        if label in self.large:
            return label, weight
        return int(self.large[d[self.large].argmin()]), weight

    def evidence(self, x: Array) -> Array:
        out = np.zeros(len(x))
        for row, d in enumerate(self.parts(x).sum(-1)):
            center, weight = self._choice(d)
            out[row] = weight * d[center]
        return out

    def relevance(self, x: Array, target: Array | None) -> Shares:
        parts = self.parts(x)
        values = np.zeros_like(x)
        for row in range(len(x)):
            center, weight = self._choice(parts[row].sum(-1))
            values[row] = weight * parts[row, center]
        return Shares(values)


class ComponentDistances(Oracle):
    """PyOD's PCA: sum of distances to the component vectors, each divided by its weight."""

    def __init__(self, parts: Parts, weights: Array) -> None:
        self.parts, self.weights = parts, weights

    def evidence(self, x: Array) -> Array:
        return (self.parts(x).sum(-1) / self.weights).sum(1)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        parts = self.parts(x)
        values, _ = spread(parts.sum(-1) / self.weights, parts)
        return Shares(values)
