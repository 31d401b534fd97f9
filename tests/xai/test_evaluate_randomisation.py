"""Randomised models: the copy is what it says, the original stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_iris
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xai
from neuralize import InputError, neuralize
from xai.evaluate import randomisation_check, shuffled_features

IRIS = load_iris().data
ORDER = [2, 0, 3, 1]


def test_the_copy_is_the_model_fitted_on_reordered_columns():
    x = torch.from_numpy(IRIS[:20])
    centroids = KMeans(3, n_init=1, random_state=0).fit(IRIS).cluster_centers_
    # What was fitted to feature ORDER[i] belongs to feature i.
    expected = neuralize(centroids[:, ORDER])
    net = shuffled_features(neuralize(centroids), ORDER)
    torch.testing.assert_close(net(x), expected(x))
    torch.testing.assert_close(net.relevance(x).values, expected.relevance(x).values)
    kde = KernelDensity(bandwidth=0.5).fit(IRIS)
    expected = neuralize(KernelDensity(bandwidth=0.5).fit(IRIS[:, ORDER]))
    net = shuffled_features(neuralize(kde), ORDER)
    torch.testing.assert_close(net.relevance(x).values, expected.relevance(x).values)


def test_preprocessing_is_reordered_too():
    x = torch.from_numpy(IRIS[:20])
    model = make_pipeline(StandardScaler(), KernelDensity(bandwidth=0.5))
    net = shuffled_features(neuralize(model.fit(IRIS)), ORDER)
    expected = neuralize(model.fit(IRIS[:, ORDER]))
    torch.testing.assert_close(net.relevance(x).values, expected.relevance(x).values)


def test_the_original_stays_bit_for_bit():
    net = neuralize(KernelDensity(bandwidth=0.5).fit(IRIS))
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    modules, threshold = list(net.modules()), net.threshold
    randomisation_check(net, IRIS[:10], n_repeats=3)
    after = dict(net.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modules == list(net.modules())
    assert net.threshold == threshold
    copied = {b.data_ptr() for b in shuffled_features(net, ORDER).buffers()}
    assert not copied & {b.data_ptr() for b in net.buffers()}


def test_correlations_are_spearmans():
    model = KMeans(3, n_init=1, random_state=0).fit(IRIS)
    frame = randomisation_check(model, IRIS[:6], n_repeats=2, seed=4)
    assert frame.shape == (12, 3)
    net, fitted = neuralize(model), xai.explain(model, IRIS[:6])
    for repeat in range(2):
        order = np.random.default_rng([4, repeat]).permutation(4)
        other = xai.explain(shuffled_features(net, order), IRIS[:6], target=fitted.target)
        for row in range(6):
            expected = spearmanr(fitted.values[row], other.values[row]).statistic
            line = frame[(frame["repeat"] == repeat) & (frame["row"] == row)]
            np.testing.assert_allclose(line["rank_correlation"].item(), expected)


def test_it_tells_explanations_of_the_model_from_pictures_of_the_input():
    digits = load_digits()
    model = KMeans(10, n_init=1, random_state=0).fit(digits.data)
    images = digits.images[:30]

    def mean(method):
        frame = randomisation_check(model, images, method=method, background=digits.images)
        return frame["rank_correlation"].mean()

    assert mean("lrp") < 0.3
    assert mean("random") == pytest.approx(1.0)
    kde = KernelDensity(bandwidth=5.0).fit(digits.data)
    blind = randomisation_check(
        kde, images, method="nearest_neighbor_difference", background=digits.images[100:]
    )
    np.testing.assert_allclose(blind["rank_correlation"], 1.0)


def test_relevance_without_order():
    x = np.array([[2.0, 2.0]])
    same = randomisation_check(np.array([[0.0, 0.0], [4.5, 4.5]]), x, n_repeats=1)
    assert same["rank_correlation"].tolist() == [1.0]
    x = np.array([[1.0, 2.0, 3.0]])
    even = np.array([[0.0, 1.0, 2.0], [-2.0, -1.0, 0.0]])  # relevance (8, 8, 8) at x
    changed = randomisation_check(even, x, n_repeats=1)
    assert changed["rank_correlation"].tolist() == [0.0]


def test_an_encoder_is_shared_and_its_features_shuffled():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
    net = neuralize(torch.randn(3, 5), features=encoder)
    order = [4, 0, 1, 2, 3]
    other = shuffled_features(net, order)
    assert other.features is encoder
    x = torch.randn(4, 8, 8)
    expected = neuralize(torch.cat([net.distances.support + net.distances.center])[:, order])
    torch.testing.assert_close(other(x), expected(encoder(x).double()))
    frame = randomisation_check(net, x, method="gradient_x_input", n_repeats=1)
    assert len(frame) == 4


def test_misuse():
    net = neuralize(np.eye(3))
    with pytest.raises(InputError, match="permutation of 3"):
        shuffled_features(net, [0, 1, 1])
    with pytest.raises(InputError, match="n_repeats"):
        randomisation_check(net, np.ones((1, 3)), n_repeats=0)
    with pytest.raises(InputError, match="two features"):
        randomisation_check(np.array([[0.0], [1.0]]), np.ones((1, 1)))
