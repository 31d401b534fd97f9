"""K-means as a network (Kauffmann et al., From Clustering to Cluster Explanations).

The evidence for cluster ``c`` is the gap between the squared distances to the nearest other
centroid and to its own,

    ``f_c(x) = min_{k != c} h_k``,  ``h_k = ||x - mu_k||^2 - ||x - mu_c||^2 = w_k . (x - m_k)``,

with ``w_k = 2 (mu_c - mu_k)`` and ``m_k`` half way between the two: positive iff ``x`` is assigned
to ``c``. Relevance goes through the minimum by take-most with stiffness ``beta`` and through
``h_k`` by the midpoint rule. arXiv 1906.07633, IEEE TNNLS 35(2), 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from torch import Tensor, nn

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import InputError, UnsupportedModelError
from neuralize.layers import ClusterContrast, SquaredDistances
from neuralize.network import Kind, Neuralized
from neuralize.rules import paper_stiffness
from neuralize.score_map import ScoreMap

Stiffness = float | Literal["paper"]


class CentroidContrast(ClusterContrast):
    """:class:`ClusterContrast` of squared distances to centroids, ``(n, d) -> (n,)``, in one layer.

    The rule is the midpoint rule in closed form: ``s_k`` is already relevance per unit of distance,
    so ``R_i = sum_k s_k [(x_i - mu_ki)^2 - (x_i - mu_ci)^2]`` takes two matrix products.
    """

    def __init__(
        self, distances: SquaredDistances, target: Tensor | None, stiffness: float
    ) -> None:
        super().__init__(target, stiffness)
        self.distances = distances

    def compute(self, x: Tensor) -> tuple[Tensor, Any]:
        point = self.distances.point(x)
        z, gaps = super().compute(self.distances.relative(point))
        return z, (point, gaps)

    def split(
        self, x: Tensor, z: Tensor, saved: Any, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        point, gaps = saved
        w = self.weights(z, gaps, relevance)
        return self.distances.products(point, w, balanced=True), {}


class ClusterNetwork(Neuralized):
    """Clusterings by nearest centroid: evidence ``(n, K)``, stiffness settable at any time.

    Attributes
    ----------
    stiffness
        ``beta`` of the take-most rule over competing clusters.
    """

    kind: ClassVar[Kind] = "cluster"

    def __init__(self, distances: SquaredDistances, n_clusters: int, **common: Any) -> None:
        super().__init__(score_map=ScoreMap("evidence"), threshold=0.0, **common)
        self.distances = distances
        self.stiffness = math.inf
        self._n_clusters = n_clusters

    @property
    def n_clusters(self) -> int:
        """Number of clusters ``K``."""
        return self._n_clusters

    def chain(self, target: Tensor | None) -> Sequence[nn.Module]:
        return [CentroidContrast(self.distances, target, self.stiffness)]

    def all_evidence(self, z: Tensor) -> Tensor:
        d = self.cluster_distances(z)
        nearest, second = d.topk(2, dim=1, largest=False).values.unbind(1)
        first = d == nearest.unsqueeze(1)
        # Where the nearest is tied, the second smallest equals it: zero evidence for both.
        return torch.where(first, second.unsqueeze(1), nearest.unsqueeze(1)) - d

    def cluster_distances(self, z: Tensor) -> Tensor:
        """What the clusters are compared by ``(n, K)``, the smallest wins."""
        return self.distances.relative(self.distances.point(z))

    def fold_projection(self, matrix: Tensor, offset: Tensor) -> bool:
        return self.distances.fold_projection(matrix, offset)

    def set_stiffness(self, stiffness: Stiffness, points: Tensor) -> None:
        """Set ``stiffness``; the paper's choice is computed from the evidence of ``points``."""
        if stiffness == "paper":
            with torch.no_grad():
                self.stiffness = paper_stiffness(self.all_evidence(points))
            return
        if isinstance(stiffness, str) or not stiffness >= 0:
            raise InputError(f"Expected a stiffness >= 0, inf or 'paper', got {stiffness!r}.")
        self.stiffness = float(stiffness)


def centroid_network(
    centroids: ArrayLike, model_name: str, stiffness: Stiffness, data: ArrayLike | None
) -> ClusterNetwork:
    """The k-means network of ``(K, d)`` centroids."""
    mu = as_tensor(centroids, "centroids")
    if mu.ndim != 2:
        raise InputError(f"Expected centroids of shape (K, d), got {tuple(mu.shape)}.")
    check_centroids(mu, model_name)
    net = ClusterNetwork(
        SquaredDistances(mu),
        len(mu),
        n_features=mu.shape[1],
        evidence_name="squared distance to the nearest other centroid minus to its own",
        width=len(mu),
        model_name=model_name,
    )
    net.set_stiffness(stiffness, mu if data is None else as_tensor(data, "data"))
    return net


def check_centroids(mu: Tensor, model_name: str) -> None:
    """Refuse a single cluster and identical centroids: neither leaves a decision to explain."""
    if len(mu) < 2:
        raise InputError(
            f"Expected at least two clusters, got {len(mu)} in {model_name}: with one there is no "
            "decision to explain. For distances to a single centre use EllipticEnvelope or KDE."
        )
    same = (torch.cdist(mu, mu) == 0).triu(1).nonzero()
    if len(same):
        i, j = same[0].tolist()
        raise InputError(
            f"Clusters {i} and {j} of {model_name} have the same centroid, so the evidence for "
            "both is zero everywhere. Refit with fewer clusters."
        )


@register_converter(KMeans)
@register_converter(MiniBatchKMeans)
def convert_kmeans(
    model: Any, *, stiffness: Stiffness = "paper", data: ArrayLike | None = None
) -> ClusterNetwork:
    """K-means. The paper's stiffness uses ``data`` ``(n, d)``, or the centroids when missing."""
    require_fitted(model)
    return centroid_network(model.cluster_centers_, type(model).__name__, stiffness, data)


@register_converter(np.ndarray)
@register_converter(torch.Tensor)
def convert_centroids(
    model: Any, *, stiffness: Stiffness = "paper", data: ArrayLike | None = None
) -> ClusterNetwork:
    """A bare ``(K, d)`` array of centroids, as k-means."""
    array = model.detach().cpu().numpy() if isinstance(model, Tensor) else model
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"Expected a numeric array of centroids, got dtype {array.dtype}.")
    return centroid_network(array, "centroids", stiffness, data)


class PathContrast(CentroidContrast):
    """``f_c = min over splits on c's path of (d_sibling - d_own)``, shared by take-most.

    Parameters
    ----------
    distances
        Squared distances to the nodes of the tree.
    target
        Cluster per row ``(n,)``.
    stiffness
        As in :class:`~neuralize.layers.ClusterContrast`.
    own, sibling
        Nodes on the path to every cluster and their siblings ``(K, depth)``, padded with -1.
    """

    def __init__(
        self,
        distances: SquaredDistances,
        target: Tensor | None,
        stiffness: float,
        own: Tensor,
        sibling: Tensor,
    ) -> None:
        super().__init__(distances, target, stiffness)
        self.own, self.sibling = own, sibling

    def compute(self, x: Tensor) -> tuple[Tensor, Any]:
        point = self.distances.point(x)
        d = self.distances.relative(point)
        if self.target is None:
            self.target = path_gaps(d.detach(), self.own, self.sibling).amin(2).argmax(1)
        own, sibling = self.own[self.target], self.sibling[self.target]
        gaps = d.gather(1, sibling.clamp(min=0)) - d.gather(1, own.clamp(min=0))
        gaps = gaps.masked_fill(own < 0, math.inf)
        return gaps.amin(1), (point, gaps)

    def weights(self, z: Tensor, gaps: Tensor, relevance: Tensor) -> Tensor:
        assert self.target is not None
        s = self.shares(gaps, z, relevance)  # zero at the padding
        own, sibling = self.own[self.target].clamp(min=0), self.sibling[self.target].clamp(min=0)
        w = s.new_zeros(len(s), len(self.distances.support))
        return w.scatter_add_(1, sibling, s).scatter_add_(1, own, -s)


def path_gaps(d: Tensor, own: Tensor, sibling: Tensor) -> Tensor:
    """Gaps at every split on every path ``(n, K, depth)`` from node distances ``(n, nodes)``."""
    gaps = d[:, sibling.clamp(min=0)] - d[:, own.clamp(min=0)]
    return gaps.masked_fill(own < 0, math.inf)


class BisectingNetwork(ClusterNetwork):
    """Bisecting k-means: a cluster is a leaf, reached by winning every split on its path.

    ``f_c(x) = min over the splits on the path to c of ||x - mu_sibling||^2 - ||x - mu_own||^2``:
    the same minimum of linear functions as k-means, over the path instead of over the other
    clusters, and equal to ``BisectingKMeans.predict``, which is *not* the nearest leaf centroid.
    """

    own: Tensor
    sibling: Tensor

    def __init__(self, nodes: Tensor, own: Tensor, sibling: Tensor, **common: Any) -> None:
        super().__init__(SquaredDistances(nodes), len(own), **common)
        self.register_buffer("own", own)
        self.register_buffer("sibling", sibling)

    def chain(self, target: Tensor | None) -> Sequence[nn.Module]:
        return [PathContrast(self.distances, target, self.stiffness, self.own, self.sibling)]

    def all_evidence(self, z: Tensor) -> Tensor:
        evidence: Tensor = path_gaps(self.cluster_distances(z), self.own, self.sibling).amin(2)
        return evidence


@register_converter(BisectingKMeans)
def convert_bisecting(
    model: BisectingKMeans, *, stiffness: Stiffness = "paper", data: ArrayLike | None = None
) -> BisectingNetwork:
    """Bisecting k-means, by its tree of splits."""
    require_fitted(model)
    check_centroids(as_tensor(model.cluster_centers_, "centroids"), "BisectingKMeans")
    root = getattr(model, "_bisecting_tree", None)
    if root is None:
        raise UnsupportedModelError(
            "This BisectingKMeans carries no tree of splits, which its decision needs; refit it "
            "with the installed scikit-learn."
        )
    shift = getattr(model, "_X_mean", 0.0)
    nodes: list[Any] = []
    paths: dict[int, list[tuple[int, int]]] = {}

    def descend(node: Any, path: list[tuple[int, int]]) -> None:
        if node.left is None:
            paths[int(node.label)] = path
            return
        left = len(nodes)
        nodes.extend([node.left.center + shift, node.right.center + shift])
        descend(node.left, [*path, (left, left + 1)])
        descend(node.right, [*path, (left + 1, left)])

    descend(root, [])
    depth = max(map(len, paths.values()))
    table = np.full((2, len(paths), depth), -1)
    for label, path in paths.items():
        table[:, label, : len(path)] = np.array(path).T
    net = BisectingNetwork(
        as_tensor(np.array(nodes)),
        *torch.from_numpy(table),
        n_features=model.cluster_centers_.shape[1],
        evidence_name="smallest gap of squared distances over the splits on the path",
        width=max(len(nodes), table[0].size),
        model_name="BisectingKMeans",
    )
    points = as_tensor(model.cluster_centers_) if data is None else as_tensor(data, "data")
    net.set_stiffness(stiffness, points)
    return net
