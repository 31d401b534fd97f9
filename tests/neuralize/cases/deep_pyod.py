"""PyOD's neural networks, against their weights in dense numpy; PyOD's own network in float64."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.neuralize.cases.data import Cases, Split, load, subject
from tests.neuralize.cases.deep_base import exact_network
from tests.neuralize.oracles.base import Oracle, Shares
from tests.subject import Array, Subject, pyod_outliers


class Chain:
    """Affine maps and ReLUs; LRP-0 as accumulated weights, offsets absorbing their share."""

    def __init__(self, layers: list[tuple[Array, Array, bool]]) -> None:
        self.layers = layers

    def forward(self, a: Array) -> tuple[Array, list[Array]]:
        gates = []
        for matrix, offset, relu in self.layers:
            z = a @ matrix.T + offset
            gates.append((z > 0) * 1.0 if relu else np.ones_like(z))
            a = z * gates[-1]
        return a, gates

    def back(self, force: Array, gates: list[Array]) -> tuple[Array, Array]:
        """What times the input is its relevance, and what the offsets absorb ``(n,)``."""
        absorbed = np.zeros(len(force))
        for (matrix, offset, _), gate in zip(self.layers[::-1], gates[::-1], strict=True):
            force = force * gate
            absorbed = absorbed + force @ offset
            force = force @ matrix
        return force, absorbed


class Sphere(Oracle):
    """``||phi(z) - c||^2``."""

    def __init__(self, model: Any, data: Split) -> None:
        weights = [p.detach().double().numpy() for p in model.model_.parameters()]
        self.chain = Chain([(w, np.zeros(len(w)), True) for w in weights])
        self.mean, self.std = np.zeros(data.fit.shape[1]), np.ones(data.fit.shape[1])
        if model.preprocessing:
            self.mean, self.std = model.scaler_.mean_, model.scaler_.scale_
        self.c = model.c_.double().numpy()

    def evidence(self, x: Array) -> Array:
        phi, _ = self.chain.forward((x - self.mean) / self.std)
        return ((phi - self.c) ** 2).sum(1)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        z = (x - self.mean) / self.std
        phi, gates = self.chain.forward(z)
        force, _ = self.chain.back(phi - self.c, gates)
        return Shares(force * z, {"center": -((phi - self.c) * self.c).sum(1)})


class Residual(Oracle):
    """``||z - r(z)||``: of ``e = z - r`` the input has ``z e / ||e||``, the rest goes back."""

    def __init__(self, model: Any, data: Split) -> None:
        self.mean, self.std = model.X_mean, model.X_std + 1e-8
        layers = []
        for name, module in model.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                pair = [p.detach().double().numpy() for p in (module.weight, module.bias)]
                layers.append([*pair, not name.startswith("decoder") or "." in name[8:]])
            elif isinstance(module, torch.nn.BatchNorm1d):
                scale, shift, mean, var = (
                    t.detach().double().numpy() for t in list(module.state_dict().values())[:4]
                )
                scale = scale / np.sqrt(var + module.eps)
                matrix, offset, relu = layers[-1]
                layers[-1] = [scale[:, None] * matrix, scale * (offset - mean) + shift, relu]
        self.chain = Chain([tuple(layer) for layer in layers])

    def evidence(self, x: Array) -> Array:
        z = (x - self.mean) / self.std
        e: Array = z - self.chain.forward(z)[0]
        return np.sqrt((e**2).sum(1))

    def relevance(self, x: Array, target: Array | None) -> Shares:
        z = (x - self.mean) / self.std
        r, gates = self.chain.forward(z)
        share = (z - r) / self.evidence(x)[:, None]
        force, absorbed = self.chain.back(-share, gates)
        return Shares(z * share + z * force, {"bias": absorbed})


def sphere_scores(model: Any, x: Array) -> Array:
    """PyOD's network in float64."""
    z = model.scaler_.transform(x) if model.preprocessing else x
    with torch.no_grad():
        phi = copy.deepcopy(model.model_).double().eval()(torch.from_numpy(z))
    scores: Array = ((phi - model.c_) ** 2).sum(1).numpy()
    return scores


def residual_scores(model: Any, x: Array) -> Array:
    """PyOD's network in float64."""
    z = torch.from_numpy((x - model.X_mean) / (model.X_std + 1e-8))
    with torch.no_grad():
        r = copy.deepcopy(model.model).double().eval()(z)
    scores: Array = (z - r).norm(dim=1).numpy()
    return scores


def deep_svdd(name: str = "wine", *, raw: bool = False, **options: Any) -> Subject:
    pytest.importorskip("pyod")
    from pyod.models.deep_svdd import DeepSVDD

    data = load(name, raw=raw)
    d = data.fit.shape[1]
    model = DeepSVDD(d, verbose=0, epochs=5, random_state=0, **options).fit(data.fit)
    return _subject(model, data, Sphere(model, data), sphere_scores)


def autoencoder(name: str = "wine", *, raw: bool = False, **options: Any) -> Subject:
    pytest.importorskip("pyod")
    from pyod.models.auto_encoder import AutoEncoder

    data = load(name, raw=raw)
    model = AutoEncoder(verbose=0, epoch_num=5, **options).fit(data.fit)
    return _subject(model, data, Residual(model, data), residual_scores)


def sortable(model: Any) -> Any:
    """The model without the optimizer's state, kept by weight, which joblib cannot sort."""
    if not isinstance(model.optimizer, str):
        model.optimizer = None
    return model


def refit(model: Any, x: Array) -> None:
    sortable(model.fit(x[len(x) // 8 :] + 1))


def _subject(model: Any, data: Split, oracle: Oracle, native: Any) -> Subject:
    return subject(
        sortable(model), exact_network, data, lambda net: oracle,
        native=native, outliers=pyod_outliers, refit=refit,
    )  # fmt: skip


PYOD_NETWORKS: Cases = {
    "pyod-deep-svdd": deep_svdd,
    "pyod-deep-svdd-raw": partial(deep_svdd, "breast_cancer", raw=True, hidden_neurons=[16, 8, 6]),
    "pyod-deep-svdd-unscaled": partial(deep_svdd, preprocessing=False),
    "pyod-autoencoder": autoencoder,
    "pyod-autoencoder-raw": partial(
        autoencoder, "breast_cancer", raw=True, batch_norm=False, hidden_neuron_list=[16, 4]
    ),
}
