"""Deep SVDD and Deep SAD on tables, against a dense numpy network."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from neuralize.deep import DeepSAD, DeepSVDD
from tests.neuralize.cases.data import Cases, load
from tests.neuralize.cases.deep_base import SHORT, deep_subject, fitted, weights_of
from tests.neuralize.oracles.base import Oracle, Shares
from tests.subject import Array, Subject


class DenseSphere(Oracle):
    """``||phi(x) - c||^2 - R^2`` layer by layer; LRP-0 as activation times accumulated weights."""

    def __init__(self, net: Any) -> None:
        w = weights_of(net)
        self.center, self.radius = w["center"], float(w["radius_squared"])
        self.mean, self.std = w["preprocessing.0.mean"], w["preprocessing.0.std"]
        self.layers = []
        depth = sum(name.endswith(".weight") for name in w)
        for i in range(depth):
            matrix, offset = w[f"network.dense.{i}.weight"], np.zeros(1)
            if f"network.norms.{i}.running_mean" in w:
                scale = 1 / np.sqrt(w[f"network.norms.{i}.running_var"] + 1e-4)
                offset = -scale * w[f"network.norms.{i}.running_mean"]
                matrix = scale[:, None] * matrix
            self.layers.append((matrix, offset * np.ones(len(matrix))))

    def _pass(self, x: Array) -> tuple[Array, list[Array]]:
        a, slopes = (x - self.mean) / self.std, []
        for i, (matrix, offset) in enumerate(self.layers):
            z = a @ matrix.T + offset
            slope = np.ones_like(z) if i == len(self.layers) - 1 else np.where(z > 0, 1.0, 0.01)
            slopes.append(slope)
            a = z * slope
        return a, slopes

    def evidence(self, x: Array) -> Array:
        phi, _ = self._pass(x)
        return ((phi - self.center) ** 2).sum(1) - self.radius

    def relevance(self, x: Array, target: Array | None) -> Shares:
        phi, slopes = self._pass(x)
        # o = sum_k z_k^2 - R^2 with z = phi - c; what z_k^2 is made of is linear in phi
        z = phi - self.center
        scale = np.ones(len(x))
        absorbed = {"center": -(z * self.center).sum(1)}
        if self.radius:
            absorbed["radius_squared"] = np.full(len(x), -self.radius)
        bias, force = np.zeros(len(x)), z * scale[:, None]
        for (matrix, offset), slope in zip(reversed(self.layers), reversed(slopes), strict=True):
            force = force * slope
            bias += force @ offset
            force = force @ matrix
        absorbed["bias"] = bias
        return Shares(force * (x - self.mean) / self.std, absorbed)


def svdd(name: str, **options: Any) -> Subject:
    data = load(name)
    model = fitted(DeepSVDD(training=SHORT, **options), data)
    return deep_subject(model, data, DenseSphere)


def sad(name: str, **options: Any) -> Subject:
    data = load(name)
    labels = np.random.default_rng(0).choice([-1, 0, 0, 0, 1], len(data.fit))
    model = fitted(DeepSAD(training=SHORT, **options), data, labels)
    again = labels[len(labels) // 8 :]
    return deep_subject(
        model, data, DenseSphere, refit=lambda m, x: m.fit(x[len(labels) // 8 :] + 1, again)
    )


ONE_CLASS: Cases = {
    "deep-svdd": partial(svdd, "wine"),
    "deep-svdd-digits": partial(svdd, "digits", rep_dim=4),
    "deep-svdd-soft": partial(svdd, "wine", objective="soft-boundary", nu=0.2, warm_up=2),
    "deep-svdd-variance": partial(svdd, "wine", regularizer="variance"),
    "deep-svdd-noise": partial(svdd, "breast_cancer", regularizer="noise"),
    "deep-sad": partial(sad, "wine"),
}
