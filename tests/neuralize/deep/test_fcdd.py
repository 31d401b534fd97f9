"""FCDD: losses against loops, maps against modules, masks, frozen stems, files, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from torch import nn

import xai
from neuralize import InputError, neuralize
from neuralize.deep import FCDD, Training, load_detector
from neuralize.deep.fcdd import MapLoss, PixelLoss, pseudo_huber, surprise
from neuralize.deep.receptive_field import ReceptiveField, receptive_field
from neuralize.deep.upsampling import GaussianUpsampling
from neuralize.errors import TrainingWarning
from xai.textures import Surfaces, ground_surfaces

SHORT = Training(epochs=2, batch_size=16, progress=False)


def pictures(n: int = 24, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, *(shape or (12, 12)))).astype(np.float32)


def half(n: int) -> np.ndarray:
    return (np.arange(n) % 3 == 0).astype(int)


def huber(phi: np.ndarray) -> np.ndarray:
    return np.sqrt(phi**2 + 1) - 1


def test_the_loss_by_labels_is_the_papers() -> None:
    phi = 2 * np.random.default_rng(0).normal(size=(7, 3, 4))
    y = np.array([0, 1, 1, 0, 0, 1, 0.0])
    expected = 0.0
    for a, label in zip(huber(phi), y, strict=True):
        mean = a.sum() / 12
        expected += (1 - label) * mean - label * np.log(1 - np.exp(-mean))
    found = MapLoss()(torch.from_numpy(phi), torch.from_numpy(y))
    np.testing.assert_allclose(float(found), expected / 7, rtol=1e-12)


def test_the_loss_by_maps_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    phi, y = rng.normal(size=(5, 4, 4)), (rng.random((5, 9, 9)) < 0.2).astype(float)
    y[[1, 3]] = 0
    field = receptive_field(nn.Conv2d(1, 1, 3, 2), (1, 9, 9))
    up = GaussianUpsampling(field, (9, 9))
    heat = up(torch.from_numpy(huber(phi))).numpy()
    expected = 0.0
    for a, truth in zip(heat, y, strict=True):
        expected += ((1 - truth) * a).sum() / 81
        if truth.any():
            expected -= np.log(1 - np.exp(-(truth * a).sum() / 81))
    found = PixelLoss(up)(torch.from_numpy(phi), torch.from_numpy(y))
    np.testing.assert_allclose(float(found), expected / 5, rtol=1e-12)


def test_small_responses_do_not_cancel_and_zero_has_a_finite_loss() -> None:
    phi = torch.tensor([0.0, 1e-5, 1e3])
    np.testing.assert_allclose(pseudo_huber(phi), [0, 5e-11, np.sqrt(1e6 + 1) - 1], rtol=1e-5)
    phi = torch.zeros(2, 3, 3, requires_grad=True)
    MapLoss()(phi, torch.ones(2)).backward()
    assert phi.grad is not None and bool(torch.isfinite(phi.grad).all())
    assert float(surprise(torch.tensor(0.0))) == pytest.approx(31 * np.log(10), rel=1e-5)


def test_scores_are_means_of_the_native_map_which_is_upsampled() -> None:
    x = pictures(10, 3, 20, 22)
    detector = FCDD(training=SHORT).fit(x, half(10))
    native = detector.native_map(x)
    assert native.shape == (10, 5, 5)
    np.testing.assert_allclose(detector.decision_function(x), native.mean((1, 2)), rtol=1e-5)
    z = (x - x[half(10) == 0].mean((0, 2, 3), keepdims=True)[0]) / x[half(10) == 0].std(
        (0, 2, 3), keepdims=True
    )[0]
    module = detector.module_.network.eval()
    with torch.no_grad():
        phi = module(torch.from_numpy(z))[:, 0].numpy()
    np.testing.assert_allclose(native, huber(phi.astype(float)), rtol=1e-3, atol=1e-6)
    up = GaussianUpsampling(receptive_field(module, (3, 20, 22)), (20, 22))
    np.testing.assert_allclose(
        detector.anomaly_map(x), up(torch.from_numpy(native)).numpy(), rtol=1e-5, atol=1e-7
    )
    wide = FCDD(training=SHORT, sigma=3.0).fit(x, half(10)).anomaly_map(x)
    np.testing.assert_array_equal(detector.anomaly_map(x, sigma=3.0), wide)


@pytest.fixture(scope="module")
def surfaces() -> Surfaces:
    return ground_surfaces(90, 40, size=32)


def test_confetti_finds_defects_and_relevance_conserves(surfaces: Surfaces) -> None:
    plan = Training(epochs=14, batch_size=32, lr=3e-3, milestones=(10,), progress=False)
    detector = FCDD(training=plan).fit(surfaces.images[:60])
    test = surfaces.select(np.arange(60, 130))
    assert roc_auc_score(test.labels, detector.decision_function(test.images)) > 0.8
    x, masks = test.images[30:], test.masks[30:]
    heat = detector.anomaly_map(x)
    assert heat.shape == masks.shape and heat.min() >= 0
    assert roc_auc_score(masks.ravel(), heat.ravel()) > 0.8
    relevance = xai.explain(detector, x[:6])
    assert relevance.relative_conservation_error.max() < 1e-5
    assert set(relevance.absorbed) <= {"bias", "stabilizer"}
    # the two maps are different things
    assert not np.allclose(relevance.values, heat[:6] / heat[0].size, rtol=0.1)


def test_masks_of_a_few_train_pixels(surfaces: Surfaces) -> None:
    few, rest = np.arange(90, 95), np.arange(95, 130)
    rows = np.concatenate([np.arange(25), few])
    labels = np.repeat([0, 1], [25, 5])
    plan = Training(epochs=25, batch_size=16, lr=3e-3, progress=False)
    one = FCDD(training=plan).fit(surfaces.images[rows], labels, masks=surfaces.masks[few])
    heat = one.anomaly_map(surfaces.images[rest])
    assert roc_auc_score(surfaces.masks[rest].ravel(), heat.ravel()) > 0.8
    # a mask for every row says the same, labels included
    x, masks = surfaces.images[rows], surfaces.masks[rows]
    one = FCDD(training=SHORT).fit(x, labels, masks=masks[labels == 1])
    other = FCDD(training=SHORT).fit(x, masks=masks)
    np.testing.assert_array_equal(other.decision_function(x), one.decision_function(x))


def stem() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
    )  # fmt: skip


def test_frozen_modules_keep_weights_and_statistics_and_the_rest_learns() -> None:
    backbone = stem()
    before = {name: t.clone() for name, t in backbone.state_dict().items()}
    x = pictures()
    detector = FCDD(network=backbone, frozen=4, training=SHORT).fit(x, half(len(x)))
    after = detector.module_.network.body.state_dict()
    for name, tensor in before.items():
        assert torch.equal(backbone.state_dict()[name], tensor), "the user's network is left alone"
        same = torch.equal(after[name], tensor)
        assert same == (int(name[0]) < 4), name
    assert all(p.requires_grad for p in detector.module_.parameters())
    assert detector.module_.network.head.weight.shape == (1, 6, 1, 1)
    values = neuralize(detector).relevance(torch.from_numpy(x)).values
    assert bool((values != 0).flatten(1).any(1).all()), "relevance passes through frozen modules"
    with pytest.raises(InputError, match="0 to 7"):
        FCDD(network=backbone, frozen=8, training=SHORT).fit(x)
    with pytest.raises(InputError, match="frozen=0"):
        FCDD(frozen=1, training=SHORT).fit(x)
    with pytest.raises(InputError, match="cut it before"):
        FCDD(network=nn.Sequential(stem(), nn.Flatten()), training=SHORT).fit(x)


def test_fits_repeat_and_files_keep_everything(tmp_path: Path) -> None:
    x, backbone = pictures(), stem()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = FCDD(network=backbone, frozen=2, sigma=2.0, training=SHORT).fit(x)
    other = clone(one).fit(x)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(one.anomaly_map(x), other.anomaly_map(x))
    path = one.save(tmp_path / "fcdd.safetensors")
    with pytest.raises(InputError, match="network="):
        load_detector(path)
    again = load_detector(path, network=backbone)
    assert isinstance(again, FCDD) and again.sigma == 2.0
    np.testing.assert_array_equal(again.anomaly_map(x), one.anomaly_map(x))
    assert again.threshold_ == one.threshold_ and np.mean(one.predict(x)) == pytest.approx(0.125)
    named = FCDD(network="cnn28", training=Training(epochs=1, progress=False)).fit(x[:8])
    path = named.save(tmp_path / "named.safetensors")
    np.testing.assert_array_equal(
        load_detector(path).decision_function(x), named.decision_function(x)
    )


MASKS = np.zeros((24, 12, 12))
MASKS[::3, 3, 3] = 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"y": np.arange(24)}, "among 0"),
        ({"y": np.zeros(5)}, "Expected 24 labels"),
        ({"y": np.ones(24)}, "only anomalies"),
        ({"y": half(24), "masks": MASKS[:4]}, "one for each of 8"),
        ({"y": half(24), "masks": MASKS[:, :5]}, "masks of size"),
        ({"y": half(24), "masks": MASKS[0]}, r"masks \(m, h, w\)"),
        ({"y": half(24), "masks": 0 * MASKS}, "is empty"),
        ({"y": half(24) * (np.arange(24) > 5), "masks": MASKS}, "labelled normal"),
        ({"masks": MASKS[::3]}, "say whose"),
    ],
)
def test_labels_and_masks_that_do_not_fit_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        FCDD(training=SHORT).fit(pictures(), **options)


def test_rows_of_tables_and_empty_training_are_refused() -> None:
    rows = pictures().reshape(24, -1)
    with pytest.raises(InputError, match="takes pictures"):
        FCDD(training=SHORT).fit(rows)
    network = nn.Sequential(nn.Unflatten(1, (1, 12, 12)), nn.Conv2d(1, 1, 3))
    with pytest.raises(InputError, match="Confetti is for pictures"):
        FCDD(network=network, training=SHORT).fit(rows)
    detector = FCDD(network=network, training=SHORT).fit(rows, half(24))
    assert detector.native_map(rows).shape == (24, 10, 10)
    with pytest.raises(InputError, match="no receptive fields"):
        detector.anomaly_map(rows)
    with pytest.raises(InputError, match="Nothing to train against"):
        FCDD(confetti=0, training=SHORT).fit(pictures())
    with pytest.raises(InputError, match="Expected network"):
        FCDD(network="resnet", training=SHORT).fit(pictures())
    with pytest.raises(InputError, match="fitted on"):
        FCDD(training=SHORT).fit(pictures()).anomaly_map(pictures(3, 14, 14))


def test_copies_among_the_anomalies_are_counted() -> None:
    x = np.concatenate([pictures(), pictures()[:3], 1 - pictures()[:5]])
    with pytest.warns(TrainingWarning, match="3 of 8"):
        FCDD(training=SHORT).fit(x, np.repeat([0, 1], [24, 8]))


def test_confetti_beside_masks_marks_its_own_pixels() -> None:
    x = pictures()
    field = ReceptiveField((6, 6), (2, 2), (3, 3), (1.0, 1.0))
    assert field.first == (0, 0)
    plain = FCDD(training=SHORT).fit(x, masks=MASKS)
    both = FCDD(training=SHORT, confetti=0.5).fit(x, masks=MASKS)
    assert plain.history_ != both.history_
