r"""Reactive projection (R-ClArC): only rows that show the artefact are repaired.

Bareeva et al., Reactive model correction, arXiv 2404.09601. A projection for all rows takes from
clean ones what they had along the artefact for good reason. Here a linear probe decides row by row,

    ``h' = h + c(h) V (V^T z - V^T h)``,  ``c(h) = 1`` iff ``w^T h + b > 0``.

The condition is a gate: an explanation holds it constant, and relevance goes through the branch
that was taken.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from neuralize.deep.score_pools import as_gate
from xai.errors import InputError
from xai.mitigate.given import as_carriers, as_features
from xai.mitigate.projection import Projection, without_artefact


class ReactiveProjection(nn.Module):
    """A projection of the rows in which a linear probe sees the artefact.

    Parameters
    ----------
    projection
        What these rows get.
    weight, bias
        The probe: it sees the artefact iff ``weight @ h + bias > 0``; ``(q,)`` and a number.

    Raises
    ------
    InputError
        A probe of another width, or one that is not finite.

    Examples
    --------
    >>> repair = ReactiveProjection(Projection([[0.0, 1.0]], [0.0, 0.0]), [0.0, 1.0], -5.0)
    >>> repair(torch.tensor([[3.0, 2.0], [3.0, 8.0]])).tolist()
    [[3.0, 2.0], [3.0, 0.0]]
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, projection: Projection, weight: ArrayLike, bias: float) -> None:
        super().__init__()
        w = np.asarray(weight, np.float64)
        if w.shape != tuple(projection.clean.shape):
            raise InputError(
                f"Expected a probe of shape {tuple(projection.clean.shape)}, as the projection "
                f"has, got {w.shape}."
            )
        if not (np.isfinite(w).all() and np.isfinite(bias)):
            raise InputError("Expected a finite probe.")
        self.projection = projection
        self.register_buffer("weight", torch.from_numpy(w).float())
        self.register_buffer("bias", torch.tensor(float(bias), dtype=torch.float32))

    def sees(self, h: Tensor) -> Tensor:
        """In which rows the probe sees the artefact ``(n,)``, boolean."""
        return h @ self.weight + self.bias > 0

    def forward(self, h: Tensor) -> Tensor:
        """Repaired features ``(n, q)``."""
        seen = as_gate(self.sees, h)
        return torch.where(seen.unsqueeze(1), self.projection(h), h)


def where_artefact(features: ArrayLike, has_artefact: ArrayLike) -> ReactiveProjection:
    """P-ClArC for the rows in which a discriminant analysis sees the artefact.

    The probe is Fisher's with shrinkage (Ledoit and Wolf); the projection is that of
    :func:`~xai.mitigate.without_artefact`.

    Raises
    ------
    InputError
        Rows of only one kind, values that are not finite.

    Examples
    --------
    >>> h, marked = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) < 20
    >>> h[marked, 0] += 8
    >>> where_artefact(h, marked)(torch.tensor([[0.2, 3.0]])).round(decimals=2).tolist()
    [[0.2..., 3.0]]
    """
    a = as_features(features)
    y = as_carriers(has_artefact, len(a))
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5]).fit(a, y)
    return ReactiveProjection(without_artefact(a, y), probe.coef_[0], float(probe.intercept_[0]))
