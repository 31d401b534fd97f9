"""Gaussian kernel k-means, the estimator and its network (arXiv 1906.07633).

A cluster's distance is the soft minimum over its support vectors, ``o_k(x) = -(1/g) log sum_{j in
C_k} a_j exp(-g ||x - u_j||^2)``, and the evidence ``f_c = min_{k != c} h_k``, ``h_k = o_k - o_c``.
This is the paper's form; it leaves out the norm of the cluster means that feature-space k-means
subtracts.

Two ways to explain ``h_k``, both summing to it:

- ``"stable"`` (default, derived): ``R(o_k) - R(o_c)``, each by take-most and the distance rule;
- ``"midpoint"`` (the paper's): ``h_k`` as soft-max over ``i in C_c`` and soft-min over ``j in C_k``
  of the linear ``h_ij = ||x - u_j||^2 - ||x - u_i||^2``, then the midpoint rule. Its terms divide
  by ``h_ij``, which may be near zero or negative although ``h_k`` is not: maps can explode.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import InputError
from neuralize.kmeans import ClusterNetwork, Stiffness
from neuralize.layers import ClusterContrast, SquaredDistances
from neuralize.propagate import Layer
from neuralize.rules import soft_min_weights, take_most


class KernelKMeans(ClusterMixin, BaseEstimator):
    """Gaussian kernel k-means with scikit-learn's interface.

    Clusters are found by kernel k-means in feature space; each is then summarised by support
    vectors (its points, or prototypes from k-means inside it), and points are assigned by their
    soft minimum.

    Parameters
    ----------
    n_clusters
        Number of clusters.
    gamma
        Kernel stiffness, or ``"scale"``: ``1 / (d var(X))``.
    n_support
        Support vectors per cluster at most; all points of the cluster when None.
    n_init, max_iter
        Restarts, and iterations each.
    random_state
        Seed.

    Attributes
    ----------
    support_vectors_, support_labels_, support_weights_
        ``(M, d)``, ``(M,)`` and ``(M,)``; the weights sum to one in every cluster.
    labels_
        ``predict`` of the training points ``(n,)``.
    gamma_, center_
        The stiffness used, and the mean of the data ``(d,)``.

    Examples
    --------
    >>> x = np.array([[0.0, 0.0], [0.1, 0.0], [3.0, 3.0], [3.1, 3.0]])
    >>> model = KernelKMeans(2, gamma=1.0, random_state=0).fit(x)
    >>> bool(model.labels_[0] == model.labels_[1] != model.labels_[2])
    True
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        gamma: float | str = "scale",
        n_support: int | None = None,
        n_init: int = 4,
        max_iter: int = 100,
        random_state: int | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.gamma = gamma
        self.n_support = n_support
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Cluster ``X`` ``(n, d)``; ``y`` is ignored."""
        X = validate_data(self, X, dtype=np.float64)
        if self.n_support is not None and self.n_support < 1:
            raise InputError(f"Expected n_support >= 1 or None, got {self.n_support}.")
        if not 1 <= self.n_clusters <= len(X):
            raise InputError(f"Expected 1 to {len(X)} clusters, got {self.n_clusters}.")
        self.gamma_ = self._stiffness(X)
        random = check_random_state(self.random_state)
        self.center_ = X.mean(0)  # the kernel knows differences only, which lose no digits here
        kernel = rbf_kernel(X - self.center_, gamma=self.gamma_)
        runs = [self._lloyd(X, kernel, random) for _ in range(self.n_init)]
        self.inertia_, labels = min(runs, key=lambda run: run[0])
        vectors, owners, weights = [], [], []
        for k in range(self.n_clusters):
            points = X[labels == k]
            share = np.full(len(points), 1 / len(points))
            if self.n_support is not None and len(points) > self.n_support:
                inner = KMeans(self.n_support, n_init=1, random_state=random).fit(points)
                share = np.bincount(inner.labels_, minlength=self.n_support) / len(points)
                points = inner.cluster_centers_
            vectors.append(points)
            owners.append(np.full(len(points), k))
            weights.append(share)
        self.support_vectors_ = np.concatenate(vectors)
        self.support_labels_ = np.concatenate(owners)
        self.support_weights_ = np.concatenate(weights)
        self.labels_ = self.predict(X)
        return self

    def _stiffness(self, X: NDArray[Any]) -> float:
        if self.gamma == "scale":
            variance = X.var()
            return float(1 / (X.shape[1] * variance)) if variance > 0 else 1.0
        if isinstance(self.gamma, str) or not self.gamma > 0:
            raise InputError(f"Expected gamma > 0 or 'scale', got {self.gamma!r}.")
        return float(self.gamma)

    def _lloyd(
        self, X: NDArray[Any], kernel: NDArray[Any], random: Any
    ) -> tuple[float, NDArray[Any]]:
        """One run in feature space: ``||phi(x) - m_k||^2 = 1 - 2 mean_k k(x, .) + mean_kk k``."""
        seeds, _ = kmeans_plusplus(X, self.n_clusters, random_state=random)
        labels = euclidean_distances(X, seeds).argmin(1)
        distance = np.zeros((len(X), self.n_clusters))
        for _ in range(self.max_iter):
            for k in range(self.n_clusters):
                members = labels == k
                if not members.any():
                    # An emptied cluster restarts at the point its own cluster explains worst.
                    members = np.zeros(len(X), dtype=bool)
                    members[distance[np.arange(len(X)), labels].argmax()] = True
                within = kernel[np.ix_(members, members)].mean()
                distance[:, k] = 1 - 2 * kernel[:, members].mean(1) + within
            new = distance.argmin(1)
            if (new == labels).all():
                break
            labels = new
        inertia = float(distance[np.arange(len(X)), labels].sum())
        empty = np.setdiff1d(np.arange(self.n_clusters), labels)
        labels = labels.copy()
        for k in empty:  # possible at the last iteration only; every cluster needs a support vector
            crowded = np.bincount(labels, minlength=self.n_clusters)[labels] > 1
            worst = np.where(crowded, distance[np.arange(len(X)), labels], -np.inf).argmax()
            labels[worst] = k
        return inertia, labels

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Soft minimum ``o_k`` of the squared distance to every cluster ``(n, K)``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        support = self.support_vectors_ - self.center_
        scores = -self.gamma_ * euclidean_distances(X - self.center_, support, squared=True)
        columns = []
        for k in range(self.n_clusters):
            own = self.support_labels_ == k
            columns.append(logsumexp(scores[:, own], b=self.support_weights_[own], axis=1))
        o: NDArray[Any] = -np.stack(columns, 1) / self.gamma_
        return o

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Cluster of every row ``(n,)``."""
        nearest: NDArray[Any] = self.transform(X).argmin(1)
        return nearest


class GroupSoftMin(Layer):
    """``o_k = -(1/g) log sum_{j in C_k} a_j exp(-g h_j)``, ``(n, M) -> (n, K)``; take-most.

    Parameters
    ----------
    sizes
        Group sizes; the support vectors are sorted by group.
    stiffness
        ``g``.
    log_weights
        ``log a_j`` ``(M,)``.
    """

    log_weights: Tensor

    def __init__(self, sizes: list[int], stiffness: float, log_weights: Tensor) -> None:
        super().__init__()
        self.sizes, self.stiffness = sizes, stiffness
        self.register_buffer("log_weights", log_weights)

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        scores = (self.log_weights - self.stiffness * x).split(self.sizes, 1)
        pooled = [group.logsumexp(1) for group in scores]
        return -torch.stack(pooled, 1) / self.stiffness, None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        groups = zip(x.split(self.sizes, 1), self.log_weights.split(self.sizes), strict=True)
        parts = [
            take_most(soft_min_weights(h, self.stiffness, log_a), relevance[:, k])
            for k, (h, log_a) in enumerate(groups)
        ]
        return torch.cat(parts, 1), {}


class PairwiseContrast(ClusterContrast):
    """The paper's pairwise form of ``f_c`` from squared distances, ``(n, M) -> (n,)``.

    Rule: ``R_ijk = p_i q_j R_k`` to the discriminants ``h_j - h_i``, ``i in C_c``, ``j in C_k``,
    then the midpoint rule. A pair at exactly equal distance has no direction; its share is
    absorbed.
    """

    def __init__(self, target: Tensor | None, stiffness: float, pool: GroupSoftMin) -> None:
        super().__init__(target, stiffness)
        self.pool = pool

    def compute(self, x: Tensor) -> tuple[Tensor, Any]:
        return super().compute(self.pool.compute(x)[0])

    def split(
        self, x: Tensor, z: Tensor, saved: Any, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.target is not None
        share = self.shares(saved, z, relevance)
        pooled = torch.where(share != 0, share * saved, torch.zeros_like(share))
        r, lost = torch.zeros_like(x), torch.zeros_like(z)
        sizes = self.pool.sizes
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = [slice(int(a), int(b)) for a, b in pairwise(starts)]
        weights = torch.cat(
            [
                soft_min_weights(x[:, g], self.pool.stiffness, self.pool.log_weights[g])
                for g in groups
            ],
            1,
        )
        for c in self.target.unique().tolist():
            rows = (self.target == c).nonzero()[:, 0]
            own = groups[c]
            d_i, p = x[rows, own].unsqueeze(2), weights[rows, own].unsqueeze(2)
            for k, group in enumerate(groups):
                if k == c:
                    continue
                d_j, q = x[rows, group].unsqueeze(1), weights[rows, group].unsqueeze(1)
                share, gap = p * q * pooled[rows, k][:, None, None], d_j - d_i
                level = gap.abs() <= 32 * torch.finfo(gap.dtype).eps * (d_j + d_i)
                s = (share / gap).masked_fill_(level, 0)
                lost[rows] += share.masked_fill(~level, 0).sum((1, 2))
                r[rows, group] += s.sum(1) * d_j[:, 0]
                r[rows, own] -= s.sum(2) * d_i[:, :, 0]
        return r, {"equidistant pairs": lost} if bool((lost != 0).any()) else {}


class KernelClusterNetwork(ClusterNetwork):
    """Kernel k-means as a network; ``form`` is ``"stable"`` or ``"midpoint"``."""

    def __init__(
        self, support: SquaredDistances, pool: GroupSoftMin, form: str, **common: Any
    ) -> None:
        super().__init__(support, len(pool.sizes), **common)
        self.pool, self.form = pool, form

    def chain(self, target: Tensor | None) -> Sequence[nn.Module]:
        if self.form == "midpoint":
            return [self.distances, PairwiseContrast(target, self.stiffness, self.pool)]
        return [self.distances, self.pool, ClusterContrast(target, self.stiffness)]

    def cluster_distances(self, z: Tensor) -> Tensor:
        o: Tensor = self.pool(self.distances(z))
        return o


@register_converter(KernelKMeans)
def convert_kernel_kmeans(
    model: KernelKMeans,
    *,
    form: Literal["stable", "midpoint"] = "stable",
    stiffness: Stiffness = "paper",
    data: ArrayLike | None = None,
) -> KernelClusterNetwork:
    """Kernel k-means. The paper's stiffness uses ``data``, or the support vectors when missing."""
    require_fitted(model)
    if form not in ("stable", "midpoint"):
        raise InputError(f"Expected form 'stable' or 'midpoint', got {form!r}.")
    order = np.argsort(model.support_labels_, kind="stable")
    sizes = np.bincount(model.support_labels_).tolist()
    if len(sizes) < 2:
        raise InputError(
            "Expected at least two clusters, got 1 in KernelKMeans: with one there is no decision "
            "to explain. For distances to one set of points use KernelDensity."
        )
    support = as_tensor(model.support_vectors_[order], "support vectors")
    log_weights = as_tensor(model.support_weights_[order], "support weights").log()
    net = KernelClusterNetwork(
        SquaredDistances(support),
        GroupSoftMin(sizes, model.gamma_, log_weights),
        form,
        n_features=support.shape[1],
        evidence_name="soft squared distance to the nearest other cluster minus to its own",
        width=len(support) if form == "stable" else max(sizes) ** 2,
        model_name="KernelKMeans",
    )
    net.set_stiffness(stiffness, support if data is None else as_tensor(data, "data"))
    return net
