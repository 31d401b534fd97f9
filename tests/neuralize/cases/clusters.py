"""k-means and its relatives, kernel k-means, mixtures as clusterings."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from neuralize import KernelKMeans, neuralize
from tests.neuralize import oracles
from tests.neuralize.cases.data import Cases, Split, load, subject
from tests.subject import Array, Subject


def centroids_of(model: Any) -> Array:
    return model if isinstance(model, np.ndarray) else model.cluster_centers_


def nearest_centroid(model: Any, rows: Split, **options: Any) -> Subject:
    centroids = centroids_of(model).copy()
    return subject(
        model,
        partial(neuralize, **options),
        rows,
        lambda net: oracles.NearestCentroid(
            oracles.squared(centroids), len(centroids), net.stiffness
        ),
        special=centroids,
    )


def k_means(name: str, k: int, *, raw: bool = False, **options: Any) -> Subject:
    data = load(name, raw=raw)
    model = KMeans(k, n_init=1, random_state=0).fit(data.fit)
    return nearest_centroid(model, data, **options)


def mini_batch() -> Subject:
    data = load("wine")
    model = MiniBatchKMeans(3, n_init=1, random_state=0, batch_size=256).fit(data.fit)
    return nearest_centroid(model, data, data=data.fit)


def centroid_array() -> Subject:
    data = load("breast_cancer")
    return nearest_centroid(data.fit[:5].copy(), data, stiffness=0.05)


def k_means_of_repeated_rows() -> Subject:
    data = load("iris", raw=True)
    model = KMeans(4, n_init=1, random_state=0).fit(np.repeat(data.fit, 3, 0))
    return nearest_centroid(model, data)


def bisecting(name: str, k: int, *, raw: bool = False, **options: Any) -> Subject:
    data = load(name, raw=raw)
    model = BisectingKMeans(k, random_state=0).fit(data.fit)
    return subject(
        model,
        partial(neuralize, **options),
        data,
        lambda net: oracles.BisectingTree(model, oracles.squared, net.stiffness),
        special=model.cluster_centers_,
    )


def kernel_k_means(
    name: str,
    k: int,
    *,
    n_support: int | None,
    form: str = "stable",
    raw: bool = False,
    **options: Any,
) -> Subject:
    data = load(name, raw=raw)
    model = KernelKMeans(n_clusters=k, n_support=n_support, random_state=0).fit(data.fit)
    return subject(
        model,
        partial(neuralize, form=form, **options),
        data,
        lambda net: oracles.KernelClusters(
            oracles.squared,
            model.support_vectors_,
            model.support_labels_,
            model.support_weights_,
            model.gamma_,
            net.stiffness,
            form,
        ),
        special=model.support_vectors_,
    )


def log_odds(model: Any, x: Array) -> Array:
    """``log p_c / (1 - p_c)`` from the model's own log probabilities: its ``p`` saturates."""
    joint = model._estimate_weighted_log_prob(x)
    others = [logsumexp(np.delete(joint, c, 1), 1) for c in range(joint.shape[1])]
    return joint - np.stack(others, 1)


def mixture(
    name: str,
    form: str,
    prior: str | None = None,
    decision: str = "cluster",
    k: int = 3,
    *,
    raw: bool = False,
) -> Subject:
    data = load(name, raw=raw)
    options = {"n_components": k, "covariance_type": form, "random_state": 0, "max_iter": 500}
    if prior is None:
        model = GaussianMixture(reg_covar=1e-2, **options).fit(data.fit)
    else:
        model = BayesianGaussianMixture(
            weight_concentration_prior_type=prior, reg_covar=1e-2, **options
        ).fit(data.fit)
    oracle = oracles.Mixture(
        oracles.energies(model.means_, oracles.mixture_precisions(model)),
        oracles.mixture_constants(model),
        decision,
    )
    return subject(
        model,
        partial(neuralize, decision=decision),
        data,
        lambda net: oracle,
        special=model.means_,
        native=log_odds if decision == "cluster" else None,
    )


CLUSTERS: Cases = {
    "kmeans-wine": partial(k_means, "wine", 3),
    "kmeans-wine-raw": partial(k_means, "wine", 4, raw=True),
    "kmeans-digits-hard": partial(k_means, "digits", 6, raw=True, stiffness=math.inf),
    "kmeans-iris-uniform": partial(k_means, "iris", 3, raw=True, stiffness=0.0),
    "kmeans-two-clusters": partial(k_means, "breast_cancer", 2),
    "kmeans-repeated-rows": k_means_of_repeated_rows,
    "minibatch-kmeans-wine": mini_batch,
    "centroids-breast_cancer": centroid_array,
    "bisecting-kmeans-wine": partial(bisecting, "wine", 5),
    "bisecting-kmeans-iris-raw": partial(bisecting, "iris", 4, raw=True),
    "bisecting-kmeans-digits-hard": partial(bisecting, "digits", 6, stiffness=math.inf),
    "kernel-kmeans-wine": partial(kernel_k_means, "wine", 3, n_support=None),
    "kernel-kmeans-digits-support": partial(kernel_k_means, "digits", 4, n_support=6),
    "kernel-kmeans-iris-raw": partial(kernel_k_means, "iris", 3, n_support=10, raw=True),
    "kernel-kmeans-midpoint": partial(
        kernel_k_means, "wine", 3, n_support=5, form="midpoint", stiffness=1.0
    ),
    **{
        f"mixture-{form}-{name}": partial(mixture, name, form)
        for form, name in [
            ("full", "wine"),
            ("tied", "iris"),
            ("diag", "breast_cancer"),
            ("spherical", "wine"),
        ]
    },
    **{
        f"bayesian-mixture-{form}-{prior}": partial(mixture, "iris", form, f"dirichlet_{prior}")
        for prior in ("process", "distribution")
        for form in ("full", "tied", "diag", "spherical")
    },
    **{
        f"mixture-outlier-{form}": partial(mixture, name, form, None, "outlier")
        for form, name in [
            ("full", "wine"),
            ("tied", "wine"),
            ("diag", "digits"),
            ("spherical", "breast_cancer"),
        ]
    },
    "mixture-iris-raw": partial(mixture, "iris", "full", raw=True),
    "mixture-outlier-iris-raw": partial(mixture, "iris", "tied", decision="outlier", raw=True),
    "mixture-outlier-one-component": partial(mixture, "wine", "full", None, "outlier", 1),
    "bayesian-mixture-outlier": partial(mixture, "wine", "full", "dirichlet_process", "outlier"),
}
