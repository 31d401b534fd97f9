"""Heads on encoders: their decisions against scikit-learn and brute force on the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

import xai
from neuralize.deep import D2Neighbors, PatchCore
from neuralize.errors import InputError
from xai.encoder import Encoder
from xai.encoder_heads import features_of, fit_head, spherical_kmeans
from xai.feature_maps import feature_maps, middle_layers
from xai.pretrained import cifar_resnet20

RNG = np.random.default_rng(0)
X = np.concatenate(
    [RNG.random((30, 3, 16, 16)) * scale for scale in (0.2, 0.6, 1.0)]
).astype(np.float32)  # fmt: skip
TEST = torch.from_numpy(RNG.random((12, 3, 16, 16), dtype=np.float32))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(cifar_resnet20(), "cifar_resnet20", channels=3)


def features(encoder: Encoder, x: torch.Tensor | np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return encoder(torch.as_tensor(x)).numpy()


def test_features_in_chunks_are_those_in_one_go(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xai.encoder_heads.INPUTS_AT_ONCE", 7 * X[0].size)
    assert np.allclose(features_of(encoder, X), features(encoder, X), atol=1e-6)


def test_kmeans_assigns_as_scikit_learn(encoder: Encoder) -> None:
    net = fit_head(encoder, X, "kmeans:4", seed=3)
    fitted = KMeans(4, n_init=4, random_state=3).fit(features(encoder, X))
    assert np.array_equal(net.predict(TEST).numpy(), fitted.predict(features(encoder, TEST)))
    d = ((features(encoder, TEST)[:, None] - fitted.cluster_centers_) ** 2).sum(2)
    ordered = np.sort(d, 1)
    evidence = net.evidence(TEST).numpy()
    assert np.allclose(evidence, ordered[:, 1] - ordered[:, 0], rtol=1e-3, atol=1e-4)
    assert net.model_name == "cifar_resnet20 with kmeans:4"


def test_similarity_decides_by_cosine_to_the_classes(encoder: Encoder) -> None:
    labels = np.repeat(["a", "b", "c"], 30)
    net = fit_head(encoder, X, "similarity", labels)
    phi, test = (features(encoder, x).astype(np.float64) for x in (X, TEST))
    phi, test = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (phi, test))
    centres = np.stack([phi[labels == name].sum(0) for name in "abc"])
    cosine = test @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T
    assert np.array_equal(net.predict(TEST).numpy(), cosine.argmax(1))
    ordered = np.sort(cosine, 1)
    evidence = net.evidence(TEST).numpy()
    assert np.allclose(evidence, 2 * (ordered[:, 2] - ordered[:, 1]), atol=1e-5)
    relevance = xai.explain(net, TEST.numpy(), composite="epsilon_plus")
    assert (relevance.relative_conservation_error < 1e-5).all()


def test_spherical_kmeans_is_a_fixed_point() -> None:
    phi = RNG.normal(size=(80, 5))
    phi /= np.linalg.norm(phi, axis=1, keepdims=True)
    found = spherical_kmeans(phi, 4, seed=0)
    nearest = (phi @ found.T).argmax(1)
    for k in range(4):
        mean = phi[nearest == k].sum(0)
        assert np.allclose(found[k], mean / np.linalg.norm(mean))
    net = fit_head(Encoder(nn.Flatten(), "rows"), phi.astype(np.float32), "similarity:4")
    assert net.n_clusters == 4


def test_patchcore_takes_the_middle_layers(encoder: Encoder) -> None:
    assert middle_layers(feature_maps(encoder, X), encoder) == ["layer1", "layer2"]
    net = fit_head(encoder, X, "patchcore", seed=1)
    fitted = PatchCore(
        encoder, layers=["network.layer1", "network.layer2"], coreset=0.05, mean=None, std=None,
        seed=1,
    ).fit(X)  # fmt: skip
    assert net.kind == "outlier"
    assert np.allclose(net(TEST).numpy(), fitted.decision_function(TEST.numpy()), rtol=1e-5)
    named = fit_head(encoder, X[:10], "patchcore:layer3")
    assert "layers layer3" in named.evidence_name


def test_patchcore_is_bounded(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xai.encoder_heads.PATCHES", 5 * 16 * 16)
    bank = fit_head(encoder, X, "patchcore").network.bank
    assert len(bank) == round(0.05 * 5 * 16 * 16)


def test_large_pictures_are_explained_few_at_a_time(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit_head(encoder, X, "kmeans:2").encoder_rows == 16
    monkeypatch.setattr("xai.encoder_heads.EXPLAINED_AT_ONCE", 5 * X[0].size + 1)
    assert fit_head(encoder, X, "kmeans:2").encoder_rows == 5
    monkeypatch.setattr("xai.encoder_heads.EXPLAINED_AT_ONCE", 1)
    assert fit_head(encoder, X, "kmeans:2").encoder_rows == 1


def test_d2neighbors(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    net = fit_head(encoder, X, "d2neighbors")
    fitted = D2Neighbors(backbone=encoder).fit(X)
    assert np.allclose(net(TEST).numpy(), fitted.decision_function(TEST.numpy()), rtol=1e-5)
    monkeypatch.setattr("xai.encoder_heads.NEIGHBORS", 20)
    assert len(fit_head(encoder, X, "d2neighbors").network.bank) == 20


@pytest.mark.parametrize(
    ("kind", "n", "labels", "message"),
    [
        ("svm", 90, None, "Expected a head of"),
        ("kmeans:1", 90, None, "from 2 on"),
        ("kmeans:many", 90, None, "from 2 on"),
        ("kmeans:10", 5, None, "at least 10 rows"),
        ("kmeans", 2, None, "at least 3 rows"),
        ("similarity", 30, np.zeros(30), "at least two classes"),
        ("similarity:3", 30, np.arange(30), "labels say how many"),
        ("d2neighbors:3", 90, None, "no option"),
        ("patchcore:layer9", 30, None, "did you mean"),
    ],
)
def test_what_no_head_is_made_of(
    encoder: Encoder, kind: str, n: int, labels: np.ndarray | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_head(encoder, X[:n], kind, labels)


def test_patchcore_needs_maps() -> None:
    flat = Encoder(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), "flat")
    with pytest.raises(InputError, match="no layer with feature maps"):
        fit_head(flat, X, "patchcore")
    with pytest.raises(InputError, match="takes pictures"):
        fit_head(flat, X.reshape(90, -1), "patchcore")
