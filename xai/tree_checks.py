"""Trees in a model file must stay within their arrays.

scikit-learn follows the node numbers of its trees without checking them, so a crafted file could
make it read foreign memory or crash. skops therefore does not trust them; here they are trusted
once every number in them has been checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.metrics._dist_metrics import DistanceMetric64
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree._tree import Tree

from xai.errors import FileFormatError


def check_trees(model: Any) -> None:
    """Check every decision tree, KD tree and ball tree in ``model``.

    Raises
    ------
    FileFormatError
        A node that points out of its tree.

    Examples
    --------
    >>> from sklearn.ensemble import IsolationForest
    >>> check_trees(IsolationForest(n_estimators=2).fit(np.eye(4)))
    """
    for part in _parts(model, set()):
        if isinstance(part, Tree):
            sound = _decision_tree_is_sound(part)
        elif isinstance(part, KDTree | BallTree):
            sound = _neighbor_tree_is_sound(part)
        elif isinstance(part, DistanceMetric64):
            # Weights of another length than the data would be read beyond their end.
            sound = part.__getstate__()[1].size <= 1 and part.__getstate__()[2].size <= 1
        else:
            continue
        if not sound:
            raise FileFormatError(
                f"The {type(part).__name__} in the model file points outside its own arrays: the "
                "file is damaged or was made to do harm."
            )


def _decision_tree_is_sound(tree: Tree) -> bool:
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    node = np.arange(tree.node_count)
    leaf = left == -1
    # A child comes after its parent, so no path runs in a circle.
    children = np.stack([left, right])[:, ~leaf]
    return bool(
        tree.node_count > 0
        and (right[leaf] == -1).all()
        and (children > node[~leaf]).all()
        and (children < tree.node_count).all()
        and (feature[~leaf] >= 0).all()
        and (feature[~leaf] < tree.n_features).all()
    )


def _neighbor_tree_is_sound(tree: KDTree | BallTree) -> bool:
    state = tree.__getstate__()
    data, rows, nodes, bounds = (np.asarray(part) for part in state[:4])
    n_levels, n_nodes, metric, weight = state[5], state[6], state[11], state[12]
    start, end = nodes["idx_start"], nodes["idx_end"]
    inner = nodes["is_leaf"] == 0
    return bool(
        data.ndim == 2
        and n_nodes == len(nodes) == 2**n_levels - 1
        and bounds.shape[1:] == (n_nodes, data.shape[1])
        and np.array_equal(np.sort(rows), np.arange(len(data)))
        and (start >= 0).all()
        and (start <= end).all()
        and (end <= len(data)).all()
        and (2 * np.flatnonzero(inner) + 2 < n_nodes).all()
        and (weight is None or np.shape(weight) == (len(data),))
        and isinstance(metric, DistanceMetric64)
    )


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Everything that hangs below ``value``, itself included, each object once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    below: Iterator[Any]
    if isinstance(value, KDTree | BallTree):
        below = iter(value.__getstate__())
    elif isinstance(value, dict):
        below = iter(value.values())
    elif isinstance(value, list | tuple | set):
        below = iter(value)
    elif isinstance(value, np.ndarray):
        below = iter(value.ravel() if value.dtype == object else ())
    else:
        below = iter(getattr(value, "__dict__", {}).values())
    for part in below:
        yield from _parts(part, seen)
