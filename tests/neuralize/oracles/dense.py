"""A multilayer perceptron in numpy, and LRP-0 through it as accumulated weights."""

from __future__ import annotations

import numpy as np

from tests.neuralize.oracles.base import Array

EPS, SLOPE = 1e-4, 0.01


class DenseNetwork:
    """Standardised rows through dense layers, normalisations folded in, and leaky ReLUs.

    ``weights`` are those of a scoring module with the network ``dense``, ``norms``; biases and
    affine normalisations may be there or not.
    """

    def __init__(self, weights: dict[str, Array]) -> None:
        self.mean, self.std = weights["preprocessing.0.mean"], weights["preprocessing.0.std"]
        self.layers: list[tuple[Array, Array]] = []
        while (name := f"network.dense.{len(self.layers)}") + ".weight" in weights:
            norm = f"network.norms.{len(self.layers)}"
            matrix = weights[f"{name}.weight"]
            offset = weights.get(f"{name}.bias", np.zeros(len(matrix)))
            if f"{norm}.running_mean" in weights:
                scale = weights.get(f"{norm}.weight", 1.0)
                scale = scale / np.sqrt(weights[f"{norm}.running_var"] + EPS)
                offset = scale * (offset - weights[f"{norm}.running_mean"])
                offset = offset + weights.get(f"{norm}.bias", 0.0)
                matrix = scale[:, None] * matrix
            self.layers.append((matrix, offset))

    def forward(self, x: Array) -> tuple[Array, list[Array]]:
        """Representation ``(n, q)``, and the slope of every unit of every layer."""
        a, slopes = (x - self.mean) / self.std, []
        for i, (matrix, offset) in enumerate(self.layers):
            z = a @ matrix.T + offset
            last = i == len(self.layers) - 1
            slopes.append(np.ones_like(z) if last else np.where(z > 0, 1.0, SLOPE))
            a = z * slopes[-1]
        return a, slopes

    def back(self, x: Array, force: Array, slopes: list[Array]) -> tuple[Array, Array]:
        """Relevance of the columns ``(n, d)`` and of biases ``(n,)``.

        ``force`` ``(n, q)`` is what one unit of the representation holds of the score.
        """
        bias = np.zeros(len(x))
        for (matrix, offset), slope in zip(reversed(self.layers), reversed(slopes), strict=True):
            force = force * slope
            bias += force @ offset
            force = force @ matrix
        return force * (x - self.mean) / self.std, bias
