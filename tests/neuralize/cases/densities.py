"""Kernel densities, one-class machines, Gaussians, reconstruction residuals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from sklearn.covariance import (
    OAS,
    EllipticEnvelope,
    EmpiricalCovariance,
    GraphicalLasso,
    LedoitWolf,
    MinCovDet,
    ShrunkCovariance,
)
from sklearn.decomposition import PCA, IncrementalPCA, KernelPCA
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from neuralize import SVDD, neuralize
from tests.neuralize import oracles
from tests.neuralize.cases.data import Cases, Split, load, subject
from tests.subject import Array, Subject


def density(
    name: str,
    *,
    kernel: str = "gaussian",
    metric: str = "euclidean",
    weighted: bool = False,
    bandwidth: float | str = 1.5,
    raw: bool = False,
    repeated: bool = False,
) -> Subject:
    data = load(name, raw=raw, jitter=0.01 if kernel == "exponential" else 0.0)
    fit = np.concatenate([data.fit, data.fit[:30]]) if repeated else data.fit
    weights = np.random.default_rng(1).uniform(0.2, 3, len(fit)) if weighted else np.ones(len(fit))
    model = KernelDensity(kernel=kernel, metric=metric, bandwidth=bandwidth)
    model.fit(fit, sample_weight=weights if weighted else None)
    width = model.bandwidth_
    gamma = 1 / (2 * width**2) if kernel == "gaussian" else 1 / width
    form = "squared"
    if kernel == "exponential":
        form = "absolute" if metric == "manhattan" else "euclidean"
    parts = getattr(oracles, form)(fit)
    oracle = oracles.SoftNearest(parts, weights, gamma, form)
    return subject(model, neuralize, data, lambda net: oracle, special=fit)


def machine(name: str, model: Any, *, raw: bool = False) -> Subject:
    """OneClassSVM or SVDD with a Gaussian kernel."""
    data = load(name, raw=raw)
    model = model.fit(data.fit)
    gamma = model._gamma if isinstance(model, OneClassSVM) else model.gamma_
    oracle = oracles.SoftNearest(
        oracles.squared(model.support_vectors_), np.ravel(model.dual_coef_), gamma
    )
    return subject(
        model,
        neuralize,
        data,
        lambda net: oracle,
        special=model.support_vectors_,
    )


def ellipsoid(name: str, model: Any, split: str | None = None, *, raw: bool = False) -> Subject:
    data = load(name, raw=raw, n_fit=100)
    model = model.fit(data.fit)
    options = {} if split is None else {"split": split}
    oracle = oracles.Ellipsoid(model.location_, model.get_precision(), split or "signed")
    return subject(
        model,
        partial(neuralize, **options),
        data,
        lambda net: oracle,
        special=model.location_[None],
    )


def singular_covariance() -> Subject:
    """A column that repeats another: the precision is a pseudo-inverse without full rank."""
    data = load("iris")
    data = Split(*(rows[:, [0, 1, 2, 3, 1]] for rows in (data.fit, data.seen, data.unseen)))
    model = EmpiricalCovariance().fit(data.fit)
    oracle = oracles.Ellipsoid(model.location_, model.get_precision(), "signed")
    return subject(model, neuralize, data, lambda net: oracle, special=model.location_[None])


def residual(name: str, model: Any, split: str | None = None, *, raw: bool = False) -> Subject:
    data = load(name, raw=raw)
    model = model.fit(data.fit)
    options = {} if split is None else {"split": split}
    oracle = oracles.Residual(model.mean_, model.components_, split or "nonnegative")
    return subject(
        model,
        partial(neuralize, **options),
        data,
        lambda net: oracle,
        special=model.mean_[None],
        native=lambda m, x: ((x - m.inverse_transform(m.transform(x))) ** 2).sum(1),
    )


def feature_space_residual(model: KernelPCA, x: Array) -> Array:
    """``k(x, x)`` in the centred feature space less the squared scores, from the model's parts."""
    own = np.array([model._get_kernel(row[None], row[None])[0, 0] for row in x])
    rows = model._get_kernel(x, model.X_fit_).mean(1)
    centred = own - 2 * rows + model._centerer.K_fit_all_
    return centred - (model.transform(x) ** 2).sum(1)


def kernel_pca(name: str, model: KernelPCA, *, raw: bool = False) -> Subject:
    data = load(name, raw=raw)
    model = model.fit(data.fit)
    oracle = oracles.FeatureSpaceResidual(
        model.X_fit_, model.kernel, model.gamma_, model.eigenvectors_, model.eigenvalues_
    )
    return subject(
        model,
        neuralize,
        data,
        lambda net: oracle,
        special=model.X_fit_,
        native=feature_space_residual,
    )


COVARIANCES = {
    "empirical-covariance": EmpiricalCovariance(),
    "empirical-covariance-centred": EmpiricalCovariance(assume_centered=True),
    "covariance-without-precision": EmpiricalCovariance(store_precision=False),
    "shrunk-covariance": ShrunkCovariance(shrinkage=0.2),
    "ledoit-wolf": LedoitWolf(),
    "oas": OAS(),
    "min-cov-det": MinCovDet(random_state=0),
    "graphical-lasso": GraphicalLasso(alpha=0.1),
    "elliptic-envelope": EllipticEnvelope(contamination=0.15, random_state=0),
}

DENSITIES: Cases = {
    "kde-wine": partial(density, "wine"),
    "kde-wine-weighted": partial(density, "wine", weighted=True),
    "kde-digits-raw": partial(density, "digits", raw=True, bandwidth=10.0),
    "kde-iris-raw-narrow": partial(density, "iris", raw=True, bandwidth=0.3),
    "kde-scott": partial(density, "breast_cancer", bandwidth="scott"),
    "kde-repeated-rows": partial(density, "wine", repeated=True, weighted=True),
    "kde-exponential": partial(density, "wine", kernel="exponential"),
    "kde-exponential-weighted": partial(
        density, "breast_cancer", kernel="exponential", weighted=True
    ),
    "kde-exponential-manhattan": partial(density, "wine", kernel="exponential", metric="manhattan"),
    "one-class-svm-wine": lambda: machine("wine", OneClassSVM(nu=0.2, gamma=0.05)),
    "one-class-svm-scale": lambda: machine("breast_cancer", OneClassSVM(nu=0.5)),
    "one-class-svm-auto-raw": lambda: machine("iris", OneClassSVM(gamma="auto"), raw=True),
    "svdd-wine": lambda: machine("wine", SVDD(nu=0.2, gamma=0.05)),
    "svdd-digits": lambda: machine("digits", SVDD(nu=0.1, gamma=0.005)),
    **{name: partial(ellipsoid, "wine", model) for name, model in COVARIANCES.items()},
    "empirical-covariance-singular": singular_covariance,
    "empirical-covariance-nonnegative": partial(
        ellipsoid, "iris", EmpiricalCovariance(), "nonnegative", raw=True
    ),
    "elliptic-envelope-nonnegative": partial(
        ellipsoid, "wine", EllipticEnvelope(random_state=1), "nonnegative"
    ),
    "pca-wine": lambda: residual("wine", PCA(4)),
    "pca-whitened-digits": lambda: residual("digits", PCA(10, whiten=True), raw=True),
    "pca-signed": lambda: residual("breast_cancer", PCA(0.9), "signed"),
    "pca-signed-raw": lambda: residual("iris", PCA(2), "signed", raw=True),
    "incremental-pca": lambda: residual("wine", IncrementalPCA(5, batch_size=40)),
    "incremental-pca-whitened": lambda: residual("wine", IncrementalPCA(5, whiten=True), "signed"),
    "kernel-pca-rbf": lambda: kernel_pca("wine", KernelPCA(6, kernel="rbf", gamma=0.03)),
    "kernel-pca-rbf-default": lambda: kernel_pca("digits", KernelPCA(3, kernel="rbf")),
    "kernel-pca-rbf-raw": lambda: kernel_pca("iris", KernelPCA(4, kernel="rbf"), raw=True),
    "kernel-pca-linear": lambda: kernel_pca("wine", KernelPCA(4)),
    "kernel-pca-linear-raw": lambda: kernel_pca("iris", KernelPCA(2), raw=True),
}
