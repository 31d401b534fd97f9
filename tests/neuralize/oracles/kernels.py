"""Kernel densities and one-class machines (arXiv 1805.06230), and the kernel PCA residual."""

from __future__ import annotations

import numpy as np

from tests.neuralize.oracles.base import (
    COINCIDENT,
    Array,
    Oracle,
    Shares,
    logsumexp,
    softmax,
    spread,
)
from tests.neuralize.oracles.parts import Parts, squared


class SoftNearest(Oracle):
    """``o = -(1/g) log sum_j a_j exp(-g h_j)``, ``sum_j a_j = 1``; support ``j`` gets ``p_j o``.

    ``form`` says what ``h`` is: ``"squared"`` distances are smooth, ``"euclidean"`` ones have a
    kink at the support points, ``"absolute"`` ones wherever a coordinate agrees.
    """

    def __init__(self, parts: Parts, weights: Array, gamma: float, form: str = "squared") -> None:
        self.parts, self.gamma, self.form = parts, gamma, form
        with np.errstate(divide="ignore"):  # a weight of zero takes no part
            self.log_weights = np.log(weights / weights.sum())

    def scores(self, x: Array) -> Array:
        return self.log_weights - self.gamma * self.parts(x).sum(-1)

    def weights_of(self, x: Array) -> Array:
        return softmax(self.scores(x))

    def evidence(self, x: Array) -> Array:
        return -logsumexp(self.scores(x)) / self.gamma

    def relevance(self, x: Array, target: Array | None) -> Shares:
        shares = self.weights_of(x) * self.evidence(x)[:, None]
        degree = 2 if self.form == "squared" else 1
        values, coincident = spread(shares, self.parts(x), degree)
        return Shares(values, {COINCIDENT: coincident})

    def kink(self, x: Array, target: Array | None) -> Array:
        if self.form == "squared":
            return super().kink(x, target)
        parts = self.parts(x)
        if self.form == "euclidean":
            parts = parts.sum(-1, keepdims=True)
        return parts.min((1, 2)) / parts.max((1, 2))


class FeatureSpaceResidual(Oracle):
    """Kernel PCA: squared distance in feature space between ``phi(x)`` and its reconstruction.

    The reconstruction is ``sum_j gamma_j(x) phi(u_j)`` with ``sum_j gamma_j = 1``. The residual is
    translation equivariant in the distances ``h_j = ||phi(x) - phi(u_j)||^2``: its gradient is
    ``gamma``, which stays the same when all ``h_j`` shrink by one constant: ``R_j = gamma_j o``.
    """

    def __init__(
        self,
        support: Array,
        kernel: str,
        gamma: float,
        eigenvectors: Array,
        eigenvalues: Array,
    ) -> None:
        keep = eigenvalues > 0
        self.support, self.kernel, self.gamma = support, kernel, gamma
        self.alphas = eigenvectors[:, keep] / np.sqrt(eigenvalues[keep])
        self.k = self.gram(support, support)

    def gram(self, a: Array, b: Array) -> Array:
        if self.kernel == "linear":
            return a @ b.T
        return np.exp(-self.gamma * squared(b)(a).sum(-1))

    def mixture(self, x: Array) -> Array:
        """``gamma_j(x)`` ``(n, m)``."""
        k = self.gram(x, self.support)
        centred = k - k.mean(1, keepdims=True) - self.k.mean(0) + self.k.mean()
        beta = centred @ self.alphas @ self.alphas.T
        return beta + (1 - beta.sum(1, keepdims=True)) / len(self.support)

    def evidence(self, x: Array) -> Array:
        """``||phi - sum_j gamma_j phi_j||^2`` from kernel values alone."""
        out = np.zeros(len(x))
        weights, k = self.mixture(x), self.gram(x, self.support)
        for row in range(len(x)):
            own = self.gram(x[row : row + 1], x[row : row + 1])[0, 0]
            w = weights[row]
            out[row] = own - 2 * w @ k[row] + w @ self.k @ w
        return out

    def relevance(self, x: Array, target: Array | None) -> Shares:
        if self.kernel == "linear":
            residual = x - self.mixture(x) @ self.support
            return Shares(residual**2)
        shares = self.mixture(x) * self.evidence(x)[:, None]
        values, coincident = spread(shares, squared(self.support)(x))
        return Shares(values, {COINCIDENT: coincident})
