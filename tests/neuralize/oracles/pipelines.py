"""Preprocessing in front of an oracle: values move back to the pipeline's own input columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.neuralize.oracles.base import Array, Oracle, Shares


def nowhere(x: Array) -> Array:
    """No kinks: infinitely far from every row."""
    return np.full(len(x), np.inf)


@dataclass(frozen=True)
class Step:
    """What the data go through, the way back of relevance, and how far rows are from its kinks."""

    transform: Callable[[Array], Array]
    back: Callable[[Array], Array | None]
    kink: Callable[[Array], Array] = nowhere


def element_wise(transform: Callable[[Array], Array]) -> Step:
    """Each column by itself: relevance is handed through unchanged."""
    return Step(transform, lambda values: values)


def clipped(transform: Callable[[Array], Array], low: Array, high: Array) -> Step:
    """Element-wise, and constant outside ``low`` to ``high`` ``(d,)``."""

    def kink(x: Array) -> Array:
        return np.minimum(np.abs(x - low), np.abs(x - high)).min(1) / (high - low).max()

    return Step(transform, lambda values: values, kink)


def selection(mask: Array) -> Step:
    """Some columns only: the others have no relevance."""

    def back(values: Array) -> Array:
        out = np.zeros((len(values), len(mask)))
        out[:, mask] = values
        return out

    return Step(lambda x: x[:, mask], back)


def wsquared(matrix: Array, offset: Array) -> Step:
    """``z = B x + b`` by the WSquare rule, ``R_i = sum_m B_mi^2 / sum_i B_mi^2 R_m``."""

    def back(values: Array) -> Array:
        out = np.zeros((len(values), matrix.shape[1]))
        for m, row in enumerate(matrix):
            out += values[:, m : m + 1] * row**2 / (row**2).sum()
        return out

    return Step(lambda x: x @ matrix.T + offset, back)


def row_space(matrix: Array) -> Step:
    """Before an oracle in the input space of a projection: the part of ``x`` that ``B`` sees."""
    onto = np.linalg.pinv(matrix) @ matrix
    return Step(lambda x: x @ onto.T, lambda values: values)


def unspecified(transform: Callable[[Array], Array]) -> Step:
    """A step through which no definition fixes the values."""
    return Step(transform, lambda values: None)


class Behind(Oracle):
    """An oracle behind a chain of steps."""

    def __init__(self, inner: Oracle, *steps: Step) -> None:
        self.inner, self.steps, self.kind = inner, steps, inner.kind

    def _forward(self, x: Array) -> Array:
        for step in self.steps:
            x = step.transform(x)
        return x

    def evidence(self, x: Array) -> Array:
        return self.inner.evidence(self._forward(x))

    def relevance(self, x: Array, target: Array | None) -> Shares:
        shares = self.inner.relevance(self._forward(x), target)
        values = shares.values
        for step in reversed(self.steps):
            values = None if values is None else step.back(values)
        return Shares(values, shares.absorbed)

    def gap(self, x: Array, target: Array | None) -> Array:
        return self.inner.gap(self._forward(x), target)

    def kink(self, x: Array, target: Array | None) -> Array:
        nearest = nowhere(x)
        for step in self.steps:
            nearest = np.minimum(nearest, step.kink(x))
            x = step.transform(x)
        return np.minimum(nearest, self.inner.kink(x, target))
