"""Preprocessing before a model: values are per input column of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import IsolationForest
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import OneClassSVM

from neuralize import KernelKMeans, Neuralized, neuralize
from tests.neuralize import oracles
from tests.neuralize.cases.clusters import log_odds
from tests.neuralize.cases.data import Cases, Split, load, subject
from tests.neuralize.oracles import Oracle
from tests.subject import Array, Subject, pyod_outliers

MakeParts = Callable[[Array], oracles.Parts]
Head = tuple[Any, Callable[[Any, Array, Neuralized, MakeParts], Oracle]]
"""A model, and its oracle from the fitted model, what it was fitted on, and the bank's parts."""
Way = Callable[[Pipeline, Callable[[MakeParts], Oracle]], Oracle]
"""How the steps before the last stand before its oracle."""


def k_means(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    centroids = model.cluster_centers_
    return oracles.NearestCentroid(parts(centroids), len(centroids), net.stiffness)  # type: ignore[arg-type]


def kernel_k_means(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    return oracles.KernelClusters(
        parts,
        model.support_vectors_,
        model.support_labels_,
        model.support_weights_,
        model.gamma_,
        net.stiffness,  # type: ignore[arg-type]
        "stable",
    )


def density(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    gamma = 1 / (2 * model.bandwidth_**2)
    return oracles.SoftNearest(parts(z), np.ones(len(z)), gamma)


def laplacian_density(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    return oracles.SoftNearest(
        oracles.absolute(z), np.ones(len(z)), 1 / model.bandwidth_, "absolute"
    )


def machine(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    return oracles.SoftNearest(parts(model.support_vectors_), model.dual_coef_[0], model._gamma)


def nearest(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    return oracles.Neighbours(oracles.root(parts(z)), model.n_neighbors, "largest")


def local_factor(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    within = oracles.euclidean(z)
    return oracles.LocalFactor(oracles.root(parts(z)), z, model.n_neighbors, within)


def forest(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    return oracles.PathLength(model)


def ellipsoid(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    return oracles.Ellipsoid(model.location_, model.get_precision(), "signed")


def mixture(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    bank = oracles.energies(model.means_, oracles.mixture_precisions(model))
    return oracles.Mixture(bank, oracles.mixture_constants(model), "cluster")


def residual(model: Any, z: Array, net: Neuralized, parts: MakeParts) -> Oracle:
    return oracles.Residual(model.mean_, model.components_, "nonnegative")


HEADS: dict[str, Callable[[], Head]] = {
    "kmeans": lambda: (KMeans(3, n_init=1, random_state=0), k_means),
    "kernel-kmeans": lambda: (
        KernelKMeans(n_clusters=3, n_support=8, random_state=0),
        kernel_k_means,
    ),
    "kde": lambda: (KernelDensity(bandwidth=2.5), density),
    "kde-manhattan": lambda: (
        KernelDensity(bandwidth=1.5, kernel="exponential", metric="manhattan"),
        laplacian_density,
    ),
    "one-class-svm": lambda: (OneClassSVM(nu=0.2, gamma=0.05), machine),
    "neighbours": lambda: (NearestNeighbors(n_neighbors=4), nearest),
    "lof": lambda: (LocalOutlierFactor(8, novelty=True), local_factor),
    "forest": lambda: (IsolationForest(n_estimators=15, random_state=0), forest),
    "ellipsoid": lambda: (EmpiricalCovariance(), ellipsoid),
    "mixture": lambda: (
        GaussianMixture(2, covariance_type="diag", reg_covar=1e-2, random_state=0),
        mixture,
    ),
    "pca": lambda: (PCA(3), residual),
}


def piped(
    name: str,
    steps: list[Any],
    head: str,
    make: Way,
) -> Subject:
    """Fit the pipeline on raw data; ``make`` puts its steps before the head's oracle."""
    data = load(name, raw=True, jitter=0.01 if head == "kde-manhattan" else 0.0)
    last, head_oracle = HEADS[head]()
    model = make_pipeline(*steps, last).fit(data.fit)
    z = model[:-1].transform(data.fit)

    def oracle(net: Neuralized) -> Oracle:
        return make(model, lambda parts: head_oracle(model[-1], z, net, parts))

    native = partial(_native, head) if head in NATIVE else None
    return subject(model, neuralize, data, oracle, special=data.fit, native=native)


NATIVE: dict[str, Callable[[Any, Array], Array]] = {
    "neighbours": lambda model, z: model.kneighbors(z)[0][:, -1],
    "ellipsoid": lambda model, z: model.mahalanobis(z),
    "mixture": log_odds,
    "pca": lambda model, z: ((z - model.inverse_transform(model.transform(z))) ** 2).sum(1),
}


def _native(head: str, model: Pipeline, x: Array) -> Array:
    return NATIVE[head](model[-1], model[:-1].transform(x))


def unchanged(model: Pipeline, head: Callable[[MakeParts], Oracle]) -> Oracle:
    """Element-wise steps only."""
    return oracles.Behind(head(oracles.squared), oracles.element_wise(model[:-1].transform))


def clipping(model: Pipeline, head: Callable[[MakeParts], Oracle]) -> Oracle:
    scaler = model[0]
    step = oracles.clipped(scaler.transform, scaler.data_min_, scaler.data_max_)
    return oracles.Behind(head(oracles.squared), step)


def selected(position: int) -> Way:
    """Element-wise steps around one selector."""

    def make(model: Pipeline, head: Callable[[MakeParts], Oracle]) -> Oracle:
        mask = model[position].get_support()
        steps = [oracles.element_wise(step.transform) for step in model[:-1]]
        steps[position] = oracles.selection(mask)
        return oracles.Behind(head(oracles.squared), *steps)

    return make


def linear(step: Any) -> tuple[Array, Array]:
    """``B`` and ``b`` of a fitted projection."""
    if isinstance(step, TruncatedSVD):
        return step.components_, np.zeros(len(step.components_))
    matrix = step.components_
    if step.whiten:
        matrix = matrix / np.sqrt(step.explained_variance_)[:, None]
    return matrix, -matrix @ step.mean_


def folded(model: Pipeline, head: Callable[[MakeParts], Oracle]) -> Oracle:
    """A projection directly before a distance model: minimum-norm preimages of its points."""
    matrix, offset = linear(model[-2])
    inner = head(lambda u: oracles.projected(u, matrix, offset))
    return oracles.Behind(inner, *(oracles.element_wise(s.transform) for s in model[:-2]))


def square_rule(model: Pipeline, head: Callable[[MakeParts], Oracle]) -> Oracle:
    """A projection before another model: WSquare."""
    before = [oracles.element_wise(step.transform) for step in model[:-2]]
    return oracles.Behind(head(oracles.squared), *before, oracles.wsquared(*linear(model[-2])))


def metric(model: Pipeline, head: Callable[[MakeParts], Oracle]) -> Oracle:
    """A projection before Gaussians: ``B^T P B`` around the means' minimum-norm preimages."""
    matrix, offset = linear(model[-2])
    last, inverse = model[-1], np.linalg.pinv(matrix)
    if isinstance(last, GaussianMixture):
        precisions = np.stack([matrix.T @ p @ matrix for p in oracles.mixture_precisions(last)])
        bank = oracles.energies((last.means_ - offset) @ inverse.T, precisions)
        inner: Oracle = oracles.Mixture(bank, oracles.mixture_constants(last), "cluster")
    else:
        precision = matrix.T @ last.get_precision() @ matrix
        inner = oracles.Ellipsoid((last.location_ - offset) @ inverse.T, precision, "signed")
    before = [oracles.element_wise(step.transform) for step in model[:-2]]
    return oracles.Behind(inner, *before, oracles.row_space(matrix))


def pulled_residual(model: Pipeline, head: Callable[[MakeParts], Oracle]) -> Oracle:
    """A projection before a residual."""
    matrix, offset = linear(model[-2])
    inner = oracles.Residual(model[-1].mean_, model[-1].components_, "nonnegative")
    before = [oracles.element_wise(step.transform) for step in model[:-2]]
    return oracles.Behind(oracles.PulledResidual(inner, matrix, offset), *before)


def only_sums(model: Pipeline, head: Callable[[MakeParts], Oracle]) -> Oracle:
    """No definition fixes the values: evidence and conservation only."""
    return oracles.Behind(head(oracles.squared), oracles.unspecified(model[:-1].transform))


SCALERS = {
    "standard": StandardScaler,
    "min-max": MinMaxScaler,
    "max-abs": MaxAbsScaler,
    "robust": RobustScaler,
    "power": PowerTransformer,
    "box-cox": partial(PowerTransformer, method="box-cox"),
}


def nested() -> Subject:
    inner = Pipeline([("scale", StandardScaler()), ("nothing", "passthrough")])
    return piped("wine", [inner, MinMaxScaler()], "kmeans", unchanged)


def k_best() -> Subject:
    """A selector that looked at labels when it was fitted."""
    data = load("wine", raw=True)
    y = KMeans(3, n_init=1, random_state=1).fit_predict(data.fit)
    selector = SelectKBest(k=5).fit(data.fit, y)
    steps = [("scale", StandardScaler()), ("select", selector)]
    scaled = steps[0][1].fit_transform(data.fit)
    selector.fit(scaled, y)
    last = KernelDensity(bandwidth=1.0).fit(selector.transform(scaled))
    model = Pipeline([*steps, ("density", last)])
    z = selector.transform(scaled)

    def oracle(net: Neuralized) -> Oracle:
        return selected(1)(model, lambda parts: density(last, z, net, parts))

    def refit(model: Pipeline, x: Array) -> None:
        model[0].fit(x * 2 + 1)

    return subject(model, neuralize, data, oracle, refit=refit)


def constant_column() -> Subject:
    """A column without variance: dropped before it is divided by nothing."""
    data = load("wine", raw=True)
    data = Split(*(np.insert(rows, 4, 7.0, axis=1) for rows in (data.fit, data.seen, data.unseen)))
    model = make_pipeline(
        VarianceThreshold(), StandardScaler(), KMeans(3, n_init=1, random_state=0)
    ).fit(data.fit)

    def oracle(net: Neuralized) -> Oracle:
        return selected(0)(model, lambda parts: k_means(model[-1], data.fit, net, parts))

    return subject(model, neuralize, data, oracle)


def hard_k_means() -> Subject:
    """Options go to the last step."""
    made = piped("wine", [StandardScaler()], "kmeans", unchanged)
    made.net_factory = partial(neuralize, stiffness=np.inf)
    return made


def pyod_behind_scaler(name: str, make: Callable[[Any, Array], Oracle], **options: Any) -> Subject:
    pytest.importorskip("pyod")
    module, kind = name.split(".")
    data = load("wine", raw=True)
    detector = getattr(import_module(f"pyod.models.{module}"), kind)(**options)
    model = make_pipeline(MinMaxScaler(), detector).fit(data.fit)
    z = model[0].transform(data.fit)

    def oracle(net: Neuralized) -> Oracle:
        return unchanged(model, lambda parts: make(model[-1], z))

    return subject(model, neuralize, data, oracle, outliers=pyod_outliers)


def scaled_density(scaler: str) -> Subject:
    data = "wine" if scaler == "box-cox" else "breast_cancer"  # Box-Cox wants positive values
    return piped(data, [SCALERS[scaler]()], "kde", unchanged)


def projected(projection: str, head: str, way: Way) -> Subject:
    return piped("wine", [StandardScaler(), PROJECTIONS[projection]()], head, way)


PROJECTIONS = {
    "pca": partial(PCA, 5),
    "whitened": partial(PCA, 5, whiten=True),
    "svd": partial(TruncatedSVD, 5, random_state=0),
}
DISTANCE_MODELS = ("kmeans", "kernel-kmeans", "kde", "one-class-svm", "neighbours", "lof")
GAUSSIANS = ("ellipsoid", "mixture")
OTHERS = ("forest", "kde-manhattan")

PIPELINES: Cases = {
    **{f"{name}-kde": partial(scaled_density, name) for name in SCALERS},
    **{
        f"standard-{head}": partial(piped, "wine", [StandardScaler()], head, unchanged)
        for head in HEADS
        if head != "kde"
    },
    "passthrough-kmeans": lambda: piped(
        "wine", ["passthrough", StandardScaler()], "kmeans", unchanged
    ),
    "nested-kmeans": nested,
    "min-max-clip-kde": lambda: piped("wine", [MinMaxScaler(clip=True)], "kde", clipping),
    "uncentred-one-class-svm": lambda: piped(
        "wine",
        [RobustScaler(with_centering=False), StandardScaler(with_std=False)],
        "one-class-svm",
        unchanged,
    ),
    "kmeans-with-options": hard_k_means,
    "constant-column": constant_column,
    "variance-threshold-kmeans": lambda: piped(
        "wine", [MinMaxScaler(), VarianceThreshold(0.03), StandardScaler()], "kmeans", selected(1)
    ),
    "variance-threshold-forest": lambda: piped(
        "wine", [VarianceThreshold(0.5), StandardScaler()], "forest", selected(0)
    ),
    "k-best-kde": k_best,
    **{
        f"{projection}-{head}": partial(projected, projection, head, folded)
        for projection in PROJECTIONS
        for head in DISTANCE_MODELS
    },
    **{
        f"raw-whitened-{head}": partial(piped, "iris", [PCA(2, whiten=True)], head, way)
        for head, way in {"kmeans": folded, "ellipsoid": metric, "forest": square_rule}.items()
    },
    **{f"pca-{head}": partial(projected, "pca", head, metric) for head in GAUSSIANS},
    **{f"whitened-{head}": partial(projected, "whitened", head, metric) for head in GAUSSIANS},
    **{f"pca-{head}": partial(projected, "pca", head, square_rule) for head in OTHERS},
    "pca-pca": partial(projected, "pca", "pca", pulled_residual),
    "whitened-pca": partial(projected, "whitened", "pca", pulled_residual),
    "pca-then-standard-kmeans": lambda: piped(
        "wine", [StandardScaler(), PCA(5), StandardScaler()], "kmeans", only_sums
    ),
    "pyod-hbos-behind-scaler": lambda: pyod_behind_scaler(
        "hbos.HBOS", lambda detector, z: oracles.Histograms(detector)
    ),
    "pyod-ecod-behind-scaler": lambda: pyod_behind_scaler(
        "ecod.ECOD", lambda detector, z: oracles.EmpiricalTails(z)
    ),
    "pyod-knn-behind-scaler": lambda: pyod_behind_scaler(
        "knn.KNN", lambda detector, z: oracles.Neighbours(oracles.euclidean(z), 5, "largest")
    ),
}
