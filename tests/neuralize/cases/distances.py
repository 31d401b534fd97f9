"""Neighbours, local outlier factor, isolation forest."""

from __future__ import annotations

from functools import partial
from typing import Any

from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from neuralize import neuralize
from tests.neuralize import oracles
from tests.neuralize.cases.data import Cases, load, subject
from tests.subject import Array, Subject


def aggregate(distances: Array, aggregation: str) -> Array:
    if aggregation == "median":
        k = distances.shape[1]
        return distances[:, [(k - 1) // 2, k // 2]].mean(1)
    return distances.max(1) if aggregation == "largest" else distances.mean(1)


def neighbours(
    name: str,
    k: int,
    aggregation: str = "largest",
    order: float = 2.0,
    *,
    raw: bool = False,
    **options: Any,
) -> Subject:
    data = load(name, raw=raw)
    model = NearestNeighbors(n_neighbors=k, **options).fit(data.fit)
    oracle = oracles.Neighbours(oracles.minkowski(data.fit, order), k, aggregation)
    return subject(
        model,
        partial(neuralize, aggregation=aggregation),
        data,
        lambda net: oracle,
        special=data.fit,
        native=lambda m, x: aggregate(m.kneighbors(x)[0], aggregation),
    )


def local_factor(name: str, k: int, order: float = 2.0, **options: Any) -> Subject:
    data = load(name)
    model = LocalOutlierFactor(k, novelty=True, **options).fit(data.fit)
    oracle = oracles.LocalFactor(oracles.minkowski(data.fit, order), data.fit, k)
    return subject(model, neuralize, data, lambda net: oracle, special=data.fit)


def forest(name: str, *, raw: bool = False, **options: Any) -> Subject:
    data = load(name, raw=raw)
    model = IsolationForest(n_estimators=20, random_state=0, **options).fit(data.fit)
    oracle = oracles.PathLength(model)
    return subject(model, neuralize, data, lambda net: oracle, special=data.fit)


DISTANCES: Cases = {
    "neighbours-largest": partial(neighbours, "wine", 5),
    "neighbours-nearest": partial(neighbours, "breast_cancer", 1, algorithm="ball_tree"),
    "neighbours-mean": partial(neighbours, "wine", 5, "mean", metric="euclidean"),
    "neighbours-median-even": partial(neighbours, "wine", 6, "median"),
    "neighbours-median-odd": partial(neighbours, "wine", 5, "median", 1.0, metric="manhattan"),
    "neighbours-minkowski-1": partial(neighbours, "wine", 4, "mean", 1.0, p=1),
    "neighbours-minkowski-3": partial(neighbours, "breast_cancer", 4, "largest", 3.0, p=3),
    "neighbours-minkowski-1.5": partial(neighbours, "wine", 3, "mean", 1.5, p=1.5),
    "neighbours-kd-tree": partial(neighbours, "wine", 5, raw=True, algorithm="kd_tree"),
    "lof-wine": partial(local_factor, "wine", 10),
    "lof-contamination": partial(local_factor, "breast_cancer", 20, contamination=0.1),
    "lof-manhattan": partial(local_factor, "wine", 8, 1.0, metric="manhattan"),
    "lof-minkowski-3": partial(local_factor, "wine", 8, 3.0, p=3),
    "isolation-forest-wine-raw": partial(forest, "wine", raw=True),
    "isolation-forest-contamination": partial(forest, "breast_cancer", contamination=0.2),
    "isolation-forest-some-features": partial(forest, "digits", raw=True, max_features=0.4),
    "isolation-forest-bootstrap": partial(
        forest, "wine", bootstrap=True, max_samples=60, max_features=5
    ),
}
