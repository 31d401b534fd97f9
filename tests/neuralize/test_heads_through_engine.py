"""Heads written out as plain torch modules, explained by the engine: the closed forms must agree.

A head's own layers use closed forms by matrix products. Here the same decision is spelled out in
torch operations, whose relevance the engine finds operation by operation (LRP-0).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_wine
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import Tensor, nn

from neuralize import LRP, Neuralized, neuralize
from neuralize.composites import AVERAGES, LINEAR, Composite
from neuralize.engine.operations.elementwise import SumKind
from neuralize.rules.named import Epsilon, Norm, Pass

Case = Callable[[np.ndarray], tuple[Neuralized, nn.Module, int | None]]

TINY = 1e-13
# The offsets below (midpoints, support points, log weights) are references, not evidence: Pass.
EXACT = Composite("LRP-0", ((LINEAR, Epsilon(TINY)), (AVERAGES, Norm(TINY)), (SumKind, Pass())))


class Gaps(nn.Module):
    """``min_k w_k . (x - m_k)`` over the competitors ``k`` of one cluster."""

    def __init__(self, centroids: Tensor, cluster: int) -> None:
        super().__init__()
        others = torch.cat([centroids[:cluster], centroids[cluster + 1 :]])
        self.weights = 2 * (centroids[cluster] - others)
        self.midpoints = (centroids[cluster] + others) / 2

    def forward(self, x: Tensor) -> Tensor:
        return ((x.unsqueeze(1) - self.midpoints) * self.weights).sum(-1).amin(-1)


class SoftMinimum(nn.Module):
    """``-(1/t) log sum_j a_j exp(-t ||x - u_j||^2)``."""

    def __init__(self, support: Tensor, weights: Tensor, stiffness: float) -> None:
        super().__init__()
        self.support, self.log_weights, self.stiffness = support, weights.log(), stiffness

    def forward(self, x: Tensor) -> Tensor:
        distances = ((x.unsqueeze(1) - self.support) ** 2).sum(-1)
        scores = self.log_weights - self.stiffness * distances
        return -torch.logsumexp(scores, -1) / self.stiffness


class QuadraticForm(nn.Module):
    """``||F (x - mean)||^2``."""

    def __init__(self, factor: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(*reversed(factor.shape), bias=False, dtype=factor.dtype)
        self.linear.weight.data = factor
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x - self.mean) ** 2).sum(-1)


def rows() -> np.ndarray:
    data = load_wine().data[:, :6]
    return (data - data.mean(0)) / data.std(0)


def kmeans(x: np.ndarray) -> tuple[Neuralized, nn.Module, int | None]:
    model = KMeans(3, n_init=1, random_state=0).fit(x)
    head = neuralize(model, stiffness=float("inf"))
    return head, Gaps(torch.from_numpy(model.cluster_centers_), 1), 1


def density(x: np.ndarray) -> tuple[Neuralized, nn.Module, int | None]:
    model = KernelDensity(bandwidth=0.8).fit(x[:60])
    weights = torch.full((60,), 1 / 60, dtype=torch.float64)
    return neuralize(model), SoftMinimum(torch.from_numpy(x[:60]), weights, 0.5 / 0.8**2), None


def boundary(x: np.ndarray) -> tuple[Neuralized, nn.Module, int | None]:
    model = OneClassSVM(gamma=0.2, nu=0.3).fit(x)
    weights = torch.from_numpy(model.dual_coef_[0] / model.dual_coef_.sum())
    support = torch.from_numpy(model.support_vectors_)
    return neuralize(model), SoftMinimum(support, weights, 0.2), None


def mahalanobis(x: np.ndarray) -> tuple[Neuralized, nn.Module, int | None]:
    model = EmpiricalCovariance().fit(x)
    values, vectors = np.linalg.eigh(model.get_precision())
    factor = torch.from_numpy((vectors * np.sqrt(values)).T.copy())
    head = neuralize(model, split="signed")
    return head, QuadraticForm(factor, torch.from_numpy(model.location_)), None


CASES = [kmeans, density, boundary, mahalanobis]


@pytest.mark.parametrize("case", CASES)
def test_alone(case: Case) -> None:
    x = torch.from_numpy(rows())
    head, spelled_out, target = case(x.numpy())
    expected = head.relevance(x, target)
    trace = LRP(spelled_out, EXACT).trace(x)
    torch.testing.assert_close(trace.output, expected.evidence, rtol=1e-9, atol=1e-9)
    found, absorbed = trace.relevance(expected.evidence)
    scale = float(expected.values.abs().max())
    assert float((found - expected.values).abs().max()) < 1e-9 * scale
    # a row that is a support point keeps the share of that distance, there as here
    kept = sum(expected.absorbed.values(), torch.zeros_like(expected.evidence))
    torch.testing.assert_close(sum(absorbed.values()), kept, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.filterwarnings("ignore::neuralize.errors.AmplificationWarning")  # LRP-0 is noisy
@pytest.mark.parametrize("case", CASES)
def test_on_top_of_an_encoder(case: Case) -> None:
    """One composite for the whole: explained in two steps or as one network."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(54, 6),
    ).double().eval()  # fmt: skip
    images = torch.rand(40, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        phi = encoder(images).numpy()
        encoder[-1].weight /= phi.std()
        encoder[-1].bias /= phi.std()
        phi = encoder(images).numpy()
    phi = np.concatenate([phi, phi + 0.01, phi - 0.02])
    head, spelled_out, target = case(phi)
    head.features = encoder
    expected = head.relevance(images, target, composite=EXACT)
    found, _ = (
        LRP(nn.Sequential(encoder, spelled_out), EXACT).trace(images).relevance(expected.evidence)
    )
    scale = float(expected.values.abs().max())
    assert float((found - expected.values).abs().max()) < 1e-9 * scale
    total = expected.values.flatten(1).sum(1) + sum(expected.absorbed.values())
    torch.testing.assert_close(total, expected.evidence, rtol=1e-9, atol=1e-9 * scale)
