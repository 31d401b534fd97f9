"""Distances as sums over input features: ``parts(x)`` ``(n, m, d)`` adds up to the distances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.neuralize.oracles.base import Array

Parts = Callable[[Array], Array]


def squared(u: Array) -> Parts:
    """``||x - u_j||^2``."""
    return lambda x: (x[:, None, :] - u[None, :, :]) ** 2


def projected(u: Array, matrix: Array, offset: Array) -> Parts:
    """``||B x + b - u_j||^2`` over ``x``, split by ``B^T B`` between minimum-norm preimages.

    ``(x~ - u~)_i [B^T B (x~ - u~)]_i``: what ``B`` does not see of ``x`` has no part. With ``x``
    itself the sum is the same, but a row whose image falls onto ``u_j`` would divide by zero.
    """
    inverse = np.linalg.pinv(matrix)
    preimages = (u - offset) @ inverse.T

    def parts(x: Array) -> Array:
        out = np.zeros((len(x), len(u), x.shape[1]))
        for row in range(len(x)):
            for j in range(len(u)):
                delta = inverse @ (matrix @ x[row]) - preimages[j]
                out[row, j] = delta * (matrix.T @ (matrix @ delta))
        return out

    return parts


def root(parts: Parts) -> Parts:
    """The square root of a sum of parts, shared in the same proportions: ``part_i / sqrt(h)``."""

    def rooted(x: Array) -> Array:
        p = parts(x)
        h = p.sum(-1, keepdims=True)
        return np.divide(p, np.sqrt(np.abs(h)), out=np.zeros_like(p), where=h != 0)

    return rooted


def euclidean(u: Array) -> Parts:
    """``||x - u_j||``."""
    return root(squared(u))


def minkowski(u: Array, p: float) -> Parts:
    """``||x - u_j||_p``, by ``|x_i - u_ij|^p / d^(p - 1)``."""

    def parts(x: Array) -> Array:
        powers = np.abs(x[:, None, :] - u[None, :, :]) ** p
        d = powers.sum(-1, keepdims=True) ** (1 / p)
        return np.divide(powers, d ** (p - 1), out=np.zeros_like(powers), where=d != 0)

    return parts


def absolute(u: Array) -> Parts:
    """``||x - u_j||_1``."""
    return minkowski(u, 1)


def energies(means: Array, precisions: Array) -> Parts:
    """``1/2 (x - mu_k)^T P_k (x - mu_k)``."""

    def parts(x: Array) -> Array:
        out = np.zeros((len(x), len(means), x.shape[1]))
        for row in range(len(x)):
            for k, precision in enumerate(precisions):
                delta = x[row] - means[k]
                out[row, k] = 0.5 * delta * (precision @ delta)
        return out

    return parts
