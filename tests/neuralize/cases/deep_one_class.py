"""Deep SVDD and Deep SAD on tables, against a dense numpy network."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from neuralize.deep import DeepSAD, DeepSVDD
from tests.neuralize.cases.data import Cases, load
from tests.neuralize.cases.deep_base import SHORT, deep_subject, fitted, weights_of
from tests.neuralize.oracles.base import Oracle, Shares
from tests.neuralize.oracles.dense import DenseNetwork
from tests.subject import Array, Subject


class DenseSphere(Oracle):
    """``||phi(x) - c||^2 - R^2`` layer by layer; LRP-0 as activation times accumulated weights."""

    def __init__(self, net: Any) -> None:
        w = weights_of(net)
        self.center, self.radius = w["center"], float(w["radius_squared"])
        self.network = DenseNetwork(w)

    def evidence(self, x: Array) -> Array:
        phi, _ = self.network.forward(x)
        return ((phi - self.center) ** 2).sum(1) - self.radius

    def relevance(self, x: Array, target: Array | None) -> Shares:
        phi, slopes = self.network.forward(x)
        # o = sum_k z_k^2 - R^2 with z = phi - c; what z_k^2 is made of is linear in phi
        z = phi - self.center
        values, bias = self.network.back(x, z, slopes)
        absorbed = {"center": -(z * self.center).sum(1), "bias": bias}
        if self.radius:
            absorbed["radius_squared"] = np.full(len(x), -self.radius)
        return Shares(values, absorbed)


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
