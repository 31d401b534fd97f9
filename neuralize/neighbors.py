"""Distances to the nearest neighbours: the largest, the mean or the median of ``k``.

``o = mean_{j in kNN(x)} d_j`` (or the k-th, or the median), ``d_j = ||x - u_j||_p``. The neighbours
are a gate, held constant; each distance is split by the distance rule, ``|x_i - u_ij|^p / d_j^p``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import InputError, UnsupportedModelError
from neuralize.layers import Fold, WeightedSum
from neuralize.layers.distances import COINCIDENT
from neuralize.outlier import OutlierNetwork
from neuralize.propagate import Layer
from neuralize.score_map import ScoreMap

Aggregation = Literal["largest", "mean", "median"]


class NeighborDistances(Layer):
    """Distances to the ``k`` nearest support points in ascending order, ``(n, d) -> (n, k)``.

    Parameters
    ----------
    support
        ``(m, d)``.
    k
        Number of neighbours, at most ``m``.
    p
        Order of the norm.

    Examples
    --------
    >>> support = torch.tensor([[0.0], [1.0], [5.0]])
    >>> NeighborDistances(support, 2, 2.0)(torch.tensor([[2.0]])).tolist()
    [[1.0, 2.0]]
    """

    support: Tensor

    def __init__(self, support: Tensor, k: int, p: float) -> None:
        super().__init__()
        self.k, self.p = k, p
        self.register_buffer("support", support)
        self.fold: Fold | None = None

    def fold_projection(self, matrix: Tensor, offset: Tensor) -> bool:
        """Put ``z = B x + b`` before Euclidean distances; others have no exact way through it."""
        self.fold = Fold(matrix, offset) if self.p == 2 else None
        return self.fold is not None

    def compute(self, x: Tensor) -> tuple[Tensor, Any]:
        x = x if self.fold is None else self.fold(x)
        index = self.search(x.detach())
        d = torch.linalg.vector_norm(x.unsqueeze(1) - self.support[index], self.p, dim=2)
        return d, index

    def search(self, x: Tensor) -> Tensor:
        """Indices of the neighbours ``(n, k)``, nearest first."""
        mode = "donot_use_mm_for_euclid_dist"
        d = torch.cdist(x, self.support, self.p, compute_mode=mode)
        return d.topk(self.k, dim=1, largest=False, sorted=True).indices

    def split(
        self, x: Tensor, z: Tensor, saved: Any, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        zero = z == 0
        w = (relevance / z.masked_fill(zero, 1) ** self.p).masked_fill(zero, 0)
        x = x if self.fold is None else self.fold(x)
        delta = x.unsqueeze(1) - self.support[saved]
        terms = delta.abs() ** self.p if self.fold is None else self.fold.pull_back(delta, delta)
        r = torch.einsum("nk,nkd->nd", w, terms)
        lost = zero & (relevance != 0)
        if not bool(lost.any()):
            return r, {}
        return r, {COINCIDENT: torch.where(lost, relevance, torch.zeros_like(z)).sum(1)}


def minkowski_order(model: Any) -> float:
    """Order ``p`` of a fitted neighbour model's metric.

    Raises
    ------
    UnsupportedModelError
        For a metric that is not a Minkowski distance.
    """
    metric = getattr(model, "effective_metric_", model.metric)
    params = getattr(model, "effective_metric_params_", None) or {}
    orders = {"euclidean": 2.0, "l2": 2.0, "manhattan": 1.0, "cityblock": 1.0, "l1": 1.0}
    weighted = params.get("w") is not None
    if metric in orders and not weighted:
        return orders[metric]
    if metric == "minkowski" and not weighted:
        p = float(params.get("p", model.p))
        if 1 <= p < float("inf"):
            return p
    raise UnsupportedModelError(
        f"{type(model).__name__} with metric={metric!r}{' and weights' if weighted else ''}: the "
        "distance rule needs a plain Minkowski distance of finite order. Nearest supported: "
        "metric='euclidean'."
    )


def aggregation_weights(k: int, aggregation: str) -> Tensor:
    """Weights ``(k,)`` on ascending distances that give their largest, mean or median."""
    w = torch.zeros(k, dtype=torch.float64)
    if aggregation == "largest":
        w[-1] = 1
    elif aggregation == "mean":
        w[:] = 1 / k
    elif aggregation == "median":
        w[(k - 1) // 2] += 0.5
        w[k // 2] += 0.5
    else:
        raise InputError(
            f"Expected aggregation 'largest', 'mean' or 'median', got {aggregation!r}."
        )
    return w


@register_converter(NearestNeighbors)
def convert_nearest_neighbors(
    model: NearestNeighbors, *, aggregation: Aggregation = "largest"
) -> OutlierNetwork:
    """Distance to the model's ``n_neighbors`` nearest training points, aggregated."""
    require_fitted(model)
    return neighbor_network(model, model.n_neighbors, aggregation, f"{aggregation} distance")


def neighbor_network(
    model: Any, k: int, aggregation: str, score_name: str, threshold: float | None = None
) -> OutlierNetwork:
    """The network of a fitted neighbour search with ``k`` neighbours."""
    support = as_tensor(model._fit_X, "training points")
    if k > len(support):
        raise InputError(f"Expected at least {k} training points, got {len(support)}.")
    search = NeighborDistances(support, k, minkowski_order(model))
    return OutlierNetwork(
        [search, WeightedSum(aggregation_weights(k, aggregation))],
        n_features=support.shape[1],
        evidence_name=f"{aggregation} distance to the {k} nearest training points",
        score_map=ScoreMap(score_name),
        threshold=threshold,
        width=max(len(support), 2 * k * support.shape[1]),
        model_name=type(model).__name__,
    )
