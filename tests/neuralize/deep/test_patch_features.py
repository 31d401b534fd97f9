"""Patches of a backbone, against pooling and resizing written out; coresets; nearest rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neuralize import LRP, InputError
from neuralize.deep import bank_distances
from neuralize.deep.bank_distances import nearest
from neuralize.deep.coreset import greedy_coreset
from neuralize.deep.patch_detector import gaussian_blur
from neuralize.deep.patch_features import PatchFeatures, picture_steps
from tests.neuralize.deep.pictures import backbone, pictures


def by_hand(x: torch.Tensor, pool: int, resize: str) -> np.ndarray:
    """Patches ``(n, P, D)`` by loops over the pixels of both maps."""
    network = backbone().eval()
    with torch.no_grad():
        fine = network.layer1(network.relu(network.norm(network.stem(x))))
        coarse = network.layer2(fine)
    fine, coarse = (average(m.double().numpy(), pool) for m in (fine, coarse))
    n, _, h, w = fine.shape
    patches = np.zeros((n, h * w, fine.shape[1] + coarse.shape[1]))
    for i in range(h):
        for j in range(w):
            both = (fine[:, :, i, j], sampled(coarse, (i + 0.5) / h, (j + 0.5) / w, resize))
            patches[:, i * w + j] = np.concatenate(both, 1)
    return patches


def average(maps: np.ndarray, pool: int) -> np.ndarray:
    half = pool // 2
    wide = np.pad(maps, ((0, 0), (0, 0), (half, half), (half, half)))
    h, w = maps.shape[2:]
    shifts = [wide[:, :, a : a + h, b : b + w] for a in range(pool) for b in range(pool)]
    return np.mean(shifts, 0)


def sampled(maps: np.ndarray, y: float, x: float, resize: str) -> np.ndarray:
    h, w = maps.shape[2:]
    if resize == "nearest":
        return maps[:, :, int(y * h), int(x * w)]
    rows, cols = (np.clip(at * size - 0.5, 0, size - 1) for at, size in ((y, h), (x, w)))
    total = np.zeros(maps.shape[:2])
    for i in range(h):
        for j in range(w):
            total += maps[:, :, i, j] * max(0, 1 - abs(rows - i)) * max(0, 1 - abs(cols - j))
    return total


@pytest.mark.parametrize(("pool", "resize"), [(3, "bilinear"), (1, "nearest")])
def test_patches_are_those_written_out(pool: int, resize: str) -> None:
    x = torch.from_numpy(pictures(2))
    features = PatchFeatures(backbone(), ["layer1", "layer2"], pool=pool, resize=resize)
    found = features(x)
    np.testing.assert_allclose(found.numpy(), by_hand(x, pool, resize), atol=1e-6)
    turned = PatchFeatures(backbone(), ["layer2", "layer1"], pool=pool, resize=resize)(x)
    assert torch.equal(turned, torch.cat([found[..., 5:], found[..., :5]], 2))


def test_a_relu_in_place_does_not_reach_a_layer_below() -> None:
    x = torch.from_numpy(pictures(2))
    maps = PatchFeatures(backbone(), ["norm", "layer1"], pool=1).outputs(x)
    assert (maps[0] < 0).any()


def test_the_backbone_stays_frozen_and_unhooked() -> None:
    network = backbone()
    features = PatchFeatures(network, ["layer2"])
    features.train()
    before = {name: t.clone() for name, t in features.state_dict().items()}
    features(torch.from_numpy(pictures(4)))
    assert all(torch.equal(t, before[name]) for name, t in features.state_dict().items())
    assert not any(p.requires_grad for p in features.parameters())
    assert all(p.requires_grad for p in network.parameters()) and network.training
    assert not any(m._forward_hooks for m in features.modules())


def test_threads_do_not_see_each_others_features() -> None:
    features = PatchFeatures(backbone(), ["layer1", "layer2"])
    x = [torch.from_numpy(pictures(1, seed=i)) for i in range(12)]
    alone = [features(part) for part in x]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(features, x))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_relevance_goes_through_to_the_pixels() -> None:
    features = PatchFeatures(backbone(), ["layer1", "layer2"])
    x = torch.from_numpy(pictures(2))
    trace = LRP(features, "epsilon_plus").trace(x)
    assert torch.equal(trace.output, features(x))
    values, absorbed = trace.relevance(trace.output)
    total = values.sum((1, 2, 3)) + sum(absorbed.values())
    torch.testing.assert_close(total.float(), trace.output.sum((1, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "options", "match"),
    [
        ([], {}, "at least one layer"),
        ("layer1", {}, "list of at least one"),
        (["layer7"], {}, "'layer1'"),
        (["layer1"], {"pool": 2}, "odd pool"),
        (["layer1"], {"resize": "cubic"}, "resize"),
    ],
)
def test_bad_options_are_refused(layers: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        PatchFeatures(backbone(), layers, **options)


def test_layers_that_give_no_map_are_named() -> None:
    x = torch.zeros(1, 3, 12, 12)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
    with pytest.raises(InputError, match=r"layer '1'.*\(1, 3\)"):
        PatchFeatures(flat, ["1"])(x)
    idle = nn.Sequential(nn.Conv2d(3, 2, 1))
    idle.add_module("spare", nn.Identity())
    idle.forward = lambda x: idle[0](x)  # type: ignore[method-assign, assignment]
    with pytest.raises(InputError, match="spare did not run"):
        PatchFeatures(idle, ["spare"])(x)


def test_grey_pictures_become_as_many_channels_as_the_backbone_has() -> None:
    steps = picture_steps((4, 4), (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    x = torch.rand(2, 4, 4)
    expected = torch.stack([(x - 0.1) / 1, (x - 0.2) / 2, (x - 0.3) / 4], 1)
    torch.testing.assert_close(steps(x), expected)
    for shape in ((5,), (2, 4, 4)):
        with pytest.raises(InputError, match="rows of shape"):
            picture_steps(shape, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    with pytest.raises(InputError, match="or neither"):
        picture_steps((4, 4), (0.1,), None)
    with pytest.raises(InputError, match="positive std"):
        picture_steps((4, 4), (0.1,), (0.0,))


def test_the_coreset_takes_the_farthest_point_each_time() -> None:
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    chosen = greedy_coreset(torch.from_numpy(x), 12, projection=None, progress=False).tolist()
    for size in range(1, 12):
        d = np.linalg.norm(x[:, None].astype(np.float64) - x[chosen[:size]], axis=2).min(1)
        assert d[chosen[size]] == pytest.approx(d.max(), rel=1e-5)
    assert len(set(chosen)) == 12


def test_a_projected_coreset_covers_nearly_as_well() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32))

    def radius(chosen: torch.Tensor) -> float:
        return float(torch.cdist(x, x[chosen]).amin(1).max())

    exact = greedy_coreset(x, 40, projection=None)
    found = greedy_coreset(x, 40, projection=64)
    assert not torch.equal(exact, found)
    assert radius(found) < 1.15 * radius(exact)
    state = torch.random.get_rng_state()
    assert torch.equal(found, greedy_coreset(x, 40, projection=64))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_coreset_of_equal_rows_repeats_none_and_of_too_many_is_refused() -> None:
    x = torch.ones(5, 2)
    assert sorted(greedy_coreset(x, 5).tolist()) == [0, 1, 2, 3, 4]
    for size in (0, 6):
        with pytest.raises(InputError, match="1 to 5"):
            greedy_coreset(x, size)


@pytest.mark.parametrize("k", [1, 3])
def test_nearest_rows_do_not_depend_on_blocks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(0)
    z, bank = dice.normal(size=(30, 5)) + 100, dice.normal(size=(50, 5)) + 100
    expected = ((z[:, None] - bank) ** 2).sum(2).argsort(1)[:, :k]
    given = torch.from_numpy(z).float(), torch.from_numpy(bank).float()
    np.testing.assert_array_equal(nearest(*given, k).numpy(), expected)
    monkeypatch.setattr(bank_distances, "BANK_BLOCK", 7)
    monkeypatch.setattr(bank_distances, "BLOCK_NUMBERS", 70)
    np.testing.assert_array_equal(nearest(*given, k).numpy(), expected)


def test_blur_is_scipys() -> None:
    from scipy.ndimage import gaussian_filter

    x = np.random.default_rng(0).random((2, 1, 9, 11))
    for sigma in (0.7, 4.0):
        expected = np.stack([gaussian_filter(p[0], sigma, mode="reflect") for p in x])
        found = gaussian_blur(torch.from_numpy(x), sigma)[:, 0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-12)
