"""FCDD on digits written as rows, against a convolutional network in numpy loops."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

from neuralize.deep import FCDD
from tests.neuralize.cases.data import Cases, Split
from tests.neuralize.cases.deep_base import SHORT, deep_subject, fitted, weights_of
from tests.neuralize.oracles.base import Oracle, Shares
from tests.subject import Array, Subject


def digits() -> Split:
    """Whole pictures (constant columns kept) in 0 to 1, off their grid of 16 greys.

    Greys that repeat would be ties in the maximum pools.
    """
    x = np.random.default_rng(0).permutation(load_digits().data / 16.0)
    x = x + 0.02 * np.random.default_rng(1).normal(size=x.shape)
    far = 1.0 - x[:1]
    return Split(x[:120], x[:8], np.concatenate([x[120:128], far]))


def rows_to_map(pool: bool) -> nn.Sequential:
    """Rows ``(n, 64)`` to responses; the reshaping is part of the network."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 3, 3, padding=1)]
    layers += [nn.BatchNorm2d(3), nn.LeakyReLU(0.1)]
    layers += [nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)] if pool else [nn.Conv2d(3, 4, 3, stride=2)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(4, 1, 1))


class LoopedMap(Oracle):
    """``mean h(phi)`` unit by unit; LRP-0 as derivative of a network with its gates held."""

    def __init__(self, net: Any, pool: bool) -> None:
        w = weights_of(net)
        self.mean, self.std = w["preprocessing.0.mean"], w["preprocessing.0.std"]
        at = "network.body."
        scale = w[f"{at}2.weight"] / np.sqrt(w[f"{at}2.running_var"] + 1e-5)
        self.pool = pool
        second = "5" if pool else "4"
        self.w1 = w[f"{at}1.weight"] * scale[:, None, None, None]
        self.b1 = (w[f"{at}1.bias"] - w[f"{at}2.running_mean"]) * scale + w[f"{at}2.bias"]
        self.w2, self.b2 = w[f"{at}{second}.weight"], w[f"{at}{second}.bias"]
        last = str(int(second) + 2)
        self.w3, self.b3 = w[f"{at}{last}.weight"][0, :, 0, 0], w[f"{at}{last}.bias"][0]
        self.stride = 1 if pool else 2

    def evidence(self, x: Array) -> Array:
        return np.array([self._explain(row)[0] for row in x])

    def relevance(self, x: Array, target: Array | None) -> Shares:
        found = [self._explain(row) for row in x]
        bias = np.array([b for _, _, b, _ in found])
        return Shares(np.stack([v for _, v, _, _ in found]), {"bias": bias})

    def gap(self, x: Array, target: Array | None) -> Array:
        return np.array([self._explain(row)[3] for row in x])

    def kink(self, x: Array, target: Array | None) -> Array:
        return self.gap(x, target)

    def _explain(self, row: Array) -> tuple[float, Array, float, float]:
        """Score, shares of pixels, the biases' share, and how near a gate or winner is to a tie.

        Every response is traced as a sum: coefficients of the standardised pixels, and a constant.
        """
        z0 = ((row - self.mean) / self.std).reshape(8, 8)
        picture = np.pad(z0, 1)
        # coefficients over padded pixels, and constants, of each unit of the first layer
        slopes = np.zeros((3, 8, 8, 10, 10))
        offsets, gaps = np.zeros((3, 8, 8)), []
        values = np.zeros((3, 8, 8))
        for c in range(3):
            for i in range(8):
                for j in range(8):
                    z = (self.w1[c, 0] * picture[i : i + 3, j : j + 3]).sum() + self.b1[c]
                    gaps.append(abs(z))
                    gate = 1.0 if z > 0 else 0.1
                    slopes[c, i, j, i : i + 3, j : j + 3] = gate * self.w1[c, 0]
                    offsets[c, i, j], values[c, i, j] = gate * self.b1[c], gate * z
        if self.pool:
            slopes, offsets, values = self._pooled(slopes, offsets, values, gaps)
        size = (values.shape[1] - 3) // self.stride + 1
        score, shares, bias = 0.0, np.zeros((10, 10)), 0.0
        for i in range(size):
            for j in range(size):
                top, left = i * self.stride, j * self.stride
                window = np.s_[:, top : top + 3, left : left + 3]
                phi, slope, offset = self.b3, np.zeros((10, 10)), self.b3
                for c in range(4):
                    z = (self.w2[c] * values[window]).sum() + self.b2[c]
                    gaps.append(abs(z))
                    if z > 0:
                        phi += self.w3[c] * z
                        offset += self.w3[c] * self.b2[c]
                        offset += self.w3[c] * (self.w2[c] * offsets[window]).sum()
                        kernel = self.w2[c][..., None, None] * slopes[window]
                        slope += self.w3[c] * kernel.sum((0, 1, 2))
                a = np.sqrt(phi**2 + 1) - 1
                score += a / size**2
                shares += a / phi * slope * picture / size**2
                bias += a / phi * offset / size**2
        return score, shares[1:-1, 1:-1].ravel(), bias, min(gaps)

    @staticmethod
    def _pooled(slopes: Array, offsets: Array, values: Array, gaps: list[float]) -> Any:
        chosen = [np.zeros((3, 4, 4, *a.shape[3:])) for a in (slopes, offsets, values)]
        for c in range(3):
            for i in range(4):
                for j in range(4):
                    window = values[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                    order = np.sort(window.ravel())
                    gaps.append(order[-1] - order[-2])
                    di, dj = np.unravel_index(window.argmax(), (2, 2))
                    for new, old in zip(chosen, (slopes, offsets, values), strict=True):
                        new[c, i, j] = old[c, 2 * i + di, 2 * j + dj]
        return chosen


def fcdd(*, pool: bool) -> Subject:
    data = digits()
    labels = (np.arange(len(data.fit)) % 5 == 0).astype(int)
    model = FCDD(network=rows_to_map(pool), training=SHORT)
    fitted(model, data, labels)
    kept = labels[len(labels) // 8 :]
    return deep_subject(
        model, data, partial(LoopedMap, pool=pool),
        refit=lambda m, x: m.fit(x[len(labels) // 8 :] + 1, kept),
    )  # fmt: skip


FCDD_CASES: Cases = {
    "fcdd": partial(fcdd, pool=False),
    "fcdd-max-pool": partial(fcdd, pool=True),
}
