"""Pixel-flipping: by hand, by enumeration of all orders, and by a plain re-implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_iris
from sklearn.neighbors import KernelDensity

import xai
import xai.evaluate.flipping as flipping
from neuralize import InputError, UnsupportedModelError, neuralize
from neuralize.layers import SquaredDistances, WeightedSum
from neuralize.outlier import OutlierNetwork
from neuralize.score_map import ScoreMap
from xai.evaluate import FlippingResult, pixel_flipping, plot_curves
from xai.evaluate.units import feature_units, pixels

IRIS = load_iris().data


def additive(center):
    """``o = ||x - u||^2``, additive over features."""
    u = torch.as_tensor(center, dtype=torch.float64).reshape(1, -1)
    return OutlierNetwork(
        [SquaredDistances(u), WeightedSum(torch.ones(1, dtype=torch.float64))],
        n_features=u.shape[1],
        evidence_name="squared distance",
        score_map=ScoreMap("score"),
        model_name="additive",
    )


def as_scores(order):
    """Relevance that makes ``order`` the order of removal."""
    scores = np.empty(len(order))
    scores[list(order)] = np.arange(len(order))[::-1]
    return scores[None]


def test_a_curve_by_hand():
    net = additive([0.0, 0.0, 0.0])
    x = np.array([[3.0, 1.0, 2.0]])
    reference = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])  # mean (1, 0, 0)
    result = pixel_flipping(
        net, x, np.array([[9.0, 1.0, 4.0]]), replace="mean", reference=reference
    )
    assert result.evidence.tolist() == [[14.0, 6.0, 2.0, 1.0]]
    np.testing.assert_allclose(result.removed, [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(result.curve(), [[1, 5 / 13, 1 / 13, 0]])
    np.testing.assert_allclose(result.auc(), [(0.5 + 5 / 13 + 1 / 13) / 3])
    np.testing.assert_allclose(result.auc("none"), [(7 + 6 + 2 + 0.5) / 3])


@pytest.mark.parametrize("d", [2, 3, 4, 5])
def test_the_true_order_of_an_additive_model_is_the_best_of_all(d):
    rng = np.random.default_rng(d)
    net, x, reference = additive(rng.normal(size=d)), rng.normal(size=(1, d)), np.zeros((1, d))
    u = (net.layers[0].support + net.layers[0].center).numpy()
    contributions = (x - u) ** 2 - (reference - u) ** 2
    areas = {
        order: pixel_flipping(net, x, as_scores(order), replace="mean", reference=reference).auc(
            "none"
        )[0]
        for order in itertools.permutations(range(d))
    }
    best = pixel_flipping(net, x, contributions, replace="mean", reference=reference).auc("none")[0]
    assert best == min(areas.values())
    assert sum(area > best for area in areas.values()) == len(areas) - 1
    worst = pixel_flipping(
        net, x, contributions, replace="mean", reference=reference, order="least_relevant_first"
    )
    assert worst.auc("none")[0] == max(areas.values())


def test_lrp_finds_that_order_where_the_replacement_is_the_center():
    rng = np.random.default_rng(0)
    center, x = rng.normal(size=5), rng.normal(size=(20, 5))
    net = additive(center)
    relevance = xai.explain(net, x)
    result = pixel_flipping(net, x, relevance, replace="mean", reference=center[None])
    for row in range(20):
        areas = [
            pixel_flipping(
                net, x[[row]], as_scores(order), replace="mean", reference=center[None]
            ).auc("none")[0]
            for order in itertools.permutations(range(5))
        ]
        np.testing.assert_allclose(result.auc("none")[row], min(areas))


def plain_flipping(evidence, x, relevance, reference, g):
    """Conditional mean replacement, one row, one feature and one reference row at a time."""
    scale = reference.std(0)
    curves = []
    for row, scores in zip(x, relevance, strict=True):
        order = sorted(range(len(row)), key=lambda i, s=scores: -s[i])
        curve = [evidence(row)]
        for t in range(1, len(row) + 1):
            kept = order[t:]
            weights = []
            for u in reference:
                weights.append(-g * sum(((row[i] - u[i]) / scale[i]) ** 2 for i in kept))
            top = max(weights)
            weights = [np.exp(w - top) for w in weights]
            filled = row.copy()
            for i in order[:t]:
                pairs = zip(weights, reference, strict=True)
                filled[i] = sum(w * u[i] for w, u in pairs) / sum(weights)
            curve.append(evidence(filled))
        curves.append(curve)
    return np.array(curves)


def test_conditional_flipping_of_an_outlier_score_by_loops():
    model = KernelDensity(bandwidth=0.4).fit(IRIS[:50])
    net, x, reference = neuralize(model), IRIS[50:56], IRIS[:20]
    relevance = xai.explain(net, x)
    rule = xai.evaluate.replacement_rule("conditional", reference, (4,))
    result = pixel_flipping(net, x, relevance, reference=reference)
    expected = plain_flipping(
        lambda row: -model.score_samples(row[None])[0],
        x,
        relevance.values,
        reference,
        rule.stiffness,
    )
    scale = -net.score_map.scale
    expected = (expected + net.score_map.offset) / scale
    np.testing.assert_allclose(result.evidence, expected, rtol=1e-9)


def test_conditional_flipping_of_clusters_by_loops():
    model = KMeans(3, n_init=1, random_state=0).fit(IRIS)
    x, reference = IRIS[::25], IRIS[::7]
    relevance = xai.explain(model, x)
    rule = xai.evaluate.replacement_rule("conditional", reference, (4,))
    curves = []
    for row, values in zip(x, relevance.values, strict=True):
        own = model.predict(row[None])[0]

        def evidence(z, own=own):
            d = ((z - model.cluster_centers_) ** 2).sum(1)
            return np.delete(d, own).min() - d[own]

        curves.append(
            plain_flipping(evidence, row[None], values[None], reference, rule.stiffness)[0]
        )
    result = pixel_flipping(model, x, relevance, reference=reference)
    np.testing.assert_allclose(result.evidence, curves, rtol=1e-8, atol=1e-8)
    assert (result.evidence < 0).any()  # rows left their cluster, the target did not follow


def test_the_target_is_the_relevances_then_the_first_assignment():
    model = KMeans(3, n_init=1, random_state=0).fit(IRIS)
    x = IRIS[:5]
    second = np.argsort(neuralize(model)(torch.from_numpy(x)).numpy(), 1)[:, -2]
    relevance = xai.explain(model, x, target=second)
    options = {"replace": "mean", "reference": IRIS}
    result = pixel_flipping(model, x, relevance, **options)
    np.testing.assert_allclose(result.evidence[:, 0], relevance.evidence)
    own = pixel_flipping(model, x, relevance.values, **options)
    np.testing.assert_allclose(own.evidence[:, 0], xai.explain(model, x).evidence)
    other = pixel_flipping(model, x, relevance.values, target=second, **options)
    np.testing.assert_array_equal(other.evidence, result.evidence)


def test_steps_group_features_and_patches_pixels():
    digits = load_digits()
    images = digits.images[:6]
    model = KernelDensity(bandwidth=8.0).fit(digits.data[100:200])
    relevance = xai.explain(model, images)
    assert relevance.values.shape == (6, 8, 8)
    options = {"replace": "mean", "reference": digits.images[100:200]}
    fine = pixel_flipping(model, images, relevance, **options)
    coarse = pixel_flipping(model, images, relevance, n_steps=16, **options)
    np.testing.assert_allclose(coarse.evidence, fine.evidence[:, ::4])
    patched = pixel_flipping(model, images, relevance, patch=3, **options)
    mean, net = digits.data[100:200].mean(0), neuralize(model)
    for row in range(6):
        sums = {
            (i, j): relevance.values[row, i : i + 3, j : j + 3].sum()
            for i in (0, 3, 6)
            for j in (0, 3, 6)
        }
        image = images[row].copy()
        for step, (i, j) in enumerate(sorted(sums, key=lambda key, s=sums: -s[key]), 1):
            image[i : i + 3, j : j + 3] = mean.reshape(8, 8)[i : i + 3, j : j + 3]
            expected = net(torch.from_numpy(image.reshape(1, -1))).item()
            np.testing.assert_allclose(patched.evidence[row, step], expected)
    np.testing.assert_allclose(patched.removed, np.arange(10) / 9)


def test_pixels_of_every_layout_are_the_same_picture():
    rng = np.random.default_rng(0)
    picture = rng.random((4, 5, 3))
    last = pixels((4, 5, 3))
    first = pixels((3, 4, 5))
    np.testing.assert_array_equal(picture.ravel()[last], picture)
    np.testing.assert_array_equal(np.moveaxis(picture, 2, 0).ravel()[first], picture)
    for shape in [(3, 4, 5), (4, 5, 3), (4, 5)]:
        units = feature_units(shape, 2)
        used = units[units < np.prod(shape)]
        assert sorted(used.tolist()) == list(range(int(np.prod(shape))))
        assert len(units) == 6


def test_ties_fall_by_the_seed_and_rows_do_not_share_it():
    net, x = additive(np.zeros(6)), np.tile(np.arange(1.0, 7.0), (40, 1))
    flat = np.zeros_like(x)
    options = {"replace": "mean", "reference": np.zeros((1, 6))}
    first = pixel_flipping(net, x, flat, **options)
    again = pixel_flipping(net, x, flat, **options)
    np.testing.assert_array_equal(first.evidence, again.evidence)
    assert len(np.unique(first.evidence[:, 1])) == 6
    other = pixel_flipping(net, x, flat, seed=1, **options)
    assert (first.evidence != other.evidence).any()
    both = pixel_flipping(net, x, flat, n_repeats=2, **options)
    np.testing.assert_allclose(both.evidence, (first.evidence + other.evidence) / 2)


@pytest.mark.parametrize("replace", ["conditional", "conditional_sample", "mean"])
def test_chunks_change_nothing(monkeypatch, replace):
    model = KernelDensity(bandwidth=0.4).fit(IRIS[:50])
    x, values = IRIS[50:80], np.ones((30, 4))
    whole = pixel_flipping(model, x, values, replace=replace, reference=IRIS[:50])
    monkeypatch.setattr(flipping, "_CHUNK_BYTES", 7 * 8 * 50)
    parts = pixel_flipping(model, x, values, replace=replace, reference=IRIS[:50])
    np.testing.assert_allclose(parts.evidence, whole.evidence, rtol=1e-10)


def test_an_encoder_sees_pictures():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    images = load_digits().images[:5, None].astype(np.float32)
    net = neuralize(torch.randn(3, 4 * 36), features=encoder)
    relevance = xai.explain(net, images, method="gradient_x_input")
    result = pixel_flipping(net, images, relevance, replace="inpaint", reference=images, patch=4)
    own = net(torch.from_numpy(images)).max(1).values.detach().numpy()
    np.testing.assert_allclose(result.evidence[:, 0], own, rtol=1e-5)
    assert result.evidence.shape == (5, 5)


def example():
    evidence = np.array([[4.0, 1.0, 0.0], [6.0, 5.0, 2.0], [3.01, 9.0, 3.0]])
    removed = np.array([0.0, 0.5, 1.0])
    return FlippingResult(evidence, removed, "most_relevant_first", "distance", "LRP")


def test_scales_of_a_curve():
    result = example()
    drop = (4 + 4 + 0.01) / 3
    np.testing.assert_allclose(result.curve("pooled")[1], [4 / drop, 3 / drop, 0])
    np.testing.assert_allclose(result.curve("pooled").mean(0)[[0, 2]], [1, 0])
    np.testing.assert_allclose(result.curve("rows")[:2], [[1, 0.25, 0], [1, 0.75, 0]])
    assert np.isnan(result.curve("rows")[2]).all()  # 6 / 0.01 would outweigh all else
    np.testing.assert_array_equal(result.curve("none"), result.evidence)
    summary = result.summary("rows")
    np.testing.assert_allclose(summary.to_numpy(), [0.5, 0.125, 2], rtol=1e-12)


def test_evidence_that_rises_has_no_pooled_scale():
    rising = FlippingResult(
        np.array([[0.0, 1.0]]), np.array([0.0, 1.0]), "most_relevant_first", "f", "LRP"
    )
    with pytest.raises(InputError, match="normalize='none'"):
        rising.curve()
    with pytest.raises(InputError, match="'pooled'"):
        rising.curve("mean")


def test_every_number_can_be_taken_along():
    frame = example().to_frame()
    assert list(frame.columns) == ["row", "step", "removed", "evidence", "curve"]
    wide = frame.pivot(index="row", columns="step", values="evidence")
    np.testing.assert_array_equal(wide, example().evidence)
    assert isinstance(example().summary(), pd.Series)


def test_plots_show_the_mean_curve():
    figure = plot_curves({"LRP": example(), "random": example()}, "rows")
    assert isinstance(figure, Figure)
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["LRP", "random"]
    np.testing.assert_allclose(lines[0].get_ydata(), [1, 0.5, 0])
    axes = Figure().subplots()
    assert example().plot(ax=axes) is axes.get_figure()
    with pytest.raises(InputError, match="none"):
        plot_curves({})


def test_misuse_is_told_apart():
    net, x = additive([0.0, 0.0]), np.ones((2, 2))
    options = {"reference": x}
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        pixel_flipping(net, x, np.ones((2, 3)), **options)
    with pytest.raises(InputError, match="NaN"):
        pixel_flipping(net, x, np.full((2, 2), np.nan), **options)
    with pytest.raises(InputError, match="n_steps"):
        pixel_flipping(net, x, x, n_steps=3, **options)
    with pytest.raises(InputError, match="n_repeats"):
        pixel_flipping(net, x, x, n_repeats=0, **options)
    with pytest.raises(InputError, match="order"):
        pixel_flipping(net, x, x, order="random", **options)
    with pytest.raises(InputError, match="patch=1"):
        pixel_flipping(net, x, x, patch=2, **options)
    net.row_independent = False
    with pytest.raises(UnsupportedModelError, match="other rows"):
        pixel_flipping(net, x, x, **options)
