"""What an oracle answers, and the one step all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

COINCIDENT = "coincident support points"


@dataclass
class Shares:
    """``evidence = values.sum(1) + sum(absorbed)``; ``values`` None where nothing defines them."""

    values: Array | None
    absorbed: dict[str, Array] = field(default_factory=dict)


class Oracle:
    """Evidence and its decomposition; ``gap`` says how near a row is to another choice."""

    kind = "outlier"

    def evidence(self, x: Array) -> Array:
        """``(n,)``, or ``(n, K)`` for clusters."""
        raise NotImplementedError

    def relevance(self, x: Array, target: Array | None) -> Shares:
        raise NotImplementedError

    def gap(self, x: Array, target: Array | None) -> Array:
        """Relative distance to the nearest tie ``(n,)``: near one, two answers are both right."""
        return np.full(len(x), np.inf)

    def kink(self, x: Array, target: Array | None) -> Array:
        """Relative distance to where the evidence has no derivative ``(n,)``: ties, usually."""
        return self.gap(x, target)


def spread(shares: Array, parts: Array, degree: int = 2) -> tuple[Array, Array]:
    """Distance rule ``R_i = sum_j S_j part_ji / sum_i part_ji``, and what coincident points absorb.

    ``shares`` is ``(n, m)``, ``parts`` is ``(n, m, d)``, ``degree`` 2 when they are squares. A
    point coincides with a row when nothing but rounding, a ``1e-12`` of the farthest distance,
    lies between them: its direction would be the rounding's.
    """
    n, m, d = parts.shape
    values, coincident = np.zeros((n, d)), np.zeros(n)
    h = parts.sum(-1)
    for row in range(n):
        farthest = h[row].max()
        for j in range(m):
            if h[row, j] <= 1e-12**degree * farthest:
                coincident[row] += shares[row, j]
            else:
                values[row] += shares[row, j] * parts[row, j] / h[row, j]
    return values, coincident


def logsumexp(a: Array) -> Array:
    """Over the last axis."""
    top = a.max(-1, keepdims=True)
    return (top + np.log(np.exp(a - top).sum(-1, keepdims=True)))[..., 0]


def softmax(a: Array) -> Array:
    """Over the last axis."""
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
