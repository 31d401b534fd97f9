"""Options off the beaten path are either refused or exactly right, never quietly something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.covariance import GraphicalLassoCV
from sklearn.datasets import load_wine
from sklearn.decomposition import KernelPCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

from neuralize import UnsupportedModelError, neuralize

WINE = load_wine().data
WINE = (WINE - WINE.mean(0)) / WINE.std(0)
FIT, X = WINE[:120], WINE[110:130]
WEIGHTS = np.linspace(0.2, 3, 13)


def largest(model: Any) -> np.ndarray:
    return model.kneighbors(X)[0].max(1)


CASES: dict[str, Callable[[], tuple[Any, np.ndarray]]] = {}


def case(make: Callable[[], tuple[Any, np.ndarray]]) -> Callable[[], tuple[Any, np.ndarray]]:
    """A fitted model and its own score, higher where more abnormal."""
    CASES[make.__name__] = make
    return make


@case
def neighbours_weighted_minkowski() -> tuple[Any, np.ndarray]:
    model = NearestNeighbors(p=2, metric_params={"w": WEIGHTS}).fit(FIT)
    return model, largest(model)


@case
def neighbours_chebyshev() -> tuple[Any, np.ndarray]:
    model = NearestNeighbors(metric="chebyshev").fit(FIT)
    return model, largest(model)


@case
def neighbours_infinite_order() -> tuple[Any, np.ndarray]:
    model = NearestNeighbors(p=np.inf).fit(FIT)
    return model, largest(model)


@case
def neighbours_squared() -> tuple[Any, np.ndarray]:
    model = NearestNeighbors(metric="sqeuclidean").fit(FIT)
    return model, largest(model)


@case
def neighbours_callable() -> tuple[Any, np.ndarray]:
    model = NearestNeighbors(metric=lambda a, b: float(abs(a - b).max())).fit(FIT)
    return model, largest(model)


@case
def neighbours_seuclidean() -> tuple[Any, np.ndarray]:
    model = NearestNeighbors(metric="seuclidean", metric_params={"V": WEIGHTS}).fit(FIT)
    return model, largest(model)


@case
def outlier_factor_weighted_minkowski() -> tuple[Any, np.ndarray]:
    model = LocalOutlierFactor(8, novelty=True, metric_params={"w": WEIGHTS}).fit(FIT)
    return model, -model.score_samples(X)


@case
def density_minkowski() -> tuple[Any, np.ndarray]:
    model = KernelDensity(kernel="exponential", metric="minkowski", metric_params={"p": 3}).fit(FIT)
    return model, -model.score_samples(X)


@case
def density_silverman() -> tuple[Any, np.ndarray]:
    model = KernelDensity(bandwidth="silverman").fit(FIT)
    return model, -model.score_samples(X)


@case
def density_with_a_weight_of_zero() -> tuple[Any, np.ndarray]:
    weights = np.ones(len(FIT))
    weights[::3] = 1e-300
    model = KernelDensity(bandwidth=2.0).fit(FIT, sample_weight=weights)
    return model, -model.score_samples(X)


@case
def one_class_svm_weighted() -> tuple[Any, np.ndarray]:
    weights = np.linspace(0.1, 4, len(FIT))
    model = OneClassSVM(nu=0.3).fit(FIT, sample_weight=weights)
    return model, -model.decision_function(X)


@case
def one_class_svm_of_nearly_everything() -> tuple[Any, np.ndarray]:
    model = OneClassSVM(nu=0.97, shrinking=False).fit(FIT)
    return model, -model.decision_function(X)


@case
def graphical_lasso_by_cross_validation() -> tuple[Any, np.ndarray]:
    model = GraphicalLassoCV(alphas=[0.2, 0.4], cv=3).fit(FIT)
    return model, model.mahalanobis(X)


@case
def forest_weighted() -> tuple[Any, np.ndarray]:
    weights = np.linspace(0.1, 4, len(FIT))
    model = IsolationForest(n_estimators=10, random_state=0).fit(FIT, sample_weight=weights)
    return model, -model.score_samples(X)


@case
def forest_of_triples() -> tuple[Any, np.ndarray]:
    model = IsolationForest(n_estimators=10, max_samples=3, random_state=0).fit(FIT)
    return model, -model.score_samples(X)


@case
def kernel_pca_without_null_space() -> tuple[Any, np.ndarray]:
    model = KernelPCA(5, kernel="rbf", gamma=0.05, remove_zero_eig=True, eigen_solver="dense")
    model.fit(FIT)
    k = model._get_kernel(X, FIT)
    centred = 1 - 2 * k.mean(1) + model._get_kernel(FIT, FIT).mean()
    return model, centred - (model.transform(X) ** 2).sum(1)


@case
def kernel_pca_of_other_kernel_parameters() -> tuple[Any, np.ndarray]:
    model = KernelPCA(5, kernel="rbf", gamma=0.05, kernel_params={"gamma": 3.0}).fit(FIT)
    k = model._get_kernel(X, FIT)
    centred = 1 - 2 * k.mean(1) + model._get_kernel(FIT, FIT).mean()
    return model, centred - (model.transform(X) ** 2).sum(1)


def pyod(module: str, name: str, **options: Any) -> tuple[Any, np.ndarray]:
    models = pytest.importorskip(f"pyod.models.{module}")
    model = getattr(models, name)(**options).fit(FIT)
    return model, model.decision_function(X)


@case
def cblof_of_a_bisecting_tree() -> tuple[Any, np.ndarray]:
    estimator = BisectingKMeans(5, random_state=0)
    return pyod("cblof", "CBLOF", n_clusters=5, alpha=0.6, clustering_estimator=estimator)


@case
def cblof_of_given_k_means() -> tuple[Any, np.ndarray]:
    estimator = KMeans(5, n_init=1, random_state=3)
    return pyod("cblof", "CBLOF", n_clusters=5, alpha=0.6, clustering_estimator=estimator)


@case
def pyod_neighbours_weighted() -> tuple[Any, np.ndarray]:
    return pyod("knn", "KNN", metric_params={"w": WEIGHTS})


@case
def pyod_factor_manhattan() -> tuple[Any, np.ndarray]:
    return pyod("lof", "LOF", p=1, n_neighbors=9)


@case
def pyod_factor_weighted() -> tuple[Any, np.ndarray]:
    return pyod("lof", "LOF", metric_params={"w": WEIGHTS})


@case
def pyod_mixture_tied() -> tuple[Any, np.ndarray]:
    return pyod("gmm", "GMM", n_components=2, covariance_type="tied", random_state=0)


@case
def pyod_machine_polynomial() -> tuple[Any, np.ndarray]:
    return pyod("ocsvm", "OCSVM", kernel="poly")


@case
def pyod_forest_some_features() -> tuple[Any, np.ndarray]:
    return pyod("iforest", "IForest", n_estimators=10, max_features=4, random_state=0)


@case
def pyod_histograms_wide_tolerance() -> tuple[Any, np.ndarray]:
    return pyod("hbos", "HBOS", n_bins=3, tol=0.9, alpha=0.4)


@case
def pyod_pca_whitened() -> tuple[Any, np.ndarray]:
    return pyod("pca", "PCA", whiten=True, n_components=5)


@pytest.mark.parametrize("name", CASES)
def test_refused_or_right(name: str) -> None:
    model, score = CASES[name]()
    try:
        net = neuralize(model)
    except UnsupportedModelError as error:
        assert len(str(error)) > 40, "a refusal says why, and what to do"
        return
    result = net.relevance(torch.from_numpy(X))
    original = net.score_map(result.evidence).numpy()
    if np.corrcoef(original, score)[0, 1] < 0:
        score = -score  # the map ends at a method that counts the other way round
    offset = np.median(score - original)
    assert abs(offset) < 1e-9 or net.score_map.name == "decision_function"
    np.testing.assert_allclose(original + offset, score, rtol=1e-8, atol=1e-9)
    total = result.values.sum(1) + sum(result.absorbed.values())
    torch.testing.assert_close(total, result.evidence, rtol=1e-9, atol=1e-9)


def test_mixture_with_an_empty_component() -> None:
    """A component nobody belongs to takes no part, and nothing is divided by its weight."""
    model = GaussianMixture(3, covariance_type="full", random_state=0, reg_covar=1e-2).fit(FIT)
    model.weights_ = np.array([0.6, 0.4, 1e-300])
    for decision in ("cluster", "outlier"):
        net = neuralize(model, decision=decision)
        target = None if decision == "outlier" else 0
        result = net.relevance(torch.from_numpy(X), target)
        assert bool(torch.isfinite(result.values).all())
        total = result.values.sum(1) + sum(result.absorbed.values())
        torch.testing.assert_close(total, result.evidence, rtol=1e-9, atol=1e-8)
