"""Gaussian upsampling against a loop over units and pixels, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from neuralize import InputError
from neuralize.deep.receptive_field import ReceptiveField, receptive_field
from neuralize.deep.upsampling import GaussianUpsampling, default_sigma


def weight(offset: float, r: int, sigma: float) -> float:
    """Of a pixel this far from the centre; next to a centre between pixels both have the peak."""
    if abs(offset) > (r - 1) / 2:
        return 0.0
    distance = abs(offset) if r % 2 else abs(offset) - 0.5
    return math.exp(-(distance**2) / (2 * sigma**2))


def slowly(a: np.ndarray, field: ReceptiveField, size: tuple[int, int], sigma: float) -> np.ndarray:
    heat = np.zeros(size)
    sums = [
        sum(weight(k - (r - 1) / 2, r, sigma) for k in range(r)) / j
        for r, j in zip(field.r, field.j, strict=True)
    ]
    for u in range(a.shape[0]):
        for v in range(a.shape[1]):
            center = (field.s[0] + u * field.j[0], field.s[1] + v * field.j[1])
            for y in range(size[0]):
                for x in range(size[1]):
                    g = weight(y - center[0], field.r[0], sigma)
                    g *= weight(x - center[1], field.r[1], sigma)
                    heat[y, x] += a[u, v] * g / (sums[0] * sums[1])
    return heat


NETWORKS = {
    "odd": (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, stride=2)), (15, 15)),
    "even": (nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.MaxPool2d(2)), (14, 14)),
    "deep": (nn.Sequential(*[nn.Conv2d(1, 1, 5, 2, 2) for _ in range(3)]), (24, 24)),
    "oblong": (
        nn.Sequential(nn.Conv2d(1, 1, (4, 3), (2, 3), (0, 2)), nn.AvgPool2d(2, 1)),
        (13, 20),
    ),
    "far-inside": (nn.Conv2d(1, 1, 7, stride=3), (16, 16)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sigma", [0.4, 1.2, 8.0])
def test_upsampling_is_the_sum_of_gaussians(name: str, sigma: float) -> None:
    network, size = NETWORKS[name]
    field = receptive_field(network, (1, *size))
    a = np.random.default_rng(0).random((2, *field.n))
    found = GaussianUpsampling(field, size, sigma)(torch.from_numpy(a)).numpy()
    for row in (0, 1):
        expected = slowly(a[row], field, size, sigma)
        np.testing.assert_allclose(found[row], expected, rtol=1e-12, atol=1e-14)


def test_single_precision_keeps_six_digits() -> None:
    network, size = NETWORKS["deep"]
    field = receptive_field(network, (1, *size))
    up = GaussianUpsampling(field, size)
    a = torch.rand(3, *field.n, dtype=torch.float64)
    assert up(a.float()).dtype == torch.float32
    torch.testing.assert_close(up(a.float()).double(), up(a), rtol=1e-5, atol=1e-6)


def test_a_constant_map_keeps_its_height_and_the_mean_its_value() -> None:
    network, _ = NETWORKS["deep"]
    field = receptive_field(network, (1, 96, 96))
    up = GaussianUpsampling(field, (96, 96), sigma=5.0)
    flat = up(torch.ones(1, *field.n, dtype=torch.float64))[0]
    inner = flat[36:60, 36:60]
    assert float((inner - 1).abs().max()) < 0.05
    spot = torch.zeros(1, *field.n, dtype=torch.float64)
    spot[0, 5, 6] = 3.0
    # 96 pixels are 12 units of 8 pixels: no field of this unit leaves the picture
    torch.testing.assert_close(up(spot).mean(), spot.mean())


def test_default_widths_are_the_authors() -> None:
    assert default_sigma((28, 28)) == default_sigma((32, 32)) == 1.2
    assert default_sigma((224, 224)) == 8.0
    assert 1.2 < default_sigma((64, 96)) < default_sigma((128, 128)) < 8
    field = ReceptiveField((2, 2), (1, 1), (3, 3), (1.0, 1.0))
    assert GaussianUpsampling(field, (28, 28)).sigma == 1.2
    with pytest.raises(InputError, match="sigma"):
        GaussianUpsampling(field, (4, 4), 0.0)
    assert not GaussianUpsampling(field, (4, 4)).state_dict()
