"""Isolation forest: exact path-length contributions. Not LRP.

The score depends on the mean path length ``L`` over the trees, a leaf counting ``depth +
c(n_leaf)`` (Liu, Ting, Zhou, ICDM 2008): ``score_samples = -2^o`` with ``o = -L / c(psi)``, which
is the evidence here. In every tree the path length telescopes along the path from the root,

    ``L(x) = E[root] + sum over splits on the path of (E[child] - E[node])``,

``E[node]`` the mean path length of the training samples in that node. Each difference belongs to
the feature that was split on; the root's expectation is absorbed. So a feature is relevant where
its splits isolate ``x`` sooner than the training samples. (The scheme is the one of Saabas for
trees; Shapley values differ.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from torch import Tensor

from neuralize.additive import Terms, additive_network
from neuralize.convert import register_converter, require_fitted
from neuralize.errors import UnsupportedModelError
from neuralize.outlier import OutlierNetwork
from neuralize.score_map import ScoreMap

LOG2 = float(np.log(2.0))


def average_path_length(n: NDArray[Any]) -> NDArray[Any]:
    """Mean path length ``c(n)`` of an unsuccessful search in a tree of ``n`` samples.

    >>> average_path_length(np.array([1, 2, 3])).round(4).tolist()
    [0.0, 1.0, 1.2074]
    """
    big = np.maximum(n, 3).astype(float)
    c = 2 * (np.log(big - 1) + np.euler_gamma) - 2 * (big - 1) / big
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, c))


class PathTerms(Terms):
    """Contributions of every feature to the evidence ``(n, d) -> (n, d)``, all trees at once.

    Parameters
    ----------
    feature
        Split feature of every node of every tree ``(nodes,)``, -1 at leaves.
    split_at
        Threshold of every node; a row goes left iff ``x <= split_at`` in float32, as
        scikit-learn's.
    left, right
        Children, as indices into the same arrays.
    gain
        Evidence at the node, ``-E[node] / (T c(psi))``.
    roots
        ``(T,)``.
    depth
        Longest path.
    """

    feature: Tensor
    split_at: Tensor
    left: Tensor
    right: Tensor
    gain: Tensor
    roots: Tensor

    def __init__(self, depth: int, **tables: Tensor) -> None:
        super().__init__()
        self.depth = depth
        for name, table in tables.items():
            self.register_buffer(name, table)

    def terms(self, x: Tensor) -> Tensor:
        rounded = x.to(torch.float32).to(self.split_at.dtype)
        node = self.roots.expand(len(x), -1)
        terms = torch.zeros(x.shape, dtype=self.gain.dtype, device=x.device)
        for _ in range(self.depth):
            feature = self.feature[node]
            inner = feature >= 0
            column = feature.clamp(min=0)
            goes_left = rounded.gather(1, column) <= self.split_at[node]
            child = torch.where(goes_left, self.left[node], self.right[node])
            child = torch.where(inner, child, node)
            terms.scatter_add_(1, column, self.gain[child] - self.gain[node])
            node = child
        return terms


@register_converter(IsolationForest)
def convert_isolation_forest(model: IsolationForest) -> OutlierNetwork:
    """Isolation forest, also with ``max_features < 1``."""
    require_fitted(model)
    offset = float(model.offset_)
    score_map = ScoreMap("decision_function", scale=-1.0, offset=-offset, rate=LOG2)
    return isolation_network(model, score_map, score_map.inverse(0.0))


def isolation_network(
    model: IsolationForest, score_map: ScoreMap, threshold: float | None
) -> OutlierNetwork:
    """The network of a fitted forest."""
    scale = float(average_path_length(np.array([model.max_samples_]))[0])
    if scale == 0:
        raise UnsupportedModelError(
            "IsolationForest fitted on a single sample scores every point alike; refit on more."
        )
    scale *= len(model.estimators_)
    tables: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("feature", "split_at", "left", "right", "gain")
    }
    roots, start, deepest = [], 0, 0
    for tree_model, columns in zip(model.estimators_, model.estimators_features_, strict=True):
        tree = tree_model.tree_
        expected, depth = expected_path_lengths(tree)
        leaf = tree.children_left < 0
        tables["feature"].append(
            np.where(leaf, -1, np.asarray(columns)[np.where(leaf, 0, tree.feature)])
        )
        tables["split_at"].append(np.where(leaf, 0.0, tree.threshold))
        tables["left"].append(np.where(leaf, 0, tree.children_left + start))
        tables["right"].append(np.where(leaf, 0, tree.children_right + start))
        tables["gain"].append(-expected / scale)
        roots.append(start)
        start += tree.node_count
        deepest = max(deepest, depth)
    arrays = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in tables.items()}
    terms = PathTerms(deepest, **arrays, roots=torch.tensor(roots))
    return additive_network(
        terms,
        n_features=int(model.n_features_in_),
        evidence_name="negative mean path length, in units of c(psi)",
        score_map=score_map,
        threshold=threshold,
        model_name="IsolationForest",
        method="path-length contributions (not LRP)",
        constant=float(arrays["gain"][roots].sum()),
        constant_name="expected path length",
        width=8 * len(roots),
    )


def expected_path_lengths(tree: Any) -> tuple[NDArray[Any], int]:
    """Mean path length of the training samples in every node ``(nodes,)``, and the tree's depth."""
    n = tree.n_node_samples.astype(float)
    depth = np.zeros(tree.node_count, dtype=int)
    # scikit-learn numbers every child after its parent, so one pass down and one up suffice.
    for node in range(tree.node_count):
        left, right = tree.children_left[node], tree.children_right[node]
        if left >= 0:
            depth[left] = depth[right] = depth[node] + 1
    expected = depth + average_path_length(n)
    for node in range(tree.node_count - 1, -1, -1):
        left, right = tree.children_left[node], tree.children_right[node]
        if left >= 0:
            expected[node] = (n[left] * expected[left] + n[right] * expected[right]) / n[node]
    return expected, int(depth.max())
