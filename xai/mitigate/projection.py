r"""Projections of a representation (P-ClArC): what lies along an artefact or between groups.

Anders et al., Finding and removing Clever Hans, Information Fusion 77, 2022. Along unit directions
``V``, every row gets what clean rows have on average, ``h' = h + V (V^T z - V^T h)``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from xai.errors import InputError
from xai.mitigate.given import Array, as_carriers, as_columns, as_features

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
        v, clean = self.directions.to(h.dtype), self.clean.to(h.dtype)
        weight = torch.eye(v.shape[1], dtype=v.dtype, device=v.device) - v.T @ v
        return torch.nn.functional.linear(h, weight, v.T @ (v @ clean))


def artefact_direction(features: ArrayLike, has_artefact: ArrayLike) -> Array:
    """The artefact's signal ``cov(h, y) / var(y)`` ``(q,)``: what rows with it have more.

    The signal, not the weights of a classifier, which also turn away from noise (Haufe et al.,
    NeuroImage 87, 2014).

    Raises
    ------
    InputError
        Rows of only one kind.
    """
    a = as_features(features)
    y = as_carriers(has_artefact, len(a))
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
    a, y = as_features(features), np.asarray(has_artefact)
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
    a = as_features(features)
    group, label = as_columns(groups, labels, len(a))
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
