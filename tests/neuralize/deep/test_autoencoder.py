"""Autoencoders: what the two explanations are, the ELBO against torch.distributions, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from neuralize import InputError, UnfittedModelError, neuralize
from neuralize.composites import epsilon
from neuralize.deep import Autoencoder, Training, VariationalAutoencoder, load_detector
from neuralize.deep.autoencoder import NegativeELBO, VariationalScore, divergence
from neuralize.deep.networks import Architecture

SHORT = Training(epochs=2, batch_size=32, progress=False)


def rows(n: int = 90, d: int = 6, *, inner: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, inner)) @ rng.normal(size=(inner, d)) + 0.1 * rng.normal(size=(n, d))
    return (3 * x + 5).astype(np.float32)


def pictures(n: int = 60) -> np.ndarray:
    images: np.ndarray = load_digits().images[:n].astype(np.float32) / 16
    return images


def pair(encoder: nn.Module, decoder: nn.Module) -> nn.Module:
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})


def pca_as_autoencoder(x: np.ndarray, width: int) -> tuple[Autoencoder, PCA]:
    """A linear autoencoder with the weights of PCA, which is its optimum."""
    network = pair(
        nn.Linear(x.shape[1], width, bias=False), nn.Linear(width, x.shape[1], bias=False)
    )
    detector = Autoencoder(network=network, training=SHORT).fit(x)
    module: Any = detector.module_
    pca = PCA(width).fit((x - x.mean(0)) / x.std(0))
    components = torch.tensor(pca.components_, dtype=torch.float32)
    with torch.no_grad():
        module.encoder.weight.copy_(components)
        module.decoder.weight.copy_(components.T)
    return detector, pca


def test_residual_map_and_relevance_of_pca_are_what_they_should_be() -> None:
    # r = P x with a projector P: o = x^T (I - P) x, and P e = 0 leaves nothing of the reconstructed
    # branch but -r, so R_i = x_i e_i, while the residual map is e_i^2
    x = rows()
    detector, pca = pca_as_autoencoder(x, 2)
    z = (x - x.mean(0)) / x.std(0)
    e = z - pca.inverse_transform(pca.transform(z))
    np.testing.assert_allclose(detector.decision_function(x), (e**2).sum(1), rtol=1e-3)
    np.testing.assert_allclose(detector.residual_map(x), e**2, atol=1e-4)
    found = neuralize(detector, dtype=torch.float64).relevance(
        torch.from_numpy(x), composite=epsilon(1e-9)
    )
    np.testing.assert_allclose(found.values.numpy(), z * e, atol=1e-4)
    assert np.abs(z * e - e**2).max() > 0.1


@pytest.mark.parametrize("kind", [Autoencoder, VariationalAutoencoder])
@pytest.mark.parametrize("shape", [(6,), (8, 8), (2, 8, 8)])
def test_the_residual_map_sums_to_the_score(kind: Any, shape: tuple[int, ...]) -> None:
    x = rows() if shape == (6,) else pictures()
    x = np.stack([x, 1 - x], 1) if len(shape) == 3 else x
    network = "auto" if len(shape) == 1 else "fmnist_lenet"
    detector = kind(network=network, training=SHORT).fit(x)
    squares = detector.residual_map(x)
    assert squares.shape == x.shape and (squares >= 0).all()
    np.testing.assert_allclose(
        squares.reshape(len(x), -1).sum(1), detector.decision_function(x), rtol=1e-5
    )


@pytest.mark.parametrize("preprocessing", ["standardize", "contrast", None])
def test_relevance_of_pictures_is_conserved_and_of_the_score_s_size(
    preprocessing: str | None,
) -> None:
    x = pictures()
    detector = Autoencoder(
        network="fmnist_lenet", bias=True, preprocessing=preprocessing, training=SHORT
    ).fit(x)
    found = neuralize(detector).relevance(torch.from_numpy(x))
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-5, atol=0)
    assert (found.values.flatten(1).abs().sum(1) < 4 * found.evidence).all()


def test_pictures_in_zero_to_one_are_decoded_into_it() -> None:
    x = pictures()
    module: Any = Autoencoder(preprocessing=None, training=SHORT).fit(x).module_
    with torch.no_grad():
        r = torch.from_numpy(x) - module.residual(torch.from_numpy(x))[:, 0]
    assert r.min() >= 0 and r.max() <= 1
    with pytest.raises(InputError, match="0 to 1"):
        Autoencoder(preprocessing=None, training=SHORT).fit(10 * x)


def test_rows_that_break_the_correlation_are_found() -> None:
    x = rows(300)
    broken = x[:60].copy()
    rng = np.random.default_rng(1)
    broken[np.arange(60), rng.integers(6, size=60)] += 12
    for kind in (Autoencoder, VariationalAutoencoder):
        detector = kind(
            rep_dim=2, training=Training(epochs=30, batch_size=32, lr=1e-2, progress=False)
        ).fit(x[60:])
        scores = detector.decision_function(np.concatenate([x[:60], broken]))
        assert roc_auc_score(np.repeat([0, 1], 60), scores) > 0.9


# -- the variational one -----------------------------------------------------------------------


def test_the_negative_elbo_is_that_of_torch_distributions() -> None:
    x = rows()
    detector = VariationalAutoencoder(score="elbo", training=SHORT).fit(x)
    module: Any = detector.module_
    assert isinstance(module, VariationalScore)
    inner = module.preprocessing(torch.from_numpy(x))
    with torch.no_grad():
        mu, v = module.posterior(inner)
        seen = Independent(Normal(module.decoder(mu), module.noise.sqrt()), 1)
        code = Independent(Normal(mu, (v / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    expected = -seen.log_prob(inner) + kl_divergence(code, prior)
    np.testing.assert_allclose(detector.decision_function(x), expected.numpy(), rtol=1e-4)
    assert neuralize(detector).evidence_name == "negative ELBO in nats"


def test_the_loss_is_that_of_torch_distributions() -> None:
    g = torch.Generator().manual_seed(0)
    x, r, mu, v = (torch.randn(7, k, generator=g) for k in (5, 5, 3, 3))
    objective = NegativeELBO(beta=0.5)
    objective.log_noise.data.fill_(-0.7)
    seen = Normal(r, torch.tensor(-0.7).exp().sqrt()).log_prob(x).sum(1)
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    kl = kl_divergence(Normal(mu, (v / 2).exp()), prior).sum(1)
    torch.testing.assert_close(objective((r, mu, v), x), (0.5 * kl - seen).mean())
    torch.testing.assert_close(divergence(mu, v), kl)


@pytest.mark.parametrize("score", ["reconstruction", "elbo"])
def test_a_row_always_has_the_same_score(score: Any) -> None:
    x = rows()
    detector = VariationalAutoencoder(score=score, training=SHORT).fit(x)
    first = detector.decision_function(x)
    np.testing.assert_array_equal(detector.decision_function(x), first)
    np.testing.assert_allclose(detector.decision_function(x[3:4]), first[3:4], rtol=1e-5)
    again = VariationalAutoencoder(score=score, training=SHORT).fit(x)
    np.testing.assert_array_equal(again.decision_function(x), first)


def test_the_divergence_of_a_code_like_the_prior_explains_nothing() -> None:
    # exp(v) - 1 - v vanishes at v = 0, and so must its relevance, without a division by zero
    x = rows()
    network = pair(nn.Linear(6, 4), nn.Linear(2, 6))
    detector = VariationalAutoencoder(network=network, score="elbo", training=SHORT).fit(x)
    module: Any = detector.module_
    with torch.no_grad():
        module.encoder.weight.zero_()
        module.encoder.bias.zero_()
    found = neuralize(detector).relevance(torch.from_numpy(x))
    assert bool(torch.isfinite(found.values).all())
    total = found.values.sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-5, atol=1e-5)


# -- files and bad input -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Autoencoder, VariationalAutoencoder])
def test_saved_and_loaded_scores_are_the_same(kind: Any, tmp_path: Path) -> None:
    x = rows()
    detector = kind(training=SHORT).fit(x)
    again: Any = load_detector(detector.save(tmp_path / "ae.safetensors"))
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))
    np.testing.assert_array_equal(again.residual_map(x), detector.residual_map(x))
    own = pair(nn.Linear(6, 2 if kind is Autoencoder else 4), nn.Linear(2, 6))
    path = kind(network=own, training=SHORT).fit(x).save(tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="network="):
        load_detector(path)
    assert load_detector(path, network=own).predict(x).shape == (90,)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"network": nn.Linear(6, 6)}, "'encoder' and 'decoder'"),
        ({"network": pair(nn.Linear(6, 2), nn.Linear(2, 5))}, r"shape \(6,\)"),
        ({"network": pair(nn.Unflatten(1, (2, 3)), nn.Flatten())}, r"codes \(n, q\)"),
        ({"network": "resnet"}, "resnet"),
        ({"preprocessing": "whiten"}, "whiten"),
    ],
)
def test_networks_that_do_not_fit_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        Autoencoder(training=SHORT, **options).fit(rows())


def test_bad_options_and_rows_are_refused() -> None:
    for options in ({"score": "likelihood"}, {"beta": -1.0}):
        with pytest.raises(InputError):
            VariationalAutoencoder(training=SHORT, **options).fit(rows())
    detector = Autoencoder(training=SHORT).fit(rows())
    with pytest.raises(InputError, match=r"\(6,\)"):
        detector.residual_map(rows(d=5))
    with pytest.raises(UnfittedModelError):
        Autoencoder().residual_map(rows())


def test_an_architecture_of_ones_own(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 1, 12, 12)).astype(np.float32)
    plan = Architecture(kind="lenet", input_shape=(1, 12, 12), channels=(2, 3), rep_dim=5)
    for cls in (Autoencoder, VariationalAutoencoder):
        detector = cls(network=plan, training=Training(epochs=2)).fit(x)
        with torch.no_grad():
            code = detector.module_.code(detector.module_.preprocessing(torch.from_numpy(x)))
        assert code.shape == (40, 5)
        again = load_detector(detector.save(tmp_path / f"{cls.__name__}.safetensors"))
        np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))
