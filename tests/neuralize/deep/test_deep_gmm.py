"""Mixtures on features: scikit-learn's likelihood, encoders that stay as they were, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from neuralize import InputError, UnfittedModelError, neuralize
from neuralize.composites import epsilon
from neuralize.deep import (
    Autoencoder,
    DeepGMM,
    RealNVP,
    Training,
    VariationalAutoencoder,
    load_detector,
)
from neuralize.seeding import seeded

SHORT = Training(epochs=2, batch_size=32, progress=False)


def rows(n: int = 90, d: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def pictures(n: int = 50) -> np.ndarray:
    return np.random.default_rng(0).random((n, 1, 8, 8)).astype(np.float32)


def encoder() -> nn.Module:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        ).eval()


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_the_score_is_scikit_learn_s(form: Any) -> None:
    x = pictures()
    detector = DeepGMM(encoder(), n_components=2, covariance_type=form, reg_covar=1e-3).fit(x)
    with torch.no_grad():
        phi = encoder()(torch.from_numpy(x)).double().numpy()
    np.testing.assert_allclose(detector.encode(x), phi, rtol=1e-6)
    expected = -detector.mixture_.score_samples(phi)
    np.testing.assert_allclose(detector.decision_function(x), expected, rtol=1e-5)


def test_relevance_of_the_features_is_the_mixture_s_own() -> None:
    # an encoder that changes nothing hands on what it is given
    x = rows()
    identity = nn.Linear(6, 6, bias=False)
    nn.init.eye_(identity.weight)
    detector = DeepGMM(identity, n_components=2, reg_covar=1e-2).fit(x)
    found = neuralize(detector, dtype=torch.float64).relevance(
        torch.from_numpy(x), composite=epsilon(1e-12)
    )
    head = neuralize(detector.mixture_, decision="outlier").relevance(torch.from_numpy(x).double())
    torch.testing.assert_close(found.values, head.values, rtol=1e-5, atol=1e-6)
    for name, share in head.absorbed.items():
        torch.testing.assert_close(found.absorbed[name], share, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [DeepGMM, RealNVP])
def test_relevance_goes_down_to_the_pixels(kind: Any) -> None:
    x = pictures()
    options = {"reg_covar": 1e-2} if kind is DeepGMM else {"hidden": (8,), "training": SHORT}
    detector = kind(features=encoder(), **options).fit(x)
    found = neuralize(detector).relevance(torch.from_numpy(x))
    assert found.values.shape == x.shape and found.values.dtype == torch.float32
    total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        neuralize(detector)(torch.from_numpy(x)), detector.decision_function(x), rtol=1e-4
    )


def test_a_pipeline_may_stand_before_it() -> None:
    x = rows() * 50
    pipeline = make_pipeline(StandardScaler(), DeepGMM(Autoencoder(training=SHORT))).fit(x)
    net = neuralize(pipeline)
    np.testing.assert_allclose(
        net(torch.from_numpy(x)), pipeline.decision_function(x), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", [DeepGMM, RealNVP])
def test_the_encoder_stays_as_it_was(kind: Any) -> None:
    own = encoder().train()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    options = {} if kind is DeepGMM else {"hidden": (8,), "training": SHORT}
    kind(features=own, **options).fit(pictures())
    assert own.training and all(p.requires_grad for p in own.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


def test_an_autoencoder_is_fitted_once_and_not_in_place() -> None:
    x = rows()
    fresh = Autoencoder(training=SHORT)
    detector = DeepGMM(fresh, n_components=2).fit(x)
    assert not hasattr(fresh, "module_") and "Autoencoder" in detector.history_
    fitted = VariationalAutoencoder(training=SHORT).fit(x[:50])
    module: Any = fitted.module_
    detector = DeepGMM(fitted, n_components=2).fit(x)
    with torch.no_grad():
        mu, _ = module.posterior(module.preprocessing(torch.from_numpy(x)))
    np.testing.assert_allclose(detector.encode(x), mu.numpy(), rtol=1e-5, atol=1e-6)
    assert not detector.history_


@pytest.mark.parametrize("kind", [DeepGMM, RealNVP])
@pytest.mark.parametrize("below", [Autoencoder, VariationalAutoencoder])
def test_saved_and_loaded_scores_are_the_same(kind: Any, below: Any, tmp_path: Path) -> None:
    x = rows()
    options = {"covariance_type": "diag"} if kind is DeepGMM else {"training": SHORT}
    detector = kind(features=below(training=SHORT), **options).fit(x)
    again = load_detector(detector.save(tmp_path / "both.safetensors"))
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))


@pytest.mark.parametrize("kind", [DeepGMM, RealNVP])
def test_features_of_one_s_own_are_asked_for_when_loading(kind: Any, tmp_path: Path) -> None:
    x = pictures()
    options = {} if kind is DeepGMM else {"hidden": (8,), "training": SHORT}
    detector = kind(features=encoder(), **options).fit(x)
    path = detector.save(tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="network="):
        load_detector(path)
    again = load_detector(path, network=encoder())
    np.testing.assert_array_equal(again.decision_function(x), detector.decision_function(x))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"features": "resnet"}, "nn.Module"),
        ({"features": nn.Unflatten(1, (2, 3))}, r"features \(n, q\)"),
        ({"n_components": 0}, "components"),
        ({"n_components": 91}, "90"),
        ({"covariance_type": "banded"}, "covariance_type"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        DeepGMM(**{"features": nn.Linear(6, 3), **options}).fit(rows())


def test_features_that_are_not_finite_are_refused() -> None:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sqrt()

    with pytest.raises(InputError, match="NaN"):
        DeepGMM(Root()).fit(rows())
    with pytest.raises(UnfittedModelError):
        DeepGMM().encode(rows())
    with pytest.raises(InputError, match=r"\(6,\)"):
        DeepGMM(nn.Linear(6, 3)).fit(rows()).encode(rows(d=5))
