"""Pruning of what clean data hardly use (EGEM), without knowing what the artefact is.

Explanation-guided exposure minimisation: Linhardt et al., Preemptively pruning Clever-Hans
strategies in deep neural networks, Information Fusion 103, 2024. A unit that clean, reviewed data
hardly use is scaled down, ``c_i = E[a_i^2] / (E[a_i^2] + lambda)``; in its PCA form, a principal
component of them, ``h' = U (c . U^T (h - m)) + m``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from xai.errors import InputError
from xai.mitigate.given import Array, as_features


class Pruning(nn.Module):
    """``h' = U (c . U^T (h - m)) + m``: components scaled by ``c``.

    Made by :func:`egem`.
    """

    components: Tensor
    scale: Tensor
    mean: Tensor

    def __init__(self, components: Array, scale: Array, mean: Array) -> None:
        super().__init__()
        for name, value in (("components", components), ("scale", scale), ("mean", mean)):
            self.register_buffer(name, torch.from_numpy(np.asarray(value)).float())

    def forward(self, h: Tensor) -> Tensor:
        """Repaired features ``(n, q)``."""
        weight = (self.components * self.scale) @ self.components.T
        return torch.nn.functional.linear(h, weight, self.mean - weight @ self.mean)


def egem(clean: ArrayLike, keep: float, *, pca: bool = True) -> Pruning:
    """Scale down what clean data hardly use, so that units keep ``keep`` of themselves on average.

    Parameters
    ----------
    clean
        Features of reviewed, clean rows ``(n, q)``.
    keep
        Mean of the ``c_i``, from 0 to 1; ``lambda`` follows from it.
    pca
        Scale principal components instead of single units.

    Raises
    ------
    InputError
        Fewer than two rows, values that are not finite, ``keep`` not between 0 and 1, rows that
        are all the same.

    Examples
    --------
    >>> clean = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    >>> egem(clean, 0.5)(torch.tensor([[1.0, 9.0]])).round(decimals=3).abs().tolist()
    [[1.0, 0.0]]
    """
    a = as_features(clean)
    if not 0 < keep < 1:
        raise InputError(f"Expected keep between 0 and 1, got {keep}.")
    if pca:
        mean = a.mean(0)
        _, _, rows = np.linalg.svd(a - mean, full_matrices=True)
        components = rows.T
        energy = (((a - mean) @ components) ** 2).mean(0)
    else:
        mean, components = np.zeros(a.shape[1]), np.eye(a.shape[1])
        energy = (a**2).mean(0)
    if not energy.max() > 0:
        raise InputError("Expected clean rows that differ, got rows that are all the same.")
    return Pruning(components, _scales(energy, keep), mean)


def _scales(energy: Array, keep: float) -> Array:
    """``c`` with mean ``keep``, by bisection over ``log lambda``.

    Units without any energy get 0 whatever ``lambda``, so the mean may have to stay below ``keep``.
    """
    used = energy > np.finfo(np.float64).eps * energy.max()
    energy = np.where(used, energy, 0.0)
    low, high = np.log(energy[used].min()) - 40, np.log(energy.max()) + 40
    for _ in range(200):
        middle = (low + high) / 2
        if (energy / (energy + np.exp(middle))).mean() > keep:
            low = middle
        else:
            high = middle
    scales: Array = energy / (energy + np.exp(low))
    return scales
