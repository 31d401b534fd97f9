"""PyOD's detectors: wrappers are unwrapped and their sign turned, the rest is rewritten directly.

PyOD counts upwards, higher is more abnormal, and calls a row an outlier iff its score exceeds
``threshold_``. Imported only when a PyOD model comes by.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pyod.models.cblof import CBLOF
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.gmm import GMM
from pyod.models.hbos import HBOS
from pyod.models.iforest import IForest
from pyod.models.kde import KDE
from pyod.models.knn import KNN
from pyod.models.kpca import KPCA
from pyod.models.lof import LOF
from pyod.models.mcd import MCD
from pyod.models.ocsvm import OCSVM
from pyod.models.pca import PCA
from torch import Tensor

from neuralize.additive import HistogramTerms, TailTerms, additive_network
from neuralize.convert import as_tensor, neuralize, register_converter
from neuralize.errors import UnfittedModelError, UnsupportedModelError
from neuralize.gaussian_mixture import mixture_outlier_network
from neuralize.isolation_forest import LOG2, isolation_network
from neuralize.kernel_pca import kernel_pca_network
from neuralize.kmeans import check_centroids
from neuralize.layers import SquaredDistances, SquareRoot, WeightedSum
from neuralize.local_outlier_factor import lof_network
from neuralize.mahalanobis import Split, mahalanobis_network
from neuralize.neighbors import neighbor_network
from neuralize.network import Neuralized
from neuralize.outlier import OutlierNetwork
from neuralize.pipeline import affine_front
from neuralize.propagate import Layer
from neuralize.score_map import ScoreMap

SCORE = "decision_function"


def _require_fitted(model: Any) -> None:
    # PyOD's estimators are not told apart by scikit-learn's check.
    if getattr(model, "decision_scores_", None) is None:
        raise UnfittedModelError(
            f"{type(model).__name__} is not fitted yet. Call .fit(data) first."
        )


def _finish(net: Neuralized, model: Any, score_map: ScoreMap | None = None) -> Neuralized:
    """Name the network after the wrapper and set its sign and threshold."""
    net.score_map = net.score_map if score_map is None else score_map
    net.threshold = net.score_map.inverse(float(model.threshold_))
    net.model_name = f"PyOD {type(model).__name__}"
    return net


def _turned(net: Neuralized) -> ScoreMap:
    """PyOD's score is the negative of the wrapped model's."""
    inner = net.score_map
    return replace(inner, name=SCORE, scale=-inner.scale, offset=-inner.offset)


@register_converter(OCSVM)
@register_converter(LOF)
def convert_wrapper(model: Any) -> Neuralized:
    """OCSVM and LOF: the wrapped scikit-learn model, sign turned."""
    _require_fitted(model)
    if isinstance(model, LOF):
        if not model.novelty:
            raise UnsupportedModelError(
                "PyOD LOF with novelty=False cannot score new points. Refit with novelty=True."
            )
        return _finish(lof_network(model.detector_, ScoreMap(SCORE), None), model)
    net = neuralize(model.detector_)
    return _finish(net, model, _turned(net))


@register_converter(KDE)
def convert_kde(model: KDE) -> Neuralized:
    """KDE: scikit-learn's KernelDensity, sign turned."""
    _require_fitted(model)
    net = neuralize(model.kde_)
    return _finish(net, model, _turned(net))


@register_converter(GMM)
def convert_gmm(model: GMM) -> Neuralized:
    """GMM: the negative log likelihood."""
    _require_fitted(model)
    return _finish(mixture_outlier_network(model.detector_, ScoreMap(SCORE), None), model)


@register_converter(MCD)
def convert_mcd(model: MCD, *, split: Split = "signed") -> Neuralized:
    """MCD: the squared Mahalanobis distance."""
    _require_fitted(model)
    return _finish(mahalanobis_network(model.detector_, split, ScoreMap(SCORE), None), model)


@register_converter(IForest)
def convert_iforest(model: IForest) -> Neuralized:
    """IForest: ``-decision_function`` of scikit-learn's forest, ``2^o + offset_``."""
    _require_fitted(model)
    forest = model.detector_
    score_map = ScoreMap(SCORE, offset=float(forest.offset_), rate=LOG2)
    return _finish(isolation_network(forest, score_map, None), model)


@register_converter(KNN)
def convert_knn(model: KNN) -> Neuralized:
    """KNN with ``method`` largest, mean or median."""
    _require_fitted(model)
    return _finish(neighbor_network(model.neigh_, model.n_neighbors, model.method, SCORE), model)


@register_converter(KPCA)
def convert_kpca(model: KPCA) -> Neuralized:
    """KPCA: the residual in feature space after the selected components."""
    _require_fitted(model)
    net = kernel_pca_network(model.kpca, int(model.n_selected_components_))
    return _finish(net, model, ScoreMap(SCORE))


@register_converter(HBOS)
def convert_hbos(model: HBOS) -> Neuralized:
    """HBOS with a fixed number of bins or ``"auto"``."""
    _require_fitted(model)
    if isinstance(model.bin_edges_, list):
        edges = [as_tensor(edge) for edge in model.bin_edges_]
        densities = [as_tensor(density) for density in model.hist_]
    else:
        edges = list(as_tensor(model.bin_edges_).T)
        densities = list(as_tensor(model.hist_).T)
    terms = HistogramTerms(edges, densities, float(model.alpha), float(model.tol))
    return _finish(_additive(terms, len(edges), "negative log2 density over the histograms"), model)


@register_converter(ECOD)
@register_converter(COPOD)
def convert_tails(model: Any) -> Neuralized:
    """ECOD and COPOD. A row is scored against the training rows and its whole batch, as in PyOD."""
    _require_fitted(model)
    terms = TailTerms(as_tensor(model.X_train, "training rows"), isinstance(model, COPOD))
    n_features = int(terms.reference.shape[1])
    name = "negative log tail probability over the features"
    return _finish(_additive(terms, n_features, name, row_independent=False), model)


def _additive(
    terms: Any, n_features: int, evidence_name: str, row_independent: bool = True
) -> OutlierNetwork:
    return additive_network(
        terms,
        n_features=n_features,
        evidence_name=evidence_name,
        score_map=ScoreMap(SCORE),
        threshold=None,
        model_name="",
        row_independent=row_independent,
        width=4 * n_features,
    )


@register_converter(PCA)
def convert_pca(model: PCA) -> Neuralized:
    """PyOD's PCA: ``sum_m ||z - v_m|| / lambda_m``, distances of ``z`` to the component *vectors*.

    That is what PyOD computes, ``z`` being the standardised input; it is not a residual.
    """
    _require_fitted(model)
    components = as_tensor(model.selected_components_, "components")
    weights = 1 / as_tensor(model.selected_w_components_, "component weights")
    net: Neuralized = OutlierNetwork(
        [SquaredDistances(components), SquareRoot(), WeightedSum(weights)],
        n_features=components.shape[1],
        evidence_name="weighted sum of distances to the component vectors",
        score_map=ScoreMap(SCORE),
        width=len(components),
        model_name="",
    )
    if model.standardization:
        net.add_front(affine_front(model.scaler_))
    return _finish(net, model)


class LargeClusterDistance(Layer):
    """CBLOF (He, Xu, Deng, 2003) from squared distances to all centres, ``(n, K) -> (n,)``.

    A row of a large cluster counts its distance to that centre, a row of a small one its distance
    to the nearest large one, times the size of its own cluster if weighted. All relevance goes to
    that distance.

    Parameters
    ----------
    large
        Which clusters are large ``(K,)``.
    sizes
        Weight of every cluster ``(K,)``.
    """

    large: Tensor
    sizes: Tensor

    def __init__(self, large: Tensor, sizes: Tensor) -> None:
        super().__init__()
        self.register_buffer("large", large)
        self.register_buffer("sizes", sizes)

    def compute(self, x: Tensor) -> tuple[Tensor, Tensor]:
        own = x.argmin(1)
        nearest_large = x.masked_fill(~self.large, torch.inf).argmin(1)
        used = torch.where(self.large[own], own, nearest_large)
        d = x.gather(1, used.unsqueeze(1))[:, 0].sqrt()
        return d * self.sizes[own], used

    def split(
        self, x: Tensor, z: Tensor, saved: Tensor, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.zeros_like(x).scatter(1, saved.unsqueeze(1), relevance.unsqueeze(1)), {}


@register_converter(CBLOF)
def convert_cblof(model: CBLOF) -> Neuralized:
    """CBLOF over k-means (PyOD's default clustering)."""
    _require_fitted(model)
    clustering = model.clustering_estimator_
    if type(clustering).__name__ not in ("KMeans", "MiniBatchKMeans"):
        raise UnsupportedModelError(
            f"PyOD CBLOF over {type(clustering).__name__}: only assignment to the nearest centroid "
            "is written exactly. Nearest supported: clustering_estimator=KMeans(...)."
        )
    centers = as_tensor(model.cluster_centers_, "centroids")
    check_centroids(centers, "PyOD CBLOF")
    large = torch.zeros(len(centers), dtype=torch.bool)
    large[torch.as_tensor(model.large_cluster_labels_.copy())] = True
    sizes = as_tensor(model.cluster_sizes_) if model.use_weights else torch.ones(len(centers))
    net = OutlierNetwork(
        [SquaredDistances(centers), LargeClusterDistance(large, sizes.double())],
        n_features=centers.shape[1],
        evidence_name="distance to the nearest large cluster's centroid",
        score_map=ScoreMap(SCORE),
        width=len(centers),
        model_name="",
    )
    return _finish(net, model)
