"""Local outlier factor of new points (Breunig, Kriegel, Ng, Sander, SIGMOD 2000).

    ``LOF(x) = mean_j lrd_j * (mean_j reach_j + 1e-10)``,  ``reach_j = max(||x - u_j||, kdist_j)``

over the ``k`` nearest training points. Neighbours and their densities ``lrd_j`` are a gate, held
constant. A term that is the distance goes to the inputs by the distance rule; a term that is the
neighbour's own k-distance does not depend on ``x`` and is absorbed as the reachability floor.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import UnsupportedModelError
from neuralize.neighbors import NeighborDistances, minkowski_order
from neuralize.outlier import OutlierNetwork
from neuralize.rules import ratio
from neuralize.score_map import ScoreMap

FLOOR = "reachability floor"
_TINY = 1e-10  # scikit-learn adds it to the mean reachability against duplicates


class ReachabilityRatio(NeighborDistances):
    """The local outlier factor, ``(n, d) -> (n,)``, with its rule.

    Parameters
    ----------
    support, k, p
        As in :class:`~neuralize.neighbors.NeighborDistances`.
    k_distances, densities
        ``kdist_j`` and ``lrd_j`` of the training points ``(m,)``.
    """

    k_distances: Tensor
    densities: Tensor

    def __init__(
        self, support: Tensor, k: int, p: float, k_distances: Tensor, densities: Tensor
    ) -> None:
        super().__init__(support, k, p)
        self.register_buffer("k_distances", k_distances)
        self.register_buffer("densities", densities)

    def compute(self, x: Tensor) -> tuple[Tensor, Any]:
        d, index = super().compute(x)
        reach = torch.maximum(d, self.k_distances[index])
        factor = self.densities[index].mean(1)
        return factor * (reach.mean(1) + _TINY), (index, d, factor)

    def split(
        self, x: Tensor, z: Tensor, saved: Any, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        index, d, factor = saved
        share = ratio(relevance, z) * factor
        floor = self.k_distances[index]
        reaches = d > floor
        terms = share.unsqueeze(1) * d / self.k
        r, absorbed = super().split(x, d, index, torch.where(reaches, terms, 0 * terms))
        constant = torch.where(reaches, 0 * floor, floor).mean(1) + _TINY
        return r, absorbed | {FLOOR: share * constant}


@register_converter(LocalOutlierFactor)
def convert_local_outlier_factor(model: LocalOutlierFactor) -> OutlierNetwork:
    """LOF fitted with ``novelty=True``, which alone can score new points."""
    require_fitted(model)
    if not model.novelty:
        raise UnsupportedModelError(
            "LocalOutlierFactor with novelty=False scores only its own training points and has no "
            "decision function. Refit with novelty=True."
        )
    return lof_network(model, ScoreMap("score_samples", scale=-1.0), -float(model.offset_))


def lof_network(model: Any, score_map: ScoreMap, threshold: float | None) -> OutlierNetwork:
    """The network of a fitted scikit-learn LOF."""
    support = as_tensor(model._fit_X, "training points")
    k = int(model.n_neighbors_)
    layer = ReachabilityRatio(
        support,
        k,
        minkowski_order(model),
        as_tensor(model._distances_fit_X_[:, k - 1], "k-distances"),
        as_tensor(model._lrd, "reachability densities"),
    )
    return OutlierNetwork(
        [layer],
        homogeneous=False,
        n_features=support.shape[1],
        evidence_name="local outlier factor",
        score_map=score_map,
        threshold=threshold,
        width=max(len(support), 2 * k * support.shape[1]),
        model_name="LocalOutlierFactor",
    )
