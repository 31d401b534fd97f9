"""Baselines against captum, autograd by hand, and plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.svm import OneClassSVM
from torch import nn

import xai
from neuralize import neuralize
from xai.baselines import AT_BASELINE, BASELINES, baseline
from xai.errors import InputError, UnsupportedModelError

IRIS = load_iris().data
ROWS = torch.from_numpy(IRIS[::15] + 0.03)


@pytest.fixture
def kde():
    return neuralize(KernelDensity(bandwidth=0.5).fit(IRIS))


@pytest.fixture
def kmeans():
    return neuralize(KMeans(3, n_init=1, random_state=0).fit(IRIS))


def explain(net, method, *, x=ROWS, target=None, output="score", background=None, seed=0):
    return baseline(net, x, target, method, output, background, seed)


def test_gradient_is_the_squared_derivative_of_captum(kde):
    expected = Saliency(kde).attribute(ROWS.clone().requires_grad_(), abs=False) ** 2
    torch.testing.assert_close(explain(kde, "gradient").values, expected)


def test_gradient_is_the_squared_finite_difference(kde):
    step = 1e-5
    for i in range(4):
        shift = step * torch.eye(4, dtype=torch.float64)[i]
        slope = (kde(ROWS + shift) - kde(ROWS - shift)) / (2 * step)
        torch.testing.assert_close(
            explain(kde, "gradient").values[:, i], slope**2, rtol=1e-5, atol=1e-8
        )


def test_gradient_x_input_is_captums_for_every_target(kmeans):
    for target in range(3):
        expected = InputXGradient(kmeans).attribute(ROWS.clone().requires_grad_(), target=target)
        part = explain(kmeans, "gradient_x_input", target=target)
        torch.testing.assert_close(part.values, expected)
        torch.testing.assert_close(part.evidence, kmeans(ROWS)[:, target])


def test_integrated_gradients_agree_with_captums_own_integration(kde):
    start = torch.from_numpy(IRIS.mean(0, keepdims=True))
    expected = IntegratedGradients(kde).attribute(
        ROWS, start.expand_as(ROWS), n_steps=400, method="gausslegendre"
    )
    part = explain(kde, "integrated_gradients", background=IRIS)
    torch.testing.assert_close(part.values, expected, rtol=2e-3, atol=2e-3)


def test_integrated_gradients_of_clusters_agree_with_captum(kmeans):
    start = torch.from_numpy(IRIS.mean(0, keepdims=True))
    goal = kmeans.predict(ROWS)
    expected = IntegratedGradients(kmeans).attribute(
        ROWS, start.expand_as(ROWS), target=goal, n_steps=64, method="riemann_middle"
    )
    part = explain(kmeans, "integrated_gradients", background=IRIS)
    torch.testing.assert_close(part.values, expected)
    torch.testing.assert_close(part.target, goal)


def test_integrated_gradients_and_the_start_add_up_to_the_evidence(kde):
    part = explain(kde, "integrated_gradients", background=IRIS)
    start = kde(torch.from_numpy(IRIS.mean(0, keepdims=True)))
    torch.testing.assert_close(part.absorbed[AT_BASELINE], start.expand(len(ROWS)))
    gap = part.evidence - part.values.sum(1) - part.absorbed[AT_BASELINE]
    assert float(gap.abs().max()) < 1e-3 * float(part.evidence.abs().max())


def test_a_margin_is_the_evidence_less_the_threshold():
    svm = neuralize(OneClassSVM(nu=0.2, gamma=0.5).fit(IRIS))
    for method in BASELINES:
        score = explain(svm, method, background=IRIS)
        margin = explain(svm, method, background=IRIS, output="margin")
        torch.testing.assert_close(margin.evidence, score.evidence - svm.threshold)
        torch.testing.assert_close(margin.values, score.values)
    margin = explain(svm, "integrated_gradients", background=IRIS, output="margin")
    start = svm(torch.from_numpy(IRIS.mean(0, keepdims=True)))
    torch.testing.assert_close(
        margin.absorbed[AT_BASELINE], (start - svm.threshold).expand(len(ROWS))
    )


def test_nearest_difference_by_loops(kde, kmeans):
    background = IRIS[::2]
    expected = []
    for row in ROWS.numpy():
        nearest = min(background, key=lambda b, row=row: ((row - b) ** 2).sum())
        expected.append((row - nearest) ** 2)
    part = explain(kde, "nearest_neighbor_difference", background=background)
    np.testing.assert_allclose(part.values, expected)
    for target in range(3):
        labels = kmeans.predict(torch.from_numpy(background)).numpy()
        others = background[labels != target]
        expected = []
        for row in ROWS.numpy():
            nearest = min(others, key=lambda b, row=row: ((row - b) ** 2).sum())
            expected.append((row - nearest) ** 2)
        part = explain(kmeans, "nearest_neighbor_difference", background=background, target=target)
        np.testing.assert_allclose(part.values, expected)


def test_nearest_difference_needs_a_row_of_another_cluster(kmeans):
    own = IRIS[kmeans.predict(torch.from_numpy(IRIS)).numpy() == 0]
    with pytest.raises(InputError, match="outside cluster 0"):
        explain(kmeans, "nearest_neighbor_difference", background=own, target=0)


def test_random_does_not_depend_on_batches():
    model = KernelDensity().fit(IRIS)
    whole = xai.explain(model, IRIS, method="random", seed=3)
    parts = xai.explain(model, IRIS, method="random", seed=3, batch_size=7)
    np.testing.assert_array_equal(whole.values, parts.values)
    other = xai.explain(model, IRIS, method="random", seed=1000)
    assert abs(np.corrcoef(whole.values.ravel(), other.values.ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input", "integrated_gradients"])
def test_chunks_bound_what_is_alive_and_change_nothing(kde, method):
    whole = explain(kde, method, background=IRIS).values
    kde.chunk_bytes = 3 * 8 * kde.width
    seen = []
    inner = kde.evidence
    kde.evidence = lambda x, target=None: seen.append(len(x)) or inner(x, target)
    torch.testing.assert_close(explain(kde, method, background=IRIS).values, whole)
    alive = [n for n in seen if n != len(ROWS)]
    assert max(alive) == 3


def test_nearest_difference_in_chunks(kmeans):
    whole = explain(kmeans, "nearest_neighbor_difference", background=IRIS).values
    kmeans.chunk_bytes = 2 * 8 * len(IRIS)
    part = explain(kmeans, "nearest_neighbor_difference", background=IRIS)
    torch.testing.assert_close(part.values, whole)


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input", "integrated_gradients"])
def test_step_functions_and_batch_scores_have_no_gradient(kde, method):
    kde.differentiable = False
    with pytest.raises(UnsupportedModelError, match="method='lrp'"):
        explain(kde, method, background=IRIS)
    kde.differentiable, kde.row_independent = True, False
    with pytest.raises(UnsupportedModelError, match="other rows of its batch"):
        explain(kde, method, background=IRIS)
    explain(kde, "random")


@pytest.mark.parametrize("method", ["integrated_gradients", "nearest_neighbor_difference"])
def test_background_is_asked_for_and_checked(kde, method):
    with pytest.raises(InputError, match="background=<rows"):
        explain(kde, method)
    with pytest.raises(InputError, match=r"\(4,\)"):
        explain(kde, method, background=IRIS[:, :3])
    with pytest.raises(InputError, match="NaN"):
        explain(kde, method, background=np.full((2, 4), np.nan))
    frame = explain(kde, method, background=pd.DataFrame(IRIS))
    torch.testing.assert_close(frame.values, explain(kde, method, background=IRIS).values)


def test_wrong_options_are_named(kde):
    with pytest.raises(InputError, match="'random'"):
        explain(kde, "shap")
    with pytest.raises(InputError, match="'margin'"):
        explain(kde, "random", output="logit")
    with pytest.raises(InputError, match="no threshold"):
        explain(kde, "random", output="margin")


def test_no_gradient_at_a_distance_of_zero_counts_as_zero():
    knn = neuralize(NearestNeighbors(n_neighbors=1).fit(IRIS))
    part = explain(knn, "gradient", x=torch.from_numpy(IRIS[:3]))
    torch.testing.assert_close(part.evidence, torch.zeros(3, dtype=torch.float64))
    assert bool((part.values == 0).all())


def test_gradients_go_through_an_encoder():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Tanh())
    pictures = torch.randn(5, 2, 3)
    centroids = torch.randn(2, 3)
    net = neuralize(centroids, features=encoder)
    x = pictures.clone().requires_grad_()
    d = ((encoder(x).double().unsqueeze(1) - centroids.double()) ** 2).sum(2)
    gap = d[:, 1] - d[:, 0]
    (expected,) = torch.autograd.grad(gap.sum(), x)
    part = explain(net, "gradient_x_input", x=pictures, target=0)
    torch.testing.assert_close(part.values, pictures * expected, rtol=1e-5, atol=1e-6)
    part = explain(net, "integrated_gradients", x=pictures, target=0, background=pictures)
    assert part.values.shape == pictures.shape
