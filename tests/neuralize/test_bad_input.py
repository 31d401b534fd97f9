"""Wrong use is answered with an error that says what to do, never with a number."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import (
    DBSCAN,
    AgglomerativeClustering,
    BisectingKMeans,
    KMeans,
    MiniBatchKMeans,
)
from sklearn.compose import ColumnTransformer
from sklearn.covariance import EllipticEnvelope, EmpiricalCovariance, MinCovDet
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA, IncrementalPCA, KernelPCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.svm import OneClassSVM

from neuralize import (
    SVDD,
    InputError,
    KernelKMeans,
    UnfittedModelError,
    UnsupportedModelError,
    XaiError,
    neuralize,
)

WINE = load_wine().data[:90]
WINE = (WINE - WINE.mean(0)) / WINE.std(0)

FITTED: dict[str, Callable[[], Any]] = {
    "kmeans": lambda: KMeans(3, n_init=1, random_state=0).fit(WINE),
    "kernel-kmeans": lambda: KernelKMeans(3, n_support=5, random_state=0).fit(WINE),
    "mixture": lambda: GaussianMixture(2, covariance_type="diag", random_state=0).fit(WINE),
    "kde": lambda: KernelDensity(bandwidth=1.0).fit(WINE),
    "one-class-svm": lambda: OneClassSVM(nu=0.2).fit(WINE),
    "svdd": lambda: SVDD(nu=0.2).fit(WINE),
    "covariance": lambda: EmpiricalCovariance().fit(WINE),
    "pca": lambda: PCA(3).fit(WINE),
    "kernel-pca": lambda: KernelPCA(3, kernel="rbf").fit(WINE),
    "neighbours": lambda: NearestNeighbors(n_neighbors=3).fit(WINE),
    "lof": lambda: LocalOutlierFactor(5, novelty=True).fit(WINE),
    "forest": lambda: IsolationForest(n_estimators=5, random_state=0).fit(WINE),
    "pipeline": lambda: make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)).fit(
        WINE
    ),
}
CLUSTERINGS = ("kmeans", "kernel-kmeans", "mixture", "pipeline")


def rows(n: int = 4) -> torch.Tensor:
    return torch.from_numpy(WINE[:n].copy())


def refuses(error: type[Exception], *words: str) -> Any:
    """The error, with every word in its message, in any case."""
    return pytest.raises(error, match="".join(f"(?=.*(?i:{word}))" for word in words))


# -- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(name: str, bad: float) -> None:
    x = rows()
    x[2, 5] = bad
    with refuses(InputError, "finite", "row 2", "impute|drop"):
        neuralize(FITTED[name]()).relevance(x)


@pytest.mark.parametrize("name", FITTED)
def test_wrong_width(name: str) -> None:
    net = neuralize(FITTED[name]())
    with refuses(InputError, "13", "12"):
        net.relevance(rows()[:, :12])
    with refuses(InputError, "13", "14"):
        net(torch.cat([rows(), rows()[:, :1]], 1))
    with refuses(InputError, "13"):
        net.evidence(rows()[0])


@pytest.mark.parametrize("name", FITTED)
def test_empty_batch(name: str) -> None:
    with refuses(InputError, "at least one row"):
        neuralize(FITTED[name]()).relevance(torch.zeros(0, 13))


@pytest.mark.parametrize("name", FITTED)
def test_integers_and_single_precision_are_taken(name: str) -> None:
    net = neuralize(FITTED[name]())
    whole = rows().round()
    expected = net.relevance(whole).values
    for same in (whole.long(), whole.float(), whole.to(torch.int8)):
        assert torch.equal(net.relevance(same).values, expected)


# -- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_targets_that_do_not_exist(name: str) -> None:
    net = neuralize(FITTED[name]())
    last = net.n_clusters - 1
    for target in (last + 1, -1, torch.tensor([0, 0, 0, 99])):
        with refuses(InputError, f"0 to {last}"):
            net.relevance(rows(), target)
        with refuses(InputError, f"0 to {last}"):
            net.evidence(rows(), target)


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_targets_of_the_wrong_form(name: str) -> None:
    net = neuralize(FITTED[name]())
    for target in (torch.zeros(3, dtype=torch.long), torch.zeros(4, 1, dtype=torch.long)):
        with refuses(InputError, "4 targets", "one per row"):
            net.relevance(rows(), target)
    for target in (torch.zeros(4), 0.0, torch.zeros(4, dtype=torch.bool)):
        with refuses(InputError, "integer"):
            net.relevance(rows(), target)


@pytest.mark.parametrize("name", sorted(set(FITTED) - set(CLUSTERINGS)))
def test_outlier_scores_have_no_target(name: str) -> None:
    net = neuralize(FITTED[name]())
    with refuses(InputError, "no target", "outlier score"):
        net.relevance(rows(), 0)
    with pytest.raises(XaiError, match="no clusters"):
        _ = net.n_clusters


def test_outputs_that_do_not_exist() -> None:
    net = neuralize(FITTED["kde"]())
    with refuses(InputError, "score", "margin", "probability"):
        net.relevance(rows(), output="probability")
    with refuses(InputError, "no threshold"):
        net.relevance(rows(), output="margin")
    with refuses(UnsupportedModelError, "no threshold", "quantile|set"):
        net.predict(rows())


def test_a_composite_needs_an_encoder() -> None:
    with refuses(InputError, "composite", "encoder"):
        neuralize(FITTED["kmeans"]()).relevance(rows(), composite=object())


# -- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        KMeans(3),
        MiniBatchKMeans(3),
        BisectingKMeans(3),
        KernelKMeans(3),
        GaussianMixture(2),
        BayesianGaussianMixture(n_components=2),
        KernelDensity(),
        OneClassSVM(),
        SVDD(),
        EmpiricalCovariance(),
        MinCovDet(),
        EllipticEnvelope(),
        PCA(2),
        IncrementalPCA(2),
        KernelPCA(2),
        NearestNeighbors(),
        LocalOutlierFactor(novelty=True),
        IsolationForest(),
        make_pipeline(StandardScaler(), KMeans(3)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_unfitted(model: Any) -> None:
    with refuses(UnfittedModelError, "not fitted", "fit"):
        neuralize(model)


def test_pipeline_with_an_unfitted_step() -> None:
    fitted = KMeans(3, n_init=1, random_state=0).fit(WINE)
    with refuses(UnfittedModelError, "not fitted"):
        neuralize(Pipeline([("scale", StandardScaler()), ("cluster", fitted)]))


@pytest.mark.parametrize(
    "model",
    [
        DBSCAN().fit(WINE),
        AgglomerativeClustering(3).fit(WINE),
        LogisticRegression().fit(WINE, WINE[:, 0] > 0),
        StandardScaler().fit(WINE),
        "a path",
        None,
        object(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_unknown_models(model: Any) -> None:
    with refuses(UnsupportedModelError, type(model).__name__, "register_converter"):
        neuralize(model)
    with refuses(UnsupportedModelError, type(model).__name__):
        neuralize(model, some_option=1)


@pytest.mark.parametrize("name", FITTED)
def test_unknown_options(name: str) -> None:
    with refuses(UnsupportedModelError, "sharpness"):
        neuralize(FITTED[name](), sharpness=2.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kmeans", {"stiffness": -1.0}),
        ("kmeans", {"stiffness": float("nan")}),
        ("kmeans", {"stiffness": "soft"}),
        ("kernel-kmeans", {"form": "published"}),
        ("mixture", {"decision": "density"}),
        ("covariance", {"split": "positive"}),
        ("pca", {"split": "positive"}),
        ("neighbours", {"aggregation": "sum"}),
    ],
)
def test_unknown_values_of_options(name: str, options: dict[str, Any]) -> None:
    (value,) = options.values()
    with refuses(XaiError, str(value).removesuffix(".0").removeprefix("-")):
        neuralize(FITTED[name](), **options)


@pytest.mark.parametrize("kernel", ["tophat", "epanechnikov", "linear", "cosine"])
def test_density_kernels_without_a_network(kernel: str) -> None:
    with refuses(UnsupportedModelError, kernel, "gaussian"):
        neuralize(KernelDensity(kernel=kernel).fit(WINE))


@pytest.mark.parametrize("metric", ["manhattan", "chebyshev"])
def test_gaussian_density_of_other_distances(metric: str) -> None:
    with refuses(UnsupportedModelError, metric, "euclidean"):
        neuralize(KernelDensity(metric=metric).fit(WINE))


@pytest.mark.parametrize("option", ["atol", "rtol"])
def test_approximate_densities(option: str) -> None:
    with refuses(UnsupportedModelError, option):
        neuralize(KernelDensity(**{option: 1e-3}).fit(WINE))


@pytest.mark.parametrize("kernel", ["linear", "poly", "sigmoid"])
def test_one_class_kernels_without_a_network(kernel: str) -> None:
    with refuses(UnsupportedModelError, kernel, "rbf"):
        neuralize(OneClassSVM(kernel=kernel).fit(WINE))


@pytest.mark.parametrize("kernel", ["poly", "sigmoid", "cosine", "precomputed"])
def test_feature_spaces_without_a_network(kernel: str) -> None:
    x = WINE @ WINE.T if kernel == "precomputed" else WINE
    with refuses(UnsupportedModelError, kernel, "rbf"):
        neuralize(KernelPCA(3, kernel=kernel).fit(x))


def test_callable_kernels() -> None:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b)

    for model in (OneClassSVM(kernel=lambda a, b: a @ b.T), KernelPCA(2, kernel=kernel)):
        with refuses(UnsupportedModelError, "kernel"):
            neuralize(model.fit(WINE))


def test_outlier_factor_of_training_rows_only() -> None:
    with refuses(UnsupportedModelError, "novelty=True"):
        neuralize(LocalOutlierFactor(5).fit(WINE))


@pytest.mark.parametrize("metric", ["cosine", "canberra"])
def test_metrics_without_a_rule(metric: str) -> None:
    with refuses(UnsupportedModelError, metric):
        neuralize(NearestNeighbors(metric=metric).fit(WINE))
    with refuses(UnsupportedModelError, metric):
        neuralize(LocalOutlierFactor(5, metric=metric, novelty=True).fit(WINE))


def test_precomputed_distances() -> None:
    distances = np.linalg.norm(WINE[:, None] - WINE[None], axis=-1)
    with refuses(UnsupportedModelError, "precomputed"):
        neuralize(NearestNeighbors(metric="precomputed").fit(distances))


def test_a_single_cluster() -> None:
    for model in (
        KMeans(1, n_init=1).fit(WINE),
        MiniBatchKMeans(1, n_init=1, batch_size=256).fit(WINE),
        BisectingKMeans(1).fit(WINE),
        KernelKMeans(1).fit(WINE),
        GaussianMixture(1).fit(WINE),
        WINE[:1].copy(),
    ):
        with refuses(XaiError, "two|2"):
            neuralize(model)


def test_identical_centroids() -> None:
    with refuses(XaiError, "same|identical|coincide|distinct|duplicate"):
        neuralize(WINE[[0, 1, 0]].copy())


def test_centroids_that_are_none() -> None:
    for centroids in (np.zeros(5), np.zeros((2, 3, 4)), np.zeros((0, 3))):
        with pytest.raises(XaiError):
            neuralize(centroids)
    with refuses(XaiError, "finite"):
        neuralize(np.array([[0.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(XaiError):
        neuralize(np.array([["a", "b"], ["c", "d"]]))


def test_residual_of_all_components() -> None:
    for model in (PCA(), PCA(13), IncrementalPCA()):
        with refuses(XaiError, "component"):
            neuralize(model.fit(WINE))


# -- pipelines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        ColumnTransformer([("scale", StandardScaler(), [0, 1, 2])], remainder="passthrough"),
        Normalizer(),
        FunctionTransformer(np.tanh),
        FeatureUnion([("scale", StandardScaler()), ("pca", PCA(2))]),
        KernelPCA(3, kernel="rbf"),
    ],
    ids=lambda step: type(step).__name__,
)
def test_steps_without_a_rule(step: Any) -> None:
    model = make_pipeline(step, KMeans(3, n_init=1, random_state=0)).fit(WINE)
    with refuses(UnsupportedModelError, type(step).__name__):
        neuralize(model)
    nested = make_pipeline(make_pipeline(StandardScaler(), step), KernelDensity()).fit(WINE)
    with refuses(UnsupportedModelError, type(step).__name__):
        neuralize(nested)


def test_pipelines_that_end_in_no_model() -> None:
    for model in (
        make_pipeline(StandardScaler(), Normalizer()).fit(WINE),
        Pipeline([("scale", StandardScaler()), ("nothing", "passthrough")]).fit(WINE),
        make_pipeline(StandardScaler(), DBSCAN()).fit(WINE),
    ):
        with pytest.raises(UnsupportedModelError):
            neuralize(model)


@pytest.mark.parametrize(
    "model",
    [
        OneClassSVM(nu=0.2),
        NearestNeighbors(algorithm="brute"),
        LocalOutlierFactor(5, novelty=True, algorithm="brute"),
        KernelPCA(3, kernel="rbf"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_that_keep_sparse_rows(model: Any) -> None:
    model.fit(sparse.csr_matrix(np.where(WINE > 0.5, WINE, 0)))
    with refuses(XaiError, "sparse", "dense|toarray"):
        neuralize(model)


# -- PyOD ----------------------------------------------------------------------------------------


def test_pyod() -> None:
    pytest.importorskip("pyod")
    from pyod.models.abod import ABOD
    from pyod.models.kde import KDE
    from pyod.models.knn import KNN
    from pyod.models.kpca import KPCA
    from pyod.models.lof import LOF
    from pyod.models.ocsvm import OCSVM
    from pyod.models.pca import PCA as PyodPCA

    for unfitted in (KDE(), KNN(), PyodPCA(), KPCA()):
        with refuses(UnfittedModelError, "not fitted"):
            neuralize(unfitted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyOD's own, about its kernels
        unknown = ABOD().fit(WINE)
    with refuses(UnsupportedModelError, "ABOD"):
        neuralize(unknown)
    for model, word in (
        (OCSVM(kernel="linear"), "linear"),
        (KPCA(kernel="poly", n_components=3), "poly"),
        (KNN(metric="canberra"), "canberra"),
        (LOF(novelty=False), "novelty=True"),
    ):
        with refuses(UnsupportedModelError, word):
            neuralize(model.fit(WINE))
