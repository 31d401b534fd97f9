"""Sanity check: an explanation of another model must be another explanation.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim. Sanity Checks for Saliency Maps. NeurIPS 2018
(arXiv 1810.03292).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from neuralize import InputError, Neuralized, neuralize
from neuralize.layers import Selection
from xai.explainer import explain, to_rows

Array = NDArray[Any]


def randomisation_check(
    model: Any,
    x: Any,
    *,
    target: ArrayLike | None = None,
    method: str = "lrp",
    composite: Any = None,
    background: ArrayLike | None = None,
    n_repeats: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank correlation between the explanations of the fitted model and of a randomised one.

    All that was fitted (support points, centroids, covariances, scalings) is randomised at once by
    giving its features to each other in random order, see :func:`shuffled_features`. An
    explanation near 1 shows the input, whatever the model; what a model adds lies below that.

    Parameters
    ----------
    model, x, target, method, composite, background
        As in :func:`xai.explain`. The target is kept for the randomised model.
    n_repeats
        Number of random orders.
    seed
        Of the orders, and of the random baseline, which the check therefore finds unmoved.

    Returns
    -------
    DataFrame
        One line per repeat and row: ``repeat``, ``row``, ``rank_correlation`` (Spearman, from -1 to
        1). Relevance without any order, all of it equal, counts as 1 if it did not change and as 0
        if it did.

    Raises
    ------
    InputError
        Fewer than two features, or fewer than one repeat.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_iris
    >>> x = load_iris().data
    >>> kmeans = KMeans(3, n_init=1, random_state=0).fit(x)
    >>> bool(randomisation_check(kmeans, x)["rank_correlation"].mean() < 0.5)
    True
    """
    if n_repeats < 1:
        raise InputError(f"Expected n_repeats >= 1, got {n_repeats}.")
    net = model if isinstance(model, Neuralized) else neuralize(model)
    options: dict[str, Any] = {
        "method": method,
        "composite": composite,
        "background": background,
        "seed": seed,
    }
    fitted = explain(net, x, target, **options)
    width = _width(net, x)
    lines = []
    for repeat in range(n_repeats):
        order = _order(width, [seed, repeat])
        other = explain(shuffled_features(net, order), x, fitted.target, **options)
        for row, (a, b) in enumerate(zip(fitted.values, other.values, strict=True)):
            lines.append((repeat, row, _rank_correlation(a.ravel(), b.ravel())))
    return pd.DataFrame(lines, columns=["repeat", "row", "rank_correlation"])


def shuffled_features(net: Neuralized, order: ArrayLike) -> Neuralized:
    """A copy of the network in which everything fitted to feature ``order[i]`` belongs to ``i``.

    Reordering every parameter along its features is the same as handing the untouched parameters
    the reordered input, which is what the copy does: it works for whatever a network is made of.
    An encoder below the model is shared, and the order is that of its features.

    Parameters
    ----------
    net
        The network; it is left as it is.
    order
        Permutation ``(d,)``.

    Raises
    ------
    InputError
        ``order`` is no permutation of the features.

    Examples
    --------
    >>> net = neuralize(np.array([[0.0, 0.0], [2.0, 0.0]]))
    >>> x = torch.tensor([[0.0, 5.0]])
    >>> net(x).tolist(), shuffled_features(net, [1, 0])(x).tolist()
    ([[4.0, -4.0]], [[-16.0, 16.0]])
    """
    index = np.asarray(order)
    width = net.n_features if net.n_features is not None else len(index)
    if sorted(index.tolist()) != list(range(width)):
        raise InputError(f"Expected a permutation of {width} features, got {index.tolist()}.")
    shared = {} if net.features is None else {id(net.features): net.features}
    other = copy.deepcopy(net, shared)
    # Feature order[i] of the network now reads input i.
    inverse = torch.from_numpy(np.argsort(index))
    other.front.insert(0, Selection(inverse.to(net.device), width))
    return other


def _width(net: Neuralized, x: Any) -> int:
    if net.n_features is not None:
        width = net.n_features
    else:
        assert net.features is not None
        with torch.no_grad():
            width = int(net.features(to_rows(x)[0][:1]).shape[1])
    if width < 2:
        raise InputError(f"Expected at least two features to shuffle, got {width}.")
    return width


def _order(width: int, seed: list[int]) -> Array:
    """A random order that moves at least one feature."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(width)
    while (order == np.arange(width)).all():
        order = rng.permutation(width)
    return order


def _rank_correlation(a: Array, b: Array) -> float:
    ranks_a, ranks_b = rankdata(a), rankdata(b)
    if not (np.ptp(ranks_a) and np.ptp(ranks_b)):
        return float(np.array_equal(a, b))
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])
