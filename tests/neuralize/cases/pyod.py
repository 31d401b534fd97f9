"""PyOD's detectors; they count upwards and label outliers 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from neuralize import neuralize
from tests.neuralize import oracles
from tests.neuralize.cases.data import Cases, Split, load, subject
from tests.subject import Array, Oracle, Subject, pyod_outliers


def pyod(
    name: str,
    make_oracle: Callable[[Any, Split], Oracle],
    data_name: str = "wine",
    *,
    raw: bool = False,
    special: Callable[[Any, Split], Array] = lambda model, data: data.fit,
    net_options: dict[str, Any] | None = None,
    **options: Any,
) -> Subject:
    """``name`` is ``module.Class``."""
    pytest.importorskip("pyod")
    module, kind = name.split(".")
    data = load(data_name, raw=raw, n_fit=100)
    model = getattr(import_module(f"pyod.models.{module}"), kind)(**options).fit(data.fit)
    oracle = make_oracle(model, data)
    return subject(
        model,
        partial(neuralize, **(net_options or {})),
        data,
        lambda net: oracle,
        special=special(model, data),
        outliers=pyod_outliers,
    )


def machine(model: Any, data: Split) -> Oracle:
    inner = model.detector_
    return oracles.SoftNearest(
        oracles.squared(inner.support_vectors_), inner.dual_coef_[0], inner._gamma
    )


def density(model: Any, data: Split) -> Oracle:
    gamma = 1 / (2 * model.bandwidth**2)
    return oracles.SoftNearest(oracles.squared(data.fit), np.ones(len(data.fit)), gamma)


def mixture(model: Any, data: Split) -> Oracle:
    inner = model.detector_
    parts = oracles.energies(inner.means_, oracles.mixture_precisions(inner))
    return oracles.Mixture(parts, oracles.mixture_constants(inner), "outlier")


def ellipsoid(split: str) -> Callable[[Any, Split], Oracle]:
    return lambda model, data: oracles.Ellipsoid(
        model.detector_.location_, model.detector_.get_precision(), split
    )


def kernel_pca(model: Any, data: Split) -> Oracle:
    inner, kept = model.kpca, model.n_selected_components_
    return oracles.FeatureSpaceResidual(
        inner.X_fit_,
        inner.kernel,
        inner.gamma_,
        inner.eigenvectors_[:, :kept],
        inner.eigenvalues_[:kept],
    )


def components(model: Any, data: Split) -> Oracle:
    inner = oracles.ComponentDistances(
        oracles.euclidean(model.selected_components_), model.selected_w_components_
    )
    if not model.standardization:
        return inner
    return oracles.Behind(inner, oracles.element_wise(model.scaler_.transform))


def cluster_distance(model: Any, data: Split) -> Oracle:
    sizes = model.cluster_sizes_ if model.use_weights else None
    return oracles.ClusterDistance(model.cluster_centers_, model.large_cluster_labels_, sizes)


def neighbours(k: int, method: str, order: float = 2.0) -> Callable[[Any, Split], Oracle]:
    return lambda model, data: oracles.Neighbours(oracles.minkowski(data.fit, order), k, method)


PYOD: Cases = {
    "pyod-hbos": partial(pyod, "hbos.HBOS", lambda m, d: oracles.Histograms(m)),
    "pyod-hbos-auto-raw": partial(
        pyod,
        "hbos.HBOS",
        lambda m, d: oracles.Histograms(m),
        "breast_cancer",
        raw=True,
        n_bins="auto",
        tol=0.1,
    ),
    "pyod-ecod": partial(pyod, "ecod.ECOD", lambda m, d: oracles.EmpiricalTails(d.fit)),
    "pyod-ecod-iris-raw": partial(
        pyod, "ecod.ECOD", lambda m, d: oracles.EmpiricalTails(d.fit), "iris", raw=True
    ),
    "pyod-copod": partial(
        pyod, "copod.COPOD", lambda m, d: oracles.CopulaTails(d.fit), contamination=0.2
    ),
    "pyod-ocsvm": partial(pyod, "ocsvm.OCSVM", machine, nu=0.3),
    "pyod-iforest": partial(
        pyod,
        "iforest.IForest",
        lambda m, d: oracles.PathLength(m.detector_),
        n_estimators=20,
        random_state=0,
    ),
    "pyod-lof": partial(
        pyod,
        "lof.LOF",
        lambda m, d: oracles.LocalFactor(oracles.euclidean(d.fit), d.fit, 15),
        n_neighbors=15,
    ),
    "pyod-kde": partial(pyod, "kde.KDE", density, bandwidth=1.5),
    "pyod-gmm": partial(pyod, "gmm.GMM", mixture, n_components=2, random_state=0, reg_covar=1e-2),
    "pyod-mcd": partial(pyod, "mcd.MCD", ellipsoid("signed"), random_state=0),
    "pyod-mcd-nonnegative": partial(
        pyod,
        "mcd.MCD",
        ellipsoid("nonnegative"),
        "iris",
        net_options={"split": "nonnegative"},
        random_state=0,
    ),
    "pyod-knn": partial(pyod, "knn.KNN", neighbours(5, "largest")),
    "pyod-knn-mean": partial(pyod, "knn.KNN", neighbours(4, "mean"), n_neighbors=4, method="mean"),
    "pyod-knn-median-manhattan": partial(
        pyod, "knn.KNN", neighbours(6, "median", 1.0), n_neighbors=6, method="median", p=1
    ),
    "pyod-pca": partial(pyod, "pca.PCA", components, special=lambda m, d: d.fit[:2]),
    "pyod-pca-selected": partial(
        pyod,
        "pca.PCA",
        components,
        "breast_cancer",
        n_components=10,
        n_selected_components=4,
    ),
    "pyod-pca-plain": partial(
        pyod,
        "pca.PCA",
        components,
        weighted=False,
        standardization=False,
        special=lambda m, d: m.selected_components_,
    ),
    "pyod-kpca": partial(pyod, "kpca.KPCA", kernel_pca, n_components=8, random_state=0),
    "pyod-kpca-selected": partial(
        pyod,
        "kpca.KPCA",
        kernel_pca,
        n_components=8,
        n_selected_components=3,
        gamma=0.03,
        random_state=0,
    ),
    "pyod-kpca-sampled": partial(
        pyod,
        "kpca.KPCA",
        kernel_pca,
        sampling=True,
        subset_size=50,
        n_components=5,
        random_state=0,
        special=lambda m, d: m.kpca.X_fit_,
    ),
    "pyod-cblof": partial(
        pyod,
        "cblof.CBLOF",
        cluster_distance,
        n_clusters=4,
        alpha=0.7,
        random_state=0,
        special=lambda m, d: m.cluster_centers_,
    ),
    "pyod-cblof-weighted": partial(
        pyod,
        "cblof.CBLOF",
        cluster_distance,
        n_clusters=4,
        alpha=0.7,
        use_weights=True,
        random_state=0,
        special=lambda m, d: m.cluster_centers_,
    ),
}
