"""What ``stiffness=`` and ``data=`` of a clustering mean."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.datasets import load_wine

from neuralize import KernelKMeans, neuralize
from tests.neuralize import oracles

WINE = load_wine().data
WINE = (WINE - WINE.mean(0)) / WINE.std(0)


def paper(oracle, x):
    """``1 / mean_n max_c f_c(x_n)``."""
    return 1 / np.mean([evidence.max() for evidence in oracle.evidence(x)])


def k_means():
    model = KMeans(4, n_init=1, random_state=0).fit(WINE)
    centroids = model.cluster_centers_
    return model, oracles.NearestCentroid(oracles.squared(centroids), 4, 1.0), centroids


def bisecting():
    model = BisectingKMeans(4, random_state=0).fit(WINE)
    return model, oracles.BisectingTree(model, oracles.squared, 1.0), model.cluster_centers_


def kernel_k_means():
    model = KernelKMeans(3, n_support=6, random_state=0).fit(WINE)
    oracle = oracles.KernelClusters(
        oracles.squared,
        model.support_vectors_,
        model.support_labels_,
        model.support_weights_,
        model.gamma_,
        1.0,
        "stable",
    )
    return model, oracle, model.support_vectors_


@pytest.mark.parametrize("make", [k_means, bisecting, kernel_k_means])
def test_paper_stiffness(make):
    model, oracle, own = make()
    np.testing.assert_allclose(neuralize(model).stiffness, paper(oracle, own))
    found = neuralize(model, stiffness="paper", data=WINE).stiffness
    np.testing.assert_allclose(found, paper(oracle, WINE))


@pytest.mark.parametrize("make", [k_means, bisecting, kernel_k_means])
@pytest.mark.parametrize("stiffness", [0.0, 0.7, math.inf])
def test_given_stiffness(make, stiffness):
    model, _, _ = make()
    assert neuralize(model, stiffness=stiffness).stiffness == stiffness
    assert neuralize(model, stiffness=stiffness, data=WINE).stiffness == stiffness


def test_stiffness_moves_relevance_from_the_winner_to_all():
    """Uniform at zero, the nearest competitor alone at infinity, and continuous between."""
    model, _, centroids = k_means()
    x = torch.from_numpy(WINE[:20])
    evidence = neuralize(model).evidence(x)

    def values(stiffness):
        result = neuralize(model, stiffness=stiffness).relevance(x)
        assert torch.equal(result.evidence, evidence)
        return result.values

    torch.testing.assert_close(values(1e4), values(math.inf))
    torch.testing.assert_close(values(1e-9), values(0.0))
    assert not torch.allclose(values(0.0), values(math.inf))
    h = torch.cdist(x, torch.from_numpy(centroids)) ** 2
    order = h.argsort(1)
    own, nearest = centroids[order[:, 0]], centroids[order[:, 1]]
    expected = (WINE[:20] - nearest) ** 2 - (WINE[:20] - own) ** 2
    np.testing.assert_allclose(values(math.inf).numpy(), expected, atol=1e-10)
