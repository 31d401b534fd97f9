"""HSC, BCE and focal on tables, against a dense numpy network."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from neuralize.deep import BinaryClassifier, HypersphereClassifier
from neuralize.deep.outlier_exposure import ExposedDetector
from tests.neuralize.cases.data import Cases, load
from tests.neuralize.cases.deep_base import SHORT, deep_subject, weights_of
from tests.neuralize.oracles.base import Oracle, Shares
from tests.neuralize.oracles.dense import DenseNetwork
from tests.subject import Array, Subject


class DenseExposed(Oracle):
    """A multilayer perceptron with biases, and a head; LRP-0 as accumulated weights."""

    def __init__(self, net: Any, head: str) -> None:
        self.head, self.network = head, DenseNetwork(weights_of(net))

    def _head(self, phi: Array) -> tuple[Array, Array]:
        """The score, and what one unit of ``phi_k`` holds of it: ``R_k = phi_k * that``."""
        s = (phi**2).sum(1)
        if self.head == "logit":
            return phi[:, 0], np.ones_like(phi)
        if self.head == "l1":
            return np.abs(phi).sum(1), np.sign(phi)
        h = {"l2": np.sqrt(s), "l2_squared": s, "pseudo_huber": np.sqrt(s + 1) - 1}[self.head]
        return h, (h / s)[:, None] * phi

    def evidence(self, x: Array) -> Array:
        return self._head(self.network.forward(x)[0])[0]

    def relevance(self, x: Array, target: Array | None) -> Shares:
        phi, slopes = self.network.forward(x)
        values, bias = self.network.back(x, self._head(phi)[1], slopes)
        return Shares(values, {"bias": bias})

    def kink(self, x: Array, target: Array | None) -> Array:
        """A representation of L1 that has a zero has no derivative there."""
        phi = np.abs(self.network.forward(x)[0])
        return phi.min(1) / phi.max(1) if self.head == "l1" else np.full(len(x), np.inf)


def exposed(name: str, model: ExposedDetector, head: str) -> Subject:
    """Outliers that are rows with their columns shuffled, a little further out."""
    data = load(name)
    rng = np.random.default_rng(0)
    outliers = 1.5 * rng.permuted(data.fit[::2], axis=0)

    def fit(model: ExposedDetector, x: Array) -> ExposedDetector:
        return model.fit(np.concatenate([x, outliers]), np.repeat([0, 1], [len(x), len(outliers)]))

    return deep_subject(
        fit(model, data.fit), data, partial(DenseExposed, head=head),
        refit=lambda m, x: fit(m, x[len(x) // 8 :] + 1),
    )  # fmt: skip


def hsc(name: str, norm: Any, **options: Any) -> Subject:
    model = HypersphereClassifier(norm=norm, training=SHORT, **options)
    return exposed(name, model, norm)


def binary(name: str, **options: Any) -> Subject:
    return exposed(name, BinaryClassifier(training=SHORT, **options), "logit")


EXPOSED: Cases = {
    "hsc-pseudo-huber": partial(hsc, "wine", "pseudo_huber"),
    "hsc-l1": partial(hsc, "wine", "l1"),
    "hsc-l2": partial(hsc, "wine", "l2"),
    "hsc-l2-squared": partial(hsc, "breast_cancer", "l2_squared", rep_dim=5),
    "bce": partial(binary, "breast_cancer"),
    "focal": partial(binary, "wine", objective="focal"),
}
