"""Rows next to a support point: explained as far as digits reach, absorbed where none is left.

A row on top of a support point gives that point's share no direction. A row beside it does, down to
distances that are only rounding; near duplicates are common in real data and must not be lost.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.neighbors import KernelDensity

from neuralize import neuralize
from tests.neuralize import oracles
from tests.neuralize.oracles.base import COINCIDENT
from xai import explain
from xai.datasets import fashion_mnist

WINE = load_wine().data
WINE = (WINE - WINE.mean(0)) / WINE.std(0)
SUPPORT = WINE[:100]
KERNELS = {
    "squared": KernelDensity(kernel="gaussian"),
    "euclidean": KernelDensity(kernel="exponential"),
    "absolute": KernelDensity(kernel="exponential", metric="manhattan"),
}


def beside(distance):
    """Five support points, each moved by ``distance`` in a direction of its own."""
    direction = np.random.default_rng(0).normal(size=(5, 13))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return SUPPORT[:5] + distance * direction


def answers(form, x, dtype):
    net = neuralize(KERNELS[form].fit(SUPPORT)).to(dtype)
    oracle = oracles.SoftNearest(
        getattr(oracles, form)(SUPPORT),
        np.ones(len(SUPPORT)),
        0.5 if form == "squared" else 1.0,
        form,
    )
    result = net.relevance(torch.from_numpy(x))
    absorbed = result.absorbed.get(COINCIDENT, torch.zeros(len(x)))
    return oracle, result.values.double().numpy(), absorbed.double().numpy()


@pytest.mark.parametrize("form", KERNELS)
@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11])
def test_beside(form, distance):
    x = beside(distance)
    oracle, values, absorbed = answers(form, x, torch.float64)
    expected = oracle.relevance(x, None).values
    # x - u itself has lost the digits that x + distance could not hold.
    tolerance = 1e-9 + 1e-14 / distance
    np.testing.assert_allclose(values, expected, atol=tolerance * np.abs(expected).max())
    np.testing.assert_array_equal(absorbed, 0)


@pytest.mark.parametrize("form", KERNELS)
@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3])
def test_beside_in_single_precision(form, distance):
    x = beside(distance)
    oracle, values, absorbed = answers(form, x, torch.float32)
    expected = oracle.relevance(x, None).values
    tolerance = 1e-4 + 3e-6 / distance
    np.testing.assert_allclose(values, expected, atol=tolerance * np.abs(expected).max())
    np.testing.assert_array_equal(absorbed, 0)


@pytest.mark.parametrize("form", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ulps", [0, 1, 4])
def test_on_top(form, dtype, ulps):
    """A few units in the last place are no direction."""
    x = SUPPORT[:5] * (1 + ulps * torch.finfo(dtype).eps * np.array([1, -1] * 6 + [1]))
    oracle, values, absorbed = answers(form, x, dtype)
    own = oracle.weights_of(SUPPORT[:5])[np.arange(5), np.arange(5)]
    taken = own * oracle.evidence(SUPPORT[:5])
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(absorbed, taken, rtol=tolerance)
    rest = oracle.evidence(SUPPORT[:5]) - taken
    np.testing.assert_allclose(values.sum(1), rest, rtol=tolerance)


@pytest.mark.parametrize("label", [4, 9])
def test_a_density_of_blurred_pictures_adds_up_in_float32(label):
    """Each has neighbours at a tenth of its own length, where matrix products lose a digit."""
    clothes = fashion_mnist("train")
    x = clothes.images[clothes.labels == label][:600].astype(np.float64)
    coarse = x.reshape(-1, 7, 4, 7, 4).mean((2, 4)).repeat(4, 1).repeat(4, 2).reshape(600, -1)
    spread = np.sqrt(coarse.var(0).sum())
    net = neuralize(KernelDensity(bandwidth=spread / 4).fit(coarse[:300]), dtype=torch.float32)
    found = explain(net, coarse[300:].astype(np.float32), progress=False)
    assert found.relative_conservation_error.max() < 1e-5
    exact = coarse[300:, None] - coarse[:300]
    distances = (exact**2).sum(2)
    g = 8 / spread**2
    least = distances.min(1, keepdims=True)
    closeness = np.exp(-g * (distances - least))
    evidence = least[:, 0] - np.log(closeness.mean(1)) / g
    assert found.evidence == pytest.approx(evidence, rel=1e-5)
    weights = closeness / closeness.sum(1, keepdims=True)
    share = weights * evidence[:, None] / distances
    by_hand = np.einsum("nj,njd->nd", share, exact**2)
    scale = np.abs(by_hand).max(1, keepdims=True)
    assert np.abs(found.values.reshape(300, -1) - by_hand).max() / scale.min() < 1e-4
