r"""Repairs of a representation: directions taken out, units pruned, without touching the encoder.

Each is a module that maps features ``(n, q)`` to features ``(n, q)`` and goes between an encoder
and the model on top of it, ``features=nn.Sequential(encoder, repair)``. All are affine, so the
engine explains what comes out as it explained what went in.

* **Projection** (P-ClArC: Anders et al., Finding and removing Clever Hans, Information Fusion 77,
  2022): along unit directions ``V`` of an artefact, every row gets what clean rows have on average,
  ``h' = h + V (V^T z - V^T h)``.
* **EGEM** (explanation-guided exposure minimisation: Linhardt et al., Preemptively pruning
  Clever-Hans strategies in deep neural networks, Information Fusion 103, 2024): a unit that clean,
  reviewed data hardly use is scaled down, ``c_i = E[a_i^2] / (E[a_i^2] + lambda)``; in its PCA
  form, a principal component of them, ``h' = U (c . U^T (h - m)) + m``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from xai.errors import InputError

Array = NDArray[np.float64]

RANK = 1e-8
"""Directions shorter than this share of the longest are none."""


class Projection(nn.Module):
    """``h' = h + V (V^T z - V^T h)``: the same along ``V`` for all rows.

    Parameters
    ----------
    directions
        ``(k, q)``; they are orthonormalised.
    clean
        Mean features of clean rows ``(q,)``.

    Raises
    ------
    InputError
        Shapes that do not fit, values that are not finite, directions of length zero.

    Examples
    --------
    >>> repair = Projection([[0.0, 2.0]], [1.0, 5.0])
    >>> repair(torch.tensor([[3.0, -7.0]])).tolist()
    [[3.0, 5.0]]
    """

    directions: Tensor
    clean: Tensor

    def __init__(self, directions: ArrayLike, clean: ArrayLike) -> None:
        super().__init__()
        v, z = np.asarray(directions, np.float64), np.asarray(clean, np.float64)
        if v.ndim != 2 or z.shape != v.shape[1:] or not v.size:
            raise InputError(
                f"Expected directions (k, q) and clean (q,), got {v.shape} and {z.shape}."
            )
        if not (np.isfinite(v).all() and np.isfinite(z).all()):
            raise InputError("Expected finite directions and means.")
        _, size, basis = np.linalg.svd(v, full_matrices=False)
        if not size[0] > 0:
            raise InputError("Expected directions of some length, got zeros.")
        self.register_buffer("directions", torch.from_numpy(basis[size > RANK * size[0]]).float())
        self.register_buffer("clean", torch.from_numpy(z).float())

    def forward(self, h: Tensor) -> Tensor:
        """Repaired features ``(n, q)``."""
        v = self.directions
        weight = torch.eye(v.shape[1], dtype=v.dtype, device=v.device) - v.T @ v
        return torch.nn.functional.linear(h, weight, v.T @ (v @ self.clean))


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
    a = _features(clean)
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


def artefact_direction(features: ArrayLike, has_artefact: ArrayLike) -> Array:
    """The artefact's signal ``cov(h, y) / var(y)`` ``(q,)``: what rows with it have more.

    The signal, not the weights of a classifier, which also turn away from noise (Haufe et al.,
    NeuroImage 87, 2014).

    Raises
    ------
    InputError
        Rows of only one kind.
    """
    a = _features(features)
    y = np.asarray(has_artefact)
    if y.shape != (len(a),) or y.dtype != bool:
        raise InputError(f"Expected {len(a)} booleans, one per row, got {y.shape} of {y.dtype}.")
    if y.all() or not y.any():
        raise InputError("Expected rows with the artefact and rows without, got one kind.")
    signal: Array = a[y].mean(0) - a[~y].mean(0)
    return signal


def without_artefact(features: ArrayLike, has_artefact: ArrayLike) -> Projection:
    """The projection that gives every row the artefact's signal of clean rows (P-ClArC).

    Raises
    ------
    InputError
        What :func:`artefact_direction` refuses.

    Examples
    --------
    >>> h = np.array([[0.0, 1.0], [0.0, 3.0], [4.0, 1.0], [4.0, 3.0]])
    >>> repair = without_artefact(h, np.array([False, False, True, True]))
    >>> repair(torch.from_numpy(h).float()).tolist()
    [[0.0, 1.0], [0.0, 3.0], [0.0, 1.0], [0.0, 3.0]]
    """
    a, y = _features(features), np.asarray(has_artefact)
    direction = artefact_direction(a, y)
    return Projection(direction[None], a[~y].mean(0))


def without_groups(
    features: ArrayLike, groups: ArrayLike, labels: ArrayLike | None = None
) -> Projection:
    """The projection along the differences between groups' means, within labels.

    Removes what tells groups apart on average; with labels, differences between labels that groups
    have in other proportions are left alone.

    Raises
    ------
    InputError
        Fewer than two groups, or labels and groups that never mix.
    """
    a = _features(features)
    group = np.asarray(groups)
    label = np.zeros(len(a), int) if labels is None else np.asarray(labels)
    if group.shape != (len(a),) or label.shape != (len(a),):
        raise InputError(f"Expected {len(a)} groups and labels, one per row.")
    differences = []
    for one in np.unique(label):
        inside = label == one
        means = [a[inside & (group == g)].mean(0) for g in np.unique(group[inside])]
        differences += [mean - means[0] for mean in means[1:]]
    if not differences:
        raise InputError(
            "Expected at least two groups within some label, got none: labels and groups cannot be "
            "told apart."
        )
    return Projection(np.array(differences), a.mean(0))


def _features(values: ArrayLike) -> Array:
    a = np.asarray(values, np.float64)
    if a.ndim != 2 or len(a) < 2 or not np.isfinite(a).all():
        raise InputError(f"Expected finite features (n, q) of at least two rows, got {a.shape}.")
    return a
