"""PatchCore and PaDiM: scores and thresholds by brute force, maps, options, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from neuralize import InputError, UnsupportedModelError, neuralize
from neuralize.deep import PaDiM, PatchCore, load_detector
from neuralize.errors import CheckpointError
from tests.neuralize.deep.pictures import backbone, pictures

LAYERS = ["layer1", "layer2"]
Detector = PatchCore | PaDiM


def patchcore(**options: Any) -> PatchCore:
    return PatchCore(backbone(), layers=LAYERS, **{"coreset": 0.2, **options})


def padim(**options: Any) -> PaDiM:
    return PaDiM(backbone(), layers=LAYERS, **{"dims": 6, **options})


def odd(n: int = 3) -> np.ndarray:
    """Pictures with a bright corner."""
    x = pictures(n, seed=5)
    x[:, :, :4, :4] = 1
    return x


def patches(detector: Detector, x: np.ndarray) -> np.ndarray:
    module: Any = detector.module_
    with torch.no_grad():
        z = module.features(module.preprocessing(torch.from_numpy(x)))
    found: np.ndarray = z.double().numpy()
    return found


def nearest_distances(z: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Sorted distances ``(P, m)`` of patches ``(P, D)``."""
    return np.sort(np.sqrt(((z[:, None] - bank) ** 2).sum(2)), 1)


def test_a_patchcore_score_is_the_farthest_patchs_distance() -> None:
    detector = patchcore(neighbors=2).fit(pictures())
    bank = detector.module_.bank.double().numpy()  # type: ignore[operator, union-attr]
    x = odd()
    maps = np.stack([nearest_distances(z, bank)[:, :2].mean(1) for z in patches(detector, x)])
    np.testing.assert_allclose(detector.decision_function(x), maps.max(1), rtol=1e-5)
    np.testing.assert_allclose(detector.patch_scores(x), maps.reshape(-1, 6, 6), rtol=1e-4)
    assert detector.predict(x).all()


def test_training_pictures_are_scored_without_their_own_patches() -> None:
    x = pictures()
    detector = patchcore().fit(x)
    z = patches(detector, x)
    bank = detector.module_.bank.double().numpy()  # type: ignore[operator, union-attr]
    expected, maps = [], []
    for own in z:
        mine = (np.abs(bank[:, None] - own).max(2) < 1e-7).any(1)
        expected.append(nearest_distances(own, bank[~mine])[:, 0].max())
        maps.append(nearest_distances(own, bank[~mine])[:, 0])
    np.testing.assert_allclose(detector.decision_scores_, expected, rtol=1e-4)
    threshold: Any = detector.module_.patch_threshold
    assert threshold == pytest.approx(np.quantile(maps, 0.99), rel=1e-4)
    assert detector.threshold_ == pytest.approx(np.quantile(expected, 0.9), rel=1e-4)
    assert (detector.decision_scores_ >= detector.decision_function(x) - 1e-6).all()


def test_a_padim_score_is_the_farthest_positions_mahalanobis_distance() -> None:
    x = pictures(20)
    detector = padim(epsilon=0.02).fit(x)
    dims = detector.module_.dims.numpy()  # type: ignore[operator, union-attr]
    assert len(set(dims.tolist())) == 6
    z, new = patches(detector, x)[:, :, dims], patches(detector, odd())[:, :, dims]

    def distances(train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        found = np.zeros(rows.shape[:2])
        for m in range(rows.shape[1]):
            inverse = np.linalg.inv(np.cov(train[:, m].T) + 0.02 * np.eye(6))
            d = rows[:, m] - train[:, m].mean(0)
            found[:, m] = np.sqrt(np.einsum("ni,ij,nj->n", d, inverse, d))
        return found

    np.testing.assert_allclose(detector.decision_function(odd()), distances(z, new).max(1), 1e-4)
    without = [distances(np.delete(z, i, 0), z[i : i + 1]).max() for i in range(len(z))]
    np.testing.assert_allclose(detector.decision_scores_, without, rtol=1e-5)


def test_the_papers_reweighting() -> None:
    plain, weighted = (patchcore(reweight=b).fit(pictures()) for b in (0, 4))
    bank = plain.module_.bank.double().numpy()  # type: ignore[operator, union-attr]
    x = odd()
    for z, before, after in zip(
        patches(plain, x), plain.decision_function(x), weighted.decision_function(x), strict=True
    ):
        d = np.sqrt(((z[:, None] - bank) ** 2).sum(2))
        winner = d.min(1).argmax()
        own = d[winner].argmin()
        around = np.argsort(((bank - bank[own]) ** 2).sum(1))[:4]
        share = np.exp(d[winner, own]) / np.exp(d[winner, around]).sum()
        assert after == pytest.approx((1 - share) * before, rel=1e-4)


@pytest.mark.parametrize("make", [patchcore, padim])
def test_the_native_map_is_the_patch_scores_resized_and_smoothed(make: Any) -> None:
    detector = make().fit(pictures())
    x = odd()
    coarse = detector.patch_scores(x).astype(np.float64)
    at = np.clip((np.arange(12) + 0.5) / 2 - 0.5, 0, 5)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(6)))
    wide = weights @ coarse @ weights.T
    np.testing.assert_allclose(detector.anomaly_map(x, 0), wide, rtol=1e-4)
    smooth = np.stack([gaussian_filter(m, 1.5, mode="reflect") for m in wide])
    np.testing.assert_allclose(detector.anomaly_map(x, 1.5), smooth, rtol=1e-4)
    assert detector.anomaly_map(x)[:, :4, :4].mean() > detector.anomaly_map(x)[:, 6:, 6:].mean()
    with pytest.raises(InputError, match="shape"):
        detector.anomaly_map(np.zeros((1, 3, 8, 8)))


@pytest.mark.parametrize("make", [patchcore, padim])
@pytest.mark.parametrize("split", ["euler", "all"])
def test_every_pool_conserves(make: Any, split: str) -> None:
    detector = make(split=split).fit(pictures())
    x = torch.from_numpy(odd()).double()
    absorbing = {"bank", "center"} if split == "euler" else set()
    for options in ({}, {"stiffness": 5.0}, {"pool": "sum"}, {"pool": "excess"}):
        net = neuralize(detector, dtype=torch.float64, **options)
        part = net.relevance(x, composite="epsilon_gamma")
        total = part.values.sum((1, 2, 3)) + sum(part.absorbed.values())
        torch.testing.assert_close(total, part.evidence, rtol=1e-9, atol=0)
        assert bool(set(part.absorbed) & {"bank", "center"}) == bool(absorbing)
        if "pool" in options:
            scores = detector.patch_scores(odd())
            if options["pool"] == "excess":
                scores = np.maximum(scores - detector.module_.patch_threshold, 0)
            expected = scores.sum((1, 2))
            assert net.threshold is None
        else:
            expected = detector.decision_function(odd())
            assert net.threshold == detector.threshold_
        np.testing.assert_allclose(part.evidence.numpy(), expected, rtol=1e-5)


def test_the_whole_map_is_explained_where_the_score_is_one_patch() -> None:
    x = pictures(1, seed=5, side=64)
    x[:, :, :8, :8] = x[:, :, -8:, -8:] = 1
    detector = patchcore(coreset=50).fit(pictures(4, side=64))
    scores = detector.patch_scores(x)[0]
    corners = scores[:4, :4].max(), scores[-4:, -4:].max()
    detector.module_.patch_threshold = 0.9 * float(min(corners))  # type: ignore[assignment]

    def reach(**options: Any) -> np.ndarray:
        values = neuralize(detector, **options).relevance(torch.from_numpy(x)).values
        found: np.ndarray = values.abs().sum((0, 1)).numpy()
        return found

    winner, shared, whole = reach(), reach(stiffness=3.0), reach(pool="sum")
    over = reach(pool="excess")
    assert (winner > 0).mean() < 0.2
    assert (winner[:16, :16].sum() > 0) != (winner[-16:, -16:].sum() > 0)
    for found in (shared, whole):
        assert (found > 0).mean() > 0.9
    assert min(over[:16, :16].sum(), over[-16:, -16:].sum()) > 0
    assert (winner > 0).mean() < (over > 0).mean() < (whole > 0).mean()


@pytest.mark.parametrize("make", [patchcore, padim])
def test_saved_and_loaded_detectors_are_the_same(make: Any, tmp_path: Path) -> None:
    detector = make().fit(pictures())
    path = detector.save(tmp_path / "patches.safetensors")
    with pytest.raises(InputError, match="network="):
        load_detector(path)
    fresh = backbone()
    torch.nn.init.zeros_(fresh.stem.weight)  # the checkpoint's weights count
    again = load_detector(path, network=fresh)
    assert isinstance(again, type(detector))
    x = odd()
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))
    np.testing.assert_array_equal(again.anomaly_map(x), detector.anomaly_map(x))
    assert again.threshold_ == detector.threshold_
    assert again.module_.patch_threshold == detector.module_.patch_threshold
    with pytest.raises(CheckpointError, match=r"other shapes"):
        load_detector(path, network=backbone(1))


def test_a_later_training_of_the_backbone_does_not_reach_the_detector() -> None:
    network = backbone()
    detector = PatchCore(network, layers=LAYERS, coreset=20).fit(pictures())
    assert detector.module_.bank.shape == (20, 11)  # type: ignore[union-attr]
    before = detector.decision_function(odd())
    with torch.no_grad():
        network.stem.weight.zero_()
    np.testing.assert_array_equal(detector.decision_function(odd()), before)


def test_relevance_is_in_the_users_units() -> None:
    """Normalisation is inside: pictures of 0 to 255 get the same explanation as those of 0 to 1."""
    x, new = pictures(), odd()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    small = patchcore(mean=mean, std=std).fit(x)
    scaled = tuple(255 * m for m in mean), tuple(255 * s for s in std)
    large = patchcore(mean=scaled[0], std=scaled[1]).fit(255 * x)
    parts = [
        neuralize(d).relevance(torch.from_numpy(k * new)) for d, k in ((small, 1), (large, 255))
    ]
    np.testing.assert_allclose(parts[1].evidence, parts[0].evidence, rtol=1e-4)
    np.testing.assert_allclose(parts[1].values, parts[0].values, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (patchcore, {"coreset": 0.0}, "coreset"),
        (patchcore, {"coreset": 10**6}, "coreset"),
        (patchcore, {"coreset": 3, "neighbors": 5}, "raise coreset"),
        (patchcore, {"neighbors": 0}, "neighbors"),
        (patchcore, {"reweight": -1}, "reweight"),
        (patchcore, {"neighbor_stiffness": 0.0}, "neighbor_stiffness"),
        (patchcore, {"split": "half"}, "split"),
        (padim, {"dims": 0}, "dims"),
        (padim, {"epsilon": 0.0}, "epsilon"),
        (padim, {"mean": (0.5,), "std": (0.5,)}, "rows of shape"),
    ],
)
def test_bad_options_are_refused(make: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        make(**options).fit(pictures(4))


def test_a_detector_without_a_backbone_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="backbone="):
        PatchCore(None, layers=LAYERS).fit(pictures(4))  # type: ignore[arg-type]


def test_bad_options_of_the_explanation_are_refused() -> None:
    detector = patchcore().fit(pictures(4))
    with pytest.raises(InputError, match="pool"):
        neuralize(detector, pool="mean")
    detector.module_.patch_threshold = None  # type: ignore[assignment]
    with pytest.raises(InputError, match="exceeds"):
        neuralize(detector, pool="excess")
    with pytest.raises(InputError, match="stiffness"):
        neuralize(detector, stiffness=-1.0)
    with pytest.raises(UnsupportedModelError, match="no option"):
        neuralize(detector, rule="x")
