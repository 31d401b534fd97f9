"""``explain``: what it takes, what it refuses, and that rows, names and targets stay together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.covariance import EmpiricalCovariance
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler
from sklearn.svm import OneClassSVM
from torch import nn

import xai
from neuralize import SVDD, InputError, UnsupportedModelError, neuralize

X = np.random.default_rng(0).normal(size=(60, 3))
FRAME = pd.DataFrame(X * [1.0, 10.0, 100.0], columns=list("abc"))
TURNED = FRAME[["c", "b", "a"]]


@pytest.fixture(scope="module")
def named() -> KMeans:
    return KMeans(2, n_init=1, random_state=0).fit(FRAME)


def test_columns_are_matched_by_name_wherever_rows_come_from(named: KMeans) -> None:
    expected = xai.explain(named, FRAME)
    for rows in (TURNED, iter([TURNED[:25], TURNED[25:]]), iter([(TURNED, None)])):
        np.testing.assert_array_equal(xai.explain(named, rows).evidence, expected.evidence)
    method = "integrated_gradients"
    first = xai.explain(named, FRAME, method=method, background=FRAME)
    again = xai.explain(named, TURNED, method=method, background=TURNED)
    np.testing.assert_array_equal(first.values, again.values)
    assert neuralize(named, data=TURNED).stiffness == neuralize(named, data=FRAME).stiffness  # type: ignore[attr-defined]
    piped = make_pipeline(StandardScaler(), KMeans(2, n_init=1, random_state=0)).fit(FRAME)
    assert neuralize(piped, data=TURNED).stiffness == neuralize(piped, data=FRAME).stiffness  # type: ignore[attr-defined]


def test_batches_and_targets_stay_in_step(named: KMeans) -> None:
    target = np.arange(60) % 2
    whole = xai.explain(named, FRAME, target)
    parts = xai.explain(named, FRAME, target, batch_size=7)
    np.testing.assert_allclose(whole.values, parts.values, rtol=1e-12)
    np.testing.assert_array_equal(parts.target, target)


def test_inside_inference_mode() -> None:
    outside = xai.explain(OneClassSVM().fit(X), X)
    with torch.inference_mode():
        inside = xai.explain(OneClassSVM().fit(X), X)
        gradient = xai.explain(OneClassSVM().fit(X), X, method="gradient")
    np.testing.assert_array_equal(inside.values, outside.values)
    assert np.abs(gradient.values).sum() > 0


@pytest.mark.parametrize(
    "model",
    [IsolationForest(max_features=1, random_state=0), IsolationForest(random_state=0)],
    ids=["one column a tree", "one column in all"],
)
def test_forests_of_single_columns(model: IsolationForest) -> None:
    x = X if model.max_features == 1 else X[:, :1]
    found = xai.explain(model.fit(x), x)
    np.testing.assert_allclose(found.original, model.decision_function(x), rtol=1e-9)
    assert found.relative_conservation_error.max() < 1e-12


def test_a_row_on_the_only_support_point() -> None:
    found = xai.explain(KernelDensity(kernel="exponential").fit([[1.0, 2.0]]), [[1.0, 2.0]])
    assert not found.values.any() and not found.evidence.any()


def test_directions_that_a_singular_covariance_does_not_see() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 40))
    found = xai.explain(neuralize(EmpiricalCovariance().fit(rows), split="nonnegative"), rows)
    assert (found.values >= 0).all()
    assert found.relative_conservation_error.max() < 1e-9


@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_large_offsets_cost_no_digits(offset: float) -> None:
    x = X + offset
    for model in (SVDD(nu=0.2), make_pipeline(StandardScaler(), OneClassSVM(nu=0.2))):
        found = xai.explain(model.fit(x), x)
        np.testing.assert_allclose(found.original, model.decision_function(x), atol=1e-9)


@pytest.mark.filterwarnings("ignore::neuralize.errors.AmplificationWarning")
def test_an_encoder_in_training_mode_is_left_as_it_was() -> None:
    from neuralize.torchvision_guard import import_zennit

    composite = import_zennit().composites.EpsilonPlus()
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU()).double().train()
    with torch.no_grad():
        features = encoder.eval()(torch.from_numpy(X)).numpy()
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = KMeans(2, n_init=1, random_state=0).fit(features)
    found = xai.explain(model, X, composite=composite, features=encoder)
    np.testing.assert_array_equal(found.target, model.labels_)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert all(module.training for module in encoder.modules())


BOX_COX = make_pipeline(PowerTransformer("box-cox"), KMeans(2, n_init=1)).fit(np.abs(X) + 0.1)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda m: xai.explain(m, 3.0), "rows"),
        (lambda m: xai.explain(m, torch.tensor(1.0)), "rows"),
        (lambda m: xai.explain(m, torch.from_numpy(X).to(torch.complex64)), "real"),
        (lambda m: xai.explain(m, torch.from_numpy(X).to_sparse()), "dense"),
        (lambda m: xai.explain(m, sparse.csr_matrix(X)), "toarray"),
        (lambda m: xai.explain(KMeans(2).fit(X), FRAME.set_axis(list("aab"), axis=1)), "twice"),
        (lambda m: xai.explain(m, FRAME.astype("Float64").mask(FRAME > 1)), "missing"),
        (lambda m: xai.explain(m, iter([])), "empty"),
        (lambda m: xai.explain(m, FRAME, target=1.7), "cluster"),
        (lambda m: xai.explain(m, FRAME, target="a"), "cluster"),
        (lambda m: xai.explain(m, FRAME, batch_size=2.5), "batch_size"),  # type: ignore[arg-type]
        (lambda m: xai.explain(m, FRAME, device="bogus"), "device"),
        (lambda m: xai.explain(m, FRAME, method="random", seed=-1), "seed"),
        (lambda m: xai.explain(neuralize(m), FRAME, features=nn.Linear(3, 3)), "network"),
        (lambda m: neuralize(m, features=3), "Module"),  # type: ignore[arg-type]
        (lambda m: xai.explain(BOX_COX, -np.abs(X)), "finite answer"),
        (lambda m: xai.explain(KernelDensity().fit(X), X * 1e200), "finite answer"),
    ],
)
def test_misuse_is_an_input_error(call: Callable[[Any], Any], word: str, named: KMeans) -> None:
    with pytest.raises(InputError, match=word):
        call(named)


def test_options_for_a_network_that_is_made_already(named: KMeans) -> None:
    net = neuralize(named)
    assert neuralize(net) is net
    with pytest.raises(UnsupportedModelError, match="already"):
        neuralize(net, stiffness=3.0)


def test_rows_scored_against_their_batch_are_not_taken_in_batches() -> None:
    ecod = pytest.importorskip("pyod.models.ecod").ECOD().fit(X)
    with pytest.raises(InputError, match="at once"):
        xai.explain(ecod, iter([X[:30], X[30:]]))


def test_explanations_name_the_rules_of_a_deep_detector() -> None:
    from neuralize.deep import Autoencoder, DeepSVDD, Training

    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    training = Training(epochs=1, progress=False)
    assert xai.explain(DeepSVDD(training=training).fit(x), x[:2]).composite == "EpsilonGamma"
    assert xai.explain(Autoencoder(training=training).fit(x), x[:2]).composite == "GammaEverywhere"
