"""Adapted networks on small digits, against dense matrices with the adapters still apart."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from neuralize.deep import ResidualAdaptation
from tests.neuralize.cases.data import Cases, load
from tests.neuralize.cases.deep_base import SHORT, deep_subject, fitted
from tests.neuralize.oracles.base import Oracle, Shares
from tests.subject import Array, Subject

SIDE, STRIDES, EPS = 8, (1, 2), 1e-5


def matrix_of(kernel: Array, side: int, stride: int) -> Array:
    """A convolution ``(o, c, k, k)`` with padding ``k // 2`` as a dense matrix, entry by entry."""
    out, inner, k, _ = kernel.shape
    size = (side + 2 * (k // 2) - k) // stride + 1
    dense = np.zeros((out, size, size, inner, side, side))
    for i in range(size):
        for j in range(size):
            for u in range(k):
                for v in range(k):
                    row, column = i * stride + u - k // 2, j * stride + v - k // 2
                    if 0 <= row < side and 0 <= column < side:
                        dense[:, i, j, :, row, column] = kernel[:, :, u, v]
    return dense.reshape(out * size * size, -1)


class DenseAdapted(Oracle):
    """LRP-0 of ``ReLU(BN(W x + A x))``, twice, and a dense layer: activation times slope."""

    def __init__(self, model: ResidualAdaptation, net: Any) -> None:
        state = model.module_.double().state_dict()
        w = {n.removeprefix("network.encoder."): t.numpy() for n, t in state.items()}
        self.layers, side = [], SIDE
        for conv, norm, stride in ((1, 2, STRIDES[0]), (4, 5, STRIDES[1])):
            kernel = f"{conv}.frozen.weight" if f"{conv}.frozen.weight" in w else f"{conv}.weight"
            matrix = matrix_of(w[kernel], side, stride)
            if f"{conv}.adapter.weight" in w:
                matrix = matrix + matrix_of(w[f"{conv}.adapter.weight"], side, stride)
            side = -(-side // stride)
            scale = w[f"{norm}.weight"] / np.sqrt(w[f"{norm}.running_var"] + EPS)
            offset = w[f"{norm}.bias"] - scale * w[f"{norm}.running_mean"]
            scale, offset = np.repeat(scale, side**2), np.repeat(offset, side**2)
            self.layers.append((scale[:, None] * matrix, offset))
        self.layers.append((w["network.head.weight"], w["network.head.bias"]))
        model.module_.float()

    def _pass(self, x: Array) -> tuple[Array, list[Array]]:
        a, slopes = x, []
        for i, (matrix, offset) in enumerate(self.layers):
            z = a @ matrix.T + offset
            slope = np.ones_like(z) if i == len(self.layers) - 1 else (z > 0).astype(float)
            slopes.append(slope)
            a = z * slope
        return a[:, 0], slopes

    def evidence(self, x: Array) -> Array:
        return self._pass(x)[0]

    def relevance(self, x: Array, target: Array | None) -> Shares:
        _, slopes = self._pass(x)
        bias, force = np.zeros(len(x)), np.ones((len(x), 1))
        for (matrix, offset), slope in zip(reversed(self.layers), reversed(slopes), strict=True):
            force = force * slope
            bias += force @ offset
            force = force @ matrix
        return Shares(force * x, {"bias": bias})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.Conv2d(1, 3, 3, STRIDES[0], 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 4, 3, STRIDES[1], 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(),
    )  # fmt: skip


def adapted(**options: Any) -> Subject:
    data = load("digits", jitter=0.01)
    # 64 columns, of which three never vary, are missing three: put zeros back in their place
    data = type(data)(*(np.pad(part, ((0, 0), (0, 64 - part.shape[1])))
                        for part in (data.fit, data.seen, data.unseen)))  # fmt: skip
    labels = (np.arange(len(data.fit)) % 3 == 0).astype(int)
    model = ResidualAdaptation(network(), training=SHORT, **options)
    fitted(model, data, labels)
    again = labels[len(labels) // 8 :]
    return deep_subject(
        model, data, partial(DenseAdapted, model),
        refit=lambda m, x: m.fit(x[len(labels) // 8 :] + 1, again),
    )  # fmt: skip


ADAPTED: Cases = {
    "residual-adaptation": adapted,
    "residual-adaptation-penalty": partial(adapted, method="penalty"),
}
