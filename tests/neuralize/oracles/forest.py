"""Isolation forest: path length, and what every split on the path changed of its expectation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.neuralize.oracles.base import Array, Oracle, Shares

EXPECTED = "expected path length"


def average_path_length(n: int) -> float:
    """Unsuccessful search in a binary search tree of ``n`` points, as the paper's ``c(n)``."""
    if n <= 1:
        return 0.0
    if n == 2:
        return 1.0
    return 2 * (math.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n


class PathLength(Oracle):
    """``o = -mean path length / c(psi)``, so that ``score_samples = -2^o``."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.expected = [self._expectations(tree.tree_) for tree in model.estimators_]
        self.unit = average_path_length(model.max_samples_) * len(model.estimators_)

    def _expectations(self, tree: Any) -> Array:
        """Path length expected at every node ``(nodes,)``, over the training samples in it."""
        expected = np.zeros(tree.node_count)

        def visit(node: int, depth: int) -> float:
            n = int(tree.n_node_samples[node])
            children = (tree.children_left[node], tree.children_right[node])
            if children[0] == -1:
                expected[node] = depth + average_path_length(n)
            else:
                expected[node] = sum(
                    int(tree.n_node_samples[child]) / n * visit(child, depth + 1)
                    for child in children
                )
            return float(expected[node])

        visit(0, 0)
        return expected

    def _walk(self, x: Array) -> tuple[Array, float]:
        """Contributions ``(d,)`` and the sum of the roots' expectations, for one row."""
        values, start = np.zeros(len(x)), 0.0
        x = x.astype(np.float32)  # the trees compare in single precision
        for estimator, columns, expected in zip(
            self.model.estimators_, self.model.estimators_features_, self.expected, strict=True
        ):
            tree, node = estimator.tree_, 0
            start += expected[0]
            while tree.children_left[node] != -1:
                column = int(columns[tree.feature[node]])
                goes_left = x[column] <= tree.threshold[node]
                child = tree.children_left[node] if goes_left else tree.children_right[node]
                values[column] += expected[child] - expected[node]
                node = child
        return values, start

    def evidence(self, x: Array) -> Array:
        out = np.zeros(len(x))
        for row in range(len(x)):
            values, start = self._walk(x[row])
            out[row] = -(values.sum() + start) / self.unit
        return out

    def relevance(self, x: Array, target: Array | None) -> Shares:
        walks = [self._walk(row) for row in x]
        return Shares(
            -np.stack([values for values, _ in walks]) / self.unit,
            {EXPECTED: -np.array([start for _, start in walks]) / self.unit},
        )
