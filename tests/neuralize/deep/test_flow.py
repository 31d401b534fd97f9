"""RealNVP: invertible, its log-determinant and its density right, bad input refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import make_moons
from torch import Tensor, nn

from neuralize import InputError, neuralize
from neuralize.deep import Autoencoder, RealNVP, Training, load_detector
from neuralize.deep.flow import Flow
from neuralize.seeding import seeded

SHORT = Training(epochs=2, batch_size=32, progress=False)


def rough_flow(d: int, *, actnorm: bool = True) -> Flow:
    """With weights that make it far from the identity."""
    with seeded(d):
        flow = Flow(d, 4, (6, 5), actnorm=actnorm)
        for parameter in flow.parameters():
            nn.init.normal_(parameter, std=0.4)
    return flow.double()


def rows(n: int = 90, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3).astype(np.float32)


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("actnorm", [True, False])
def test_the_inverse_undoes_the_flow(d: int, actnorm: bool) -> None:
    flow = rough_flow(d, actnorm=actnorm)
    x = 3 * torch.randn(20, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, _ = flow(x)
    assert (z - x).abs().max() > 0.5
    torch.testing.assert_close(flow.inverse(z), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow(flow.inverse(x))[0], x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_log_determinant_is_that_of_the_jacobian(d: int) -> None:
    flow = rough_flow(d)
    x = torch.randn(6, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, log_det = flow(x)

    def one(row: Tensor) -> Tensor:
        z: Tensor = flow(row[None])[0][0]
        return z

    for row, found in zip(x, log_det + flow.log_scales(), strict=True):
        jacobian = torch.autograd.functional.jacobian(one, row)
        _, expected = torch.linalg.slogdet(jacobian)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_every_column_is_moved_by_the_others() -> None:
    flow = rough_flow(4)
    x = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jacobian = torch.autograd.functional.jacobian(lambda row: flow(row)[0], x)
    assert (jacobian.squeeze().abs() > 0).all()


def test_the_density_integrates_to_one() -> None:
    x = make_moons(400, noise=0.1, random_state=0)[0] * [3.0, 0.5] + [10.0, -2.0]
    detector = RealNVP(
        hidden=(24,), training=Training(epochs=15, batch_size=64, lr=5e-3, progress=False)
    ).fit(x)
    across, up = np.linspace(x.mean(0) - 7 * x.std(0), x.mean(0) + 7 * x.std(0), 400).T
    grid = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
    cell = (across[1] - across[0]) * (up[1] - up[0])
    density = np.exp(-detector.decision_function(grid).astype(np.float64))
    assert abs(density.sum() * cell - 1) < 0.01
    # and it learned something: moons are not a Gaussian
    gaussian = multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(x)
    assert detector.decision_scores_.mean() < -gaussian.mean() - 0.2


def test_before_training_it_is_a_gaussian_with_the_columns_own_spread() -> None:
    x = rows()
    start = Training(epochs=1, batch_size=32, lr=1e-12, progress=False)
    detector = RealNVP(training=start).fit(x)
    expected = -multivariate_normal(x.mean(0), np.diag(x.var(0))).logpdf(x)
    np.testing.assert_allclose(detector.decision_function(x), expected, rtol=1e-4)


def test_what_is_absorbed_and_what_is_explained() -> None:
    x = rows()
    training = Training(epochs=8, batch_size=16, lr=1e-2, progress=False)
    detector = RealNVP(hidden=(8,), training=training).fit(x)
    module: Any = detector.module_
    absorbed = neuralize(detector, dtype=torch.float64).relevance(torch.from_numpy(x))
    inner = module.preprocessing(torch.from_numpy(x))
    with torch.no_grad():
        z, log_det = module.flow(inner)
        log_scales = float(module.flow.log_scales())
    energy = (z**2).sum(1) / 2
    constant = 2 * np.log(2 * np.pi) + np.log(x.std(0)).sum() - log_scales
    np.testing.assert_allclose(absorbed.absorbed["normalization"], constant, rtol=1e-5)
    np.testing.assert_allclose(absorbed.absorbed["log-determinant"], -log_det, rtol=1e-3)
    offsets = ("normalization", "log-determinant")
    rest = [share for name, share in absorbed.absorbed.items() if name not in offsets]
    np.testing.assert_allclose(absorbed.values.sum(1) + sum(rest), energy, rtol=1e-3, atol=1e-4)

    other = RealNVP(hidden=(8,), log_determinant="explained", training=training).fit(x)
    explained = neuralize(other, dtype=torch.float64).relevance(torch.from_numpy(x))
    torch.testing.assert_close(explained.evidence, absorbed.evidence)
    assert "log-determinant" not in explained.absorbed
    assert (explained.values - absorbed.values).abs().max() > 0.01


def test_a_score_near_zero_nats_is_not_taken_for_amplification() -> None:
    x = rows()
    detector = RealNVP(hidden=(8,), training=SHORT).fit(x)
    module: Any = detector.module_
    module.normalization -= float(detector.decision_function(x[:1])[0]) - 1e-4
    found = neuralize(detector).relevance(torch.from_numpy(x[:1]))
    assert found.evidence.abs() < 1e-3 < 1e-2 * found.values.abs().sum()


def test_columns_with_an_unlikely_combination_get_the_relevance() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6)).astype(np.float32)
    x[:, 1] = x[:, 0] + 0.2 * rng.normal(size=500)
    training = Training(epochs=25, batch_size=64, lr=3e-3, progress=False)
    detector = RealNVP(hidden=(32,), training=training).fit(x)
    odd = x[:50].copy()
    odd[:, 1] = -odd[:, 0] + 1.5 * np.sign(-odd[:, 0])
    assert (detector.decision_function(odd) > detector.decision_function(x[:50])).mean() > 0.95
    values = neuralize(detector).relevance(torch.from_numpy(odd)).values
    assert float((values[:, :2].sum(1) > 3 * values[:, 2:].sum(1)).float().mean()) > 0.9


def test_noise_is_the_seed_s_own() -> None:
    x = rows()
    one, two = (RealNVP(training=SHORT, noise=0.3).fit(x) for _ in range(2))
    np.testing.assert_array_equal(one.decision_function(x), two.decision_function(x))
    quiet = RealNVP(training=SHORT, noise=0.0).fit(x)
    assert np.abs(one.decision_function(x) - quiet.decision_function(x)).max() > 0


@pytest.mark.parametrize("actnorm", [True, False])
def test_saved_and_loaded_scores_are_the_same(actnorm: bool, tmp_path: Any) -> None:
    x = rows()
    detector = RealNVP(hidden=(8,), actnorm=actnorm, training=SHORT).fit(x)
    again = load_detector(detector.save(tmp_path / "flow.safetensors"))
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"couplings": 1}, "at least 2 couplings"),
        ({"hidden": ()}, "hidden"),
        ({"limit": 0.0}, "limit"),
        ({"noise": -1.0}, "noise"),
        ({"log_determinant": "dropped"}, "log_determinant"),
        ({"features": "resnet"}, "nn.Module"),
        ({"features": nn.Unflatten(1, (2, 2))}, r"features \(n, q\)"),
        ({"features": nn.Linear(4, 1)}, "at least 2 columns"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        RealNVP(training=SHORT, **options).fit(rows())


def test_pictures_need_an_encoder() -> None:
    pictures = np.random.default_rng(0).random((40, 8, 8)).astype(np.float32)
    with pytest.raises(InputError, match="features="):
        RealNVP(training=SHORT).fit(pictures)
    encoder = Autoencoder(network="fmnist_lenet", rep_dim=6, training=SHORT)
    detector = RealNVP(features=encoder, hidden=(8,), training=SHORT).fit(pictures)
    found = neuralize(detector).relevance(torch.from_numpy(pictures))
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-4, atol=1e-4)
