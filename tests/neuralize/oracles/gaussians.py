"""Gaussian mixtures, the Mahalanobis distance and the PCA residual."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import digamma

from tests.neuralize.oracles.base import Array, Oracle, Shares, logsumexp, softmax
from tests.neuralize.oracles.parts import Parts

PRIORS, ENTROPY = "priors and log-determinants", "assignment entropy"


def mixture_precisions(model: Any) -> Array:
    """``S_k^{-1}`` ``(K, d, d)`` from the model's covariances, whatever their form."""
    k, d = model.means_.shape
    form = model.covariance_type
    covariances = np.zeros((k, d, d))
    for c in range(k):
        if form == "full":
            covariances[c] = model.covariances_[c]
        elif form == "tied":
            covariances[c] = model.covariances_
        elif form == "diag":
            covariances[c] = np.diag(model.covariances_[c])
        else:
            covariances[c] = model.covariances_[c] * np.eye(d)
    return np.linalg.inv(covariances)


def mixture_constants(model: Any) -> Array:
    """``C_k`` ``(K,)``: everything in ``-log (pi_k p_k(x))`` that does not depend on ``x``."""
    d = model.means_.shape[1]
    _, log_precision = np.linalg.slogdet(mixture_precisions(model))
    log_density = 0.5 * log_precision - 0.5 * d * np.log(2 * np.pi)
    if not hasattr(model, "weight_concentration_"):
        return -log_density - np.log(model.weights_)
    # The variational expectations of log pi_k and log |S_k^{-1}| (Bishop 2006, eq. 10.65, 10.66).
    freedom = model.degrees_of_freedom_
    log_density += 0.5 * (d * np.log(2) - d * np.log(freedom) - d / model.mean_precision_)
    log_density += 0.5 * sum(digamma(0.5 * (freedom - i)) for i in range(d))
    if model.weight_concentration_prior_type == "dirichlet_process":
        a, b = model.weight_concentration_
        log_weights = digamma(a) - digamma(a + b)
        for k in range(len(a)):
            log_weights[k] += sum(digamma(b[j]) - digamma(a[j] + b[j]) for j in range(k))
    else:
        a = model.weight_concentration_
        log_weights = digamma(a) - digamma(a.sum())
    return -log_density - log_weights


class Mixture(Oracle):
    """``E_k = Q_k + C_k``; evidence ``log p_c / (1 - p_c)`` or ``-log sum_k exp(-E_k)``."""

    def __init__(self, parts: Parts, constants: Array, decision: str) -> None:
        self.parts, self.constants = parts, constants
        self.kind = "cluster" if decision == "cluster" else "outlier"

    def energies(self, x: Array) -> Array:
        return self.parts(x).sum(-1) + self.constants

    def evidence(self, x: Array) -> Array:
        e = self.energies(x)
        if self.kind == "outlier":
            return -logsumexp(-e)
        return np.stack([-logsumexp(-np.delete(e, c, 1)) - e[:, c] for c in range(e.shape[1])], 1)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        q, e = self.parts(x), self.energies(x)
        values, priors, entropy = np.zeros_like(x), np.zeros(len(x)), np.zeros(len(x))
        for row in range(len(x)):
            c = -1 if target is None else int(target[row])
            others = [k for k in range(e.shape[1]) if k != c]
            p = softmax(-e[row, others])
            values[row] = sum(pk * q[row, k] for pk, k in zip(p, others, strict=True))
            priors[row] = p @ self.constants[others]
            positive = p[p > 0]
            entropy[row] = positive @ np.log(positive)
            if c >= 0:
                values[row] -= q[row, c]
                priors[row] -= self.constants[c]
        return Shares(values, {PRIORS: priors, ENTROPY: entropy})


class Ellipsoid(Oracle):
    """Squared Mahalanobis distance ``d^T P d``."""

    def __init__(self, location: Array, precision: Array, split: str) -> None:
        self.location, self.precision, self.split = location, precision, split

    def evidence(self, x: Array) -> Array:
        return np.array([delta @ self.precision @ delta for delta in x - self.location])

    def relevance(self, x: Array, target: Array | None) -> Shares:
        values = np.zeros_like(x)
        eigenvalues, vectors = np.linalg.eigh(self.precision)
        for row in range(len(x)):
            delta = x[row] - self.location
            if self.split == "signed":
                values[row] = delta * (self.precision @ delta)
                continue
            for precision, v in zip(eigenvalues, vectors.T, strict=True):
                values[row] += precision * (v @ delta) ** 2 * v**2
        return Shares(values)


class Residual(Oracle):
    """``||r||^2`` with ``r`` what orthonormal ``components`` around ``mean`` leave unexplained."""

    def __init__(self, mean: Array, components: Array, split: str) -> None:
        self.mean, self.components, self.split = mean, components, split

    def _residual(self, x: Array) -> Array:
        r = x - self.mean
        for v in self.components:
            r = r - np.outer((x - self.mean) @ v, v)
        return r

    def evidence(self, x: Array) -> Array:
        return (self._residual(x) ** 2).sum(1)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        r = self._residual(x)
        return Shares(r**2 if self.split == "nonnegative" else (x - self.mean) * r)


class PulledResidual(Oracle):
    """The residual of ``z = B x + b``, split over ``x``: ``R_i = [B^+ r]_i [B^T r]_i``."""

    def __init__(self, inner: Residual, matrix: Array, offset: Array) -> None:
        self.inner, self.matrix, self.offset = inner, matrix, offset

    def evidence(self, x: Array) -> Array:
        return self.inner.evidence(x @ self.matrix.T + self.offset)

    def relevance(self, x: Array, target: Array | None) -> Shares:
        inverse = np.linalg.pinv(self.matrix)
        values = np.zeros_like(x)
        for row in range(len(x)):
            z = self.matrix @ x[row] + self.offset
            r = self.inner._residual(z[None])[0]
            for i in range(x.shape[1]):
                values[row, i] = (inverse[i] @ r) * (self.matrix[:, i] @ r)
        return Shares(values)
