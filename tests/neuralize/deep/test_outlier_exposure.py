"""HSC, BCE and focal: objectives against their formulas, labels, overlap, what is learned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neuralize import InputError, neuralize
from neuralize.deep import BinaryClassifier, HypersphereClassifier, Training, load_detector
from neuralize.deep.binary import FocalLoss
from neuralize.deep.hypersphere import HypersphereLoss, sphere_norm
from neuralize.deep.outlier_exposure import NEAR, ExposedDetector, overlap
from neuralize.errors import TrainingWarning

SHORT = Training(epochs=3, batch_size=32, progress=False)
NORMS = ("pseudo_huber", "l1", "l2", "l2_squared")
DETECTORS = [
    pytest.param(HypersphereClassifier(training=SHORT), id="hsc"),
    pytest.param(BinaryClassifier(training=SHORT), id="bce"),
]


def rows(n: int = 60, m: int = 12, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Normal rows around zero, outliers around four."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(n, d)), rng.normal(4.0, 1.0, (m, d))])
    return x.astype(np.float32), np.repeat([0, 1], [n, m])


# -- objectives ----------------------------------------------------------------------------------


def written_out(norm: str, phi: np.ndarray) -> float:
    s = math.fsum(v * v for v in phi)
    if norm == "l1":
        return math.fsum(abs(v) for v in phi)
    return {"l2": math.sqrt(s), "l2_squared": s, "pseudo_huber": math.sqrt(s + 1) - 1}[norm]


@pytest.mark.parametrize("norm", NORMS)
def test_hypersphere_loss_is_its_formula(norm: Any) -> None:
    rng = np.random.default_rng(0)
    phi, y = rng.normal(size=(20, 3)), rng.integers(0, 2, 20)
    phi[0] = 1e-2
    terms = []
    for row, label in zip(phi, y, strict=True):
        h = written_out(norm, row)
        terms.append(-math.log(1 - math.exp(-h) + 1e-9) if label else h)
    found = HypersphereLoss(norm)(torch.from_numpy(phi), torch.from_numpy(y))
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_formula(gamma: float) -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.normal(0, 3, 20), rng.integers(0, 2, 20)
    terms = []
    for f, label in zip(logits, y, strict=True):
        p = 1 / (1 + math.exp(-f))
        p_t = p if label else 1 - p
        terms.append(-((1 - p_t) ** gamma) * math.log(p_t))
    found = FocalLoss(gamma)(torch.from_numpy(logits)[:, None], torch.from_numpy(y))
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    if gamma == 0:
        target = torch.from_numpy(y).double()
        bce = nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), target)
        assert found.item() == pytest.approx(bce.item(), rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [0.0, 1e-25, 1e4])
def test_hypersphere_loss_and_gradient_are_finite_everywhere(norm: Any, value: float) -> None:
    phi = torch.full((2, 3), value, requires_grad=True)
    loss = HypersphereLoss(norm)(phi, torch.tensor([0.0, 1.0]))
    (gradient,) = torch.autograd.grad(loss, phi)
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("value", [-300.0, 0.0, 300.0])
def test_focal_loss_and_gradient_are_finite_everywhere(gamma: float, value: float) -> None:
    logits = torch.full((2, 1), value, requires_grad=True)
    loss = FocalLoss(gamma)(logits, torch.tensor([0.0, 1.0]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())


def test_small_norms_keep_their_digits() -> None:
    phi = torch.tensor([[1e-4]])
    assert sphere_norm(phi, "pseudo_huber").item() == pytest.approx(5e-9, rel=1e-6)


# -- scores and decisions ------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_score_is_the_norm_and_probability_what_the_loss_is_of(norm: Any) -> None:
    x, y = rows()
    detector = HypersphereClassifier(norm=norm, training=SHORT).fit(x, y)
    module: Any = detector.module_
    with torch.no_grad():
        phi = module.network(module.preprocessing(torch.from_numpy(x))).double().numpy()
    expected = [written_out(norm, row) for row in phi]
    scores = detector.decision_function(x)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_allclose(detector.probability(x), 1 - np.exp(-scores), atol=1e-6)


def test_the_logits_probability() -> None:
    x, y = rows()
    detector = BinaryClassifier(training=SHORT).fit(x, y)
    logits = detector.decision_function(x)
    np.testing.assert_allclose(detector.probability(x), 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
def test_only_normal_rows_set_threshold_and_preprocessing(detector: Any) -> None:
    x, y = rows()
    detector.fit(x, y)
    scores = detector.decision_function(x)
    assert len(detector.decision_scores_) == (y == 0).sum()
    np.testing.assert_allclose(detector.threshold_, np.quantile(scores[y == 0], 0.9), rtol=1e-6)
    mean = detector.module_.preprocessing[0].mean.numpy()
    np.testing.assert_allclose(mean, x[y == 0].mean(0), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_hsc_learns_to_tell_them_apart(norm: Any) -> None:
    x, y = rows()
    training = Training(epochs=30, batch_size=32, progress=False)
    scores = HypersphereClassifier(norm=norm, training=training).fit(x, y).decision_function(x)
    assert scores[y == 1].min() > scores[y == 0].max()


@pytest.mark.parametrize("detector", DETECTORS)
def test_saved_and_loaded_scores_are_the_same(detector: Any, tmp_path: Path) -> None:
    x, y = rows()
    path = detector.fit(x, y).save(tmp_path / "exposed.safetensors")
    again = load_detector(path)
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))


def test_networks_of_ones_own() -> None:
    x, y = rows()
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    HypersphereClassifier(network=network, training=SHORT).fit(x, y)
    with pytest.raises(InputError, match=r"\(n, 1\).*BinaryClassifier"):
        BinaryClassifier(network=network, training=SHORT).fit(x, y)
    with pytest.raises(InputError, match="Flatten"):
        HypersphereClassifier(network=nn.Unflatten(1, (2, 2)), training=SHORT).fit(x, y)


@pytest.mark.parametrize("detector", DETECTORS)
def test_pictures_are_explained_where_outliers_differ(detector: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 0.5, (120, 12, 12)).astype(np.float32)
    x[80:, 1:4, 8:11] += 0.5
    y = np.repeat([0, 1], [80, 40])
    training = Training(epochs=4, batch_size=32, lr=3e-3, progress=False)
    detector.set_params(training=training).fit(x, y)
    found = neuralize(detector).relevance(torch.from_numpy(x[80:]))
    absorbed = sum(found.absorbed.values(), torch.zeros(40))
    size = found.values.abs().flatten(1).sum(1)
    gap = found.evidence - found.values.flatten(1).sum(1) - absorbed
    assert bool((gap.abs() <= 1e-5 * size).all())
    positive = found.values.clamp(min=0)
    share = positive[:, 1:4, 8:11].sum() / positive.sum()
    assert share > 5 * 9 / 144


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (None, "Expected labels y"),
        (np.zeros(72), "no outliers"),
        (np.ones(72), "no normal ones"),
        (np.zeros(71), r"shape \(71,\)"),
        (np.repeat([0, -1], 36), "with values -1, 0"),
        (np.full(72, np.nan), "with values nan"),
        (np.repeat(["a", "b"], 36), "with values a, b"),
    ],
)
def test_bad_labels_are_refused(detector: ExposedDetector, labels: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        detector.fit(rows()[0], labels)


@pytest.mark.parametrize(
    ("detector", "what"),
    [
        (HypersphereClassifier(norm="l3"), "norm 'pseudo_huber'"),  # type: ignore[arg-type]
        (BinaryClassifier(objective="hinge"), "'bce' or 'focal'"),  # type: ignore[arg-type]
        (BinaryClassifier(gamma=-1.0), "gamma"),
        (BinaryClassifier(gamma=math.nan), "gamma"),
        (HypersphereClassifier(network="resnet"), "Expected network"),
        (HypersphereClassifier(preprocessing="whiten"), "Expected preprocessing"),
        (HypersphereClassifier(contamination=0.0), "contamination"),
    ],
)
def test_bad_parameters_are_refused(detector: ExposedDetector, what: str) -> None:
    with pytest.raises(InputError, match=what):
        detector.fit(*rows())


# -- outliers that are normal --------------------------------------------------------------------


@pytest.mark.parametrize("detector", DETECTORS)
def test_outliers_among_the_normal_rows_are_counted_and_named(detector: Any) -> None:
    x, y = rows()
    x[[63, 70]] = x[[5, 9]]
    x[66] = x[3] + 1e-3
    what = r"3 of 12 outliers.*2 are copies.*1 nearly.*rows 63, 66, 70;"
    with pytest.warns(TrainingWarning, match=what):
        detector.fit(x, y)
    assert detector.overlapping_.tolist() == [63, 66, 70]


def test_units_of_columns_do_not_hide_copies() -> None:
    x, y = rows()
    x *= np.array([1e4, 1, 1, 1], dtype=np.float32)
    x[66] = x[3] * 1.001
    with pytest.warns(TrainingWarning, match="rows 66;"):
        BinaryClassifier(training=SHORT).fit(x, y)


def test_overlap_is_what_pairs_say() -> None:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(40, 3)).astype(np.float32)
    outliers = rng.normal(size=(60, 3)).astype(np.float32)
    outliers[:3] = normals[[7, 7, 20]]
    outliers[3:9] = normals[:6] + rng.normal(0, 0.04, (6, 3))

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return math.dist(a.astype(float).tolist(), b.astype(float).tolist())

    usual = [
        min(distance(a, b) for j, b in enumerate(normals) if i != j) for i, a in enumerate(normals)
    ]
    copies, near = [], []
    for i, row in enumerate(outliers):
        nearest = min(distance(row, other) for other in normals)
        if nearest == 0:
            copies.append(i)
        elif nearest < NEAR * float(np.median(usual)):
            near.append(i)
    found = overlap(torch.from_numpy(normals), torch.from_numpy(outliers))
    assert found.copies.tolist() == copies and len(copies) == 3
    assert found.near.tolist() == near and 2 < len(near) < 12


def test_equal_normal_rows_leave_no_distance_to_go_by() -> None:
    same = torch.ones(5, 2)
    found = overlap(same, torch.tensor([[1.0, 1.0], [1.0, 1.001]]))
    assert found.copies.tolist() == [0] and not len(found.near)
    one = overlap(same[:1], same[:1] + 1)
    assert not len(one.copies) and not len(one.near)
