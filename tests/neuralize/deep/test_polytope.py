"""Random polytopes: how they are made, what they decide, encoders below them, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from neuralize import InputError, UnsupportedModelError, neuralize
from neuralize.deep.detector import load_detector
from neuralize.deep.polytope import RandomPolytope


def cloud(n: int = 150, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) + 3


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_every_facet_leaves_as_many_rows_outside_as_it_is_told(rank: int) -> None:
    x = cloud()
    module = RandomPolytope(n_facets=60, rank=rank, preprocessing=None).fit(x).module_
    gauge: Any = module.gauge
    u, c, h = (t.double().numpy() for t in (gauge.directions, gauge.centers[0], gauge.offsets[0]))
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(c, x.mean(0), rtol=1e-6)
    for direction, offset in zip(u, h, strict=True):
        heights = np.sort((x - c) @ direction)[::-1]
        assert heights[rank - 1] == pytest.approx(offset, rel=1e-5)


def test_the_score_is_the_scale_at_which_the_polytope_holds_a_row() -> None:
    x = cloud()
    detector = RandomPolytope(n_facets=100, preprocessing=None).fit(x)
    center = x.mean(0)
    ray = center + np.array([[0.5], [1.0], [4.0]]) * (x[3] - center)
    one = detector.decision_function(ray)
    np.testing.assert_allclose(one, one[1] * np.array([0.5, 1, 4]), rtol=1e-4)


def test_inside_and_outside_with_the_boundary_as_threshold() -> None:
    x = cloud()
    detector = RandomPolytope(n_facets=100, rank=1, threshold="boundary").fit(x)
    assert detector.threshold_ == pytest.approx(1, abs=1e-4)
    assert not detector.predict(x).any()
    assert detector.decision_scores_.max() == pytest.approx(1, abs=1e-5)
    assert detector.predict(x.mean(0) + 3 * (x - x.mean(0)))[detector.decision_scores_ > 0.5].all()
    assert RandomPolytope(contamination=0.2).fit(x).predict(x).mean() == pytest.approx(
        0.2, abs=0.02
    )


def test_units_do_not_matter_where_columns_are_standardised() -> None:
    x = cloud()
    plain = RandomPolytope(n_facets=50).fit(x)
    scaled = RandomPolytope(n_facets=50).fit(x * [1, 1000, 0.01, 1] + 5)
    np.testing.assert_allclose(plain.decision_scores_, scaled.decision_scores_, rtol=1e-4)


def test_one_polytope_for_each_class() -> None:
    near, far = cloud(), cloud(seed=1) + 40
    x, y = np.concatenate([near, far]), np.repeat([5, 2], len(near))
    two = RandomPolytope(n_facets=100, preprocessing=None).fit(x, y)
    one = RandomPolytope(n_facets=100, preprocessing=None).fit(x)
    assert two.classes_ == (2, 5)
    between = x.mean(0, keepdims=True)
    assert two.decision_function(between) > 2 > 1 > one.decision_function(between)
    # far away from one class, the other class's polytope answers
    alone = RandomPolytope(n_facets=100, preprocessing=None).fit(near)
    np.testing.assert_allclose(two.decision_function(near), alone.decision_scores_, rtol=1e-4)


def test_a_stiff_pool_is_the_winner_and_a_soft_one_still_adds_up() -> None:
    x = cloud()
    detector = RandomPolytope(n_facets=100).fit(x)
    rows = torch.from_numpy(cloud(20, seed=1))  # a training row may lie on several facets
    hard = neuralize(detector).relevance(rows)
    stiff = neuralize(detector, stiffness=1e6).relevance(rows)
    soft = neuralize(detector, stiffness=1.0).relevance(rows)
    torch.testing.assert_close(stiff.values, hard.values, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(soft.evidence, hard.evidence)
    torch.testing.assert_close(soft.values.sum(1), soft.evidence)
    assert float((soft.values - hard.values).abs().max()) > 0.05
    with pytest.raises(InputError, match="stiffness"):
        neuralize(detector, stiffness=0.0)
    with pytest.raises(UnsupportedModelError, match="no option"):
        neuralize(detector, beta=3)


def test_relevance_reaches_pictures_through_an_encoder() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder.append(nn.Dropout())
    encoder.train()
    pictures = np.random.default_rng(0).normal(size=(80, 1, 9, 9)).astype(np.float32)
    detector = RandomPolytope(n_facets=80, features=encoder).fit(pictures)
    assert encoder.training, "the encoder's mode was changed"
    with torch.no_grad():
        phi = encoder.eval()(torch.from_numpy(pictures))
    alone = RandomPolytope(n_facets=80).fit(phi)
    np.testing.assert_allclose(detector.decision_scores_, alone.decision_scores_, rtol=1e-4)
    net = neuralize(detector)
    assert next(net.features.parameters()).dtype == torch.float32
    beside = neuralize(alone, encoder, dtype=torch.float64)
    found = net.relevance(torch.from_numpy(pictures[:9]), composite="epsilon")
    assert found.values.shape == (9, 1, 9, 9)
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-4, atol=1e-5)
    other = beside.relevance(torch.from_numpy(pictures[:9]), composite="epsilon")
    torch.testing.assert_close(found.values, other.values, rtol=1e-2, atol=1e-4)


def test_pictures_are_scaled_as_a_whole_and_explained_flat() -> None:
    pictures = load_digits().images[:200]
    detector = RandomPolytope(n_facets=80).fit(pictures)
    plain = RandomPolytope(n_facets=80, preprocessing=None).fit(pictures.reshape(200, -1))
    np.testing.assert_allclose(detector.decision_scores_, plain.decision_scores_, rtol=1e-4)
    found = neuralize(detector).relevance(torch.from_numpy(pictures[:5]).flatten(1))
    np.testing.assert_allclose(found.evidence, detector.decision_scores_[:5], rtol=1e-5)
    torch.testing.assert_close(found.values.sum(1), found.evidence)


def test_behind_a_scaler_relevance_is_in_the_table_s_columns() -> None:
    x = cloud()
    pipeline = make_pipeline(StandardScaler(), RandomPolytope(n_facets=60, preprocessing=None))
    net = neuralize(pipeline.fit(x))
    own = neuralize(RandomPolytope(n_facets=60).fit(x))
    rows = torch.from_numpy(x[:9])
    torch.testing.assert_close(
        net.relevance(rows).values, own.relevance(rows).values, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("encoder", [None, nn.Linear(4, 3)])
def test_saved_and_loaded(tmp_path: Path, encoder: nn.Module | None) -> None:
    x = cloud()
    detector = RandomPolytope(n_facets=30, features=encoder).fit(x, np.arange(len(x)) % 2)
    path = detector.save(tmp_path / "polytope.safetensors")
    if encoder is not None:
        with pytest.raises(InputError, match="network="):
            load_detector(path)
    again = load_detector(path, encoder)
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))
    assert (again.classes_, again.threshold_) == (detector.classes_, detector.threshold_)
    rows = torch.from_numpy(x[:5]).float()
    torch.testing.assert_close(
        neuralize(again).relevance(rows).values, neuralize(detector).relevance(rows).values
    )


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({"n_facets": 0}, None, "at least 1 facet"),
        ({"rank": 0}, None, "rank 1"),
        ({"rank": 150}, None, "more than rank=150 rows"),
        ({"rank": 100}, None, "pass through it"),
        ({"threshold": 1.0}, None, "threshold"),
        ({"preprocessing": "whiten"}, None, "preprocessing"),
        ({"features": nn.Unflatten(1, (2, 2))}, None, "features \\(n, q\\)"),
        ({"features": "resnet"}, None, "nn.Module"),
        ({}, np.zeros(3, dtype=int), "class"),
        ({}, np.zeros(150), "whole number"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(options: dict[str, Any], y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RandomPolytope(**options).fit(cloud(), y)


def test_rows_that_are_all_the_same_have_no_polytope() -> None:
    with pytest.raises(InputError, match="nearly"):
        RandomPolytope(n_facets=10).fit(np.ones((20, 3)))


def test_digits_one_against_the_rest() -> None:
    pictures, y = load_digits().images, load_digits().target
    aucs = []
    for digit in (0, 4, 9):
        own = np.random.default_rng(digit).permutation(np.flatnonzero(y == digit))
        split = int(0.6 * len(own))
        detector = RandomPolytope(n_facets=1000).fit(pictures[own[:split]])
        rows = np.concatenate([own[split:], np.flatnonzero(y != digit)])
        aucs.append(roc_auc_score(y[rows] != digit, detector.decision_function(pictures[rows])))
    assert np.mean(aucs) > 0.975
    assert math.isfinite(detector.threshold_ or math.nan)
