"""Clustering score: does k-means find the labels or the groups (PathoROB, arXiv 2507.17845)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from xai.errors import InputError
from xai.evaluate.robustness import checked


def clustering_score(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    trials: int = 50,
    clusters: Sequence[int] = range(2, 31),
    seed: int = 1337,
) -> float:
    """What k-means finds: agreement with labels less agreement with groups, ``ARI - ARI``.

    For every two labels by two groups: rows of length one, the number of clusters by the best
    cosine silhouette, then the mean over ``trials`` runs of k-means; the mean over all such
    quadruples with samples in each of their four cells. Between about -1 (groups) and 1 (labels).

    Raises
    ------
    InputError
        What :func:`robustness_index` refuses, or no quadruple.
    """
    x, label, group, _ = checked(features, labels, groups)
    scores = []
    for rows in quadruples(label, group):
        part = x[rows]
        k = _best_silhouette(part, [c for c in clusters if c < len(part)], seed)
        found = []
        for trial in range(trials):
            model = KMeans(k, init="random", n_init=5, random_state=seed + trial).fit(part)
            found.append(
                adjusted_rand_score(label[rows], model.labels_)
                - adjusted_rand_score(group[rows], model.labels_)
            )
        scores.append(np.mean(found))
    if not scores:
        raise InputError(
            "Expected two labels that both occur in two groups, got none: labels and groups cannot "
            "be told apart."
        )
    return float(np.mean(scores))


def quadruples(label: NDArray[np.int64], group: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows of every two labels by two groups whose four cells are all filled."""
    table = np.zeros((label.max() + 1, group.max() + 1), int)
    np.add.at(table, (label, group), 1)
    for a in range(len(table)):
        for b in range(a + 1, len(table)):
            both = np.flatnonzero((table[a] > 0) & (table[b] > 0))
            for i, g in enumerate(both):
                for h in both[i + 1 :]:
                    yield np.flatnonzero(np.isin(label, (a, b)) & np.isin(group, (g, h)))


def _best_silhouette(x: NDArray[np.float64], clusters: Sequence[int], seed: int) -> int:
    scores = []
    for k in clusters:
        found = KMeans(k, init="random", n_init=20, random_state=seed).fit_predict(x)
        several = 1 < len(np.unique(found)) < len(x)
        scores.append(silhouette_score(x, found, metric="cosine") if several else -1.0)
    return clusters[int(np.argmax(scores))]
