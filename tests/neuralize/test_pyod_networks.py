"""PyOD's neural networks: equal to PyOD's own numbers, and what cannot be explained is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from neuralize import neuralize
from neuralize.errors import UnfittedModelError, UnsupportedModelError

pytest.importorskip("pyod")

WINE = load_wine().data
SVDD = {"verbose": 0, "epochs": 4, "random_state": 0}
AE = {"verbose": 0, "epoch_num": 4}


def svdd(**options: Any) -> Any:
    from pyod.models.deep_svdd import DeepSVDD

    return DeepSVDD(13, **{**SVDD, **options})


def autoencoder(**options: Any) -> Any:
    from pyod.models.auto_encoder import AutoEncoder

    return AutoEncoder(**{**AE, **options})


MODELS = {
    "deep svdd": svdd,
    "deep svdd, decoder": lambda: svdd(use_ae=True, hidden_neurons=[8, 4, 2], epochs=20),
    "deep svdd, tanh": lambda: svdd(hidden_activation="tanh"),
    "autoencoder": autoencoder,
    "autoencoder, elu": lambda: autoencoder(hidden_activation_name="elu", batch_norm=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_pyod_s_numbers_and_labels_in_the_user_s_units(name: str) -> None:
    model = MODELS[name]().fit(WINE)
    net = neuralize(model)
    x = torch.from_numpy(WINE)
    expected = model.decision_function(WINE)
    # PyOD's float32 loses digits where a representation comes close to the centre
    atol = 1e-6 * np.sqrt(expected.max())
    np.testing.assert_allclose(net.score_map(net(x)).numpy(), expected, rtol=1e-5, atol=atol)
    np.testing.assert_array_equal(net.predict(x).numpy(), model.predict(WINE))
    with torch.no_grad():
        found = net.relevance(x[:20])
    total = found.values.sum(1) + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.evidence, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [svdd, autoencoder])
def test_columns_of_any_size_and_columns_that_never_vary(make: Any) -> None:
    x = WINE * 10.0 ** np.arange(-6, 7) + 1e6  # float32 would keep nothing of the first ones
    x[:, 3] = 7.3
    model = make().fit(x)
    np.testing.assert_allclose(
        neuralize(model)(torch.from_numpy(x)).numpy(), model.decision_function(x), rtol=1e-4
    )


@pytest.mark.parametrize("make", [svdd, autoencoder])
def test_not_fitted(make: Any) -> None:
    with pytest.raises(UnfittedModelError, match="fit"):
        neuralize(make())


def test_deep_svdd_of_versions_that_did_not_train() -> None:
    model = svdd().fit(WINE)
    del model.c_
    with pytest.raises(UnsupportedModelError, match=r"3\.6\.3"):
        neuralize(model)


def test_the_network_does_not_follow_the_model() -> None:
    model = autoencoder().fit(WINE)
    net = neuralize(model)
    before = net(torch.from_numpy(WINE))
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(1.0)
    assert torch.equal(net(torch.from_numpy(WINE)), before)
