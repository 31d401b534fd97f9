"""PCA as an outlier detector: the squared residual ``o = ||r||^2``, ``r = (I - V V^T)(x - mu)``.

Relevance ``R_i = r_i^2`` (non-negative, the default) or ``R_i = (x - mu)_i r_i`` (signed, what
Euler's theorem gives through the projection). Both sum to ``o``.
"""

from __future__ import annotations

from typing import Literal

import torch
from sklearn.decomposition import PCA, IncrementalPCA
from torch import Tensor

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import InputError, UnsupportedModelError
from neuralize.layers import Fold, QuadraticForms, WeightedSum
from neuralize.outlier import OutlierNetwork
from neuralize.propagate import Layer
from neuralize.rules import ratio
from neuralize.score_map import ScoreMap


class SquaredResidual(Layer):
    """``||(I - V V^T)(x - mu)||^2``, ``(n, d) -> (n,)``; rule ``R_i = r_i^2 R / o``.

    Parameters
    ----------
    mean
        ``mu`` ``(d,)``.
    components
        ``V^T`` ``(q, d)``, orthonormal rows.

    Examples
    --------
    >>> layer = SquaredResidual(torch.zeros(2), torch.tensor([[1.0, 0.0]]))
    >>> layer(torch.tensor([[3.0, 2.0]])).tolist()
    [4.0]
    """

    mean: Tensor
    components: Tensor

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)
        self.fold: Fold | None = None

    def fold_projection(self, matrix: Tensor, offset: Tensor) -> bool:
        """Put ``z = B x + b`` before the layer, keeping relevance exact in the units of ``x``."""
        self.fold = Fold(matrix, offset)
        return True

    def compute(self, x: Tensor) -> tuple[Tensor, Tensor]:
        delta = (x if self.fold is None else self.fold(x)) - self.mean
        r = delta - (delta @ self.components.T) @ self.components
        return (r**2).sum(1), r

    def split(
        self, x: Tensor, z: Tensor, saved: Tensor, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        lost = torch.where(z == 0, relevance, torch.zeros_like(z))
        absorbed = {"zero residual": lost} if bool((lost != 0).any()) else {}
        terms = saved**2 if self.fold is None else self.fold.pull_back(saved, saved)
        return ratio(relevance, z).unsqueeze(1) * terms, absorbed


@register_converter(PCA)
@register_converter(IncrementalPCA)
def convert_pca(
    model: PCA | IncrementalPCA, *, split: Literal["nonnegative", "signed"] = "nonnegative"
) -> OutlierNetwork:
    """The residual of PCA's reconstruction, ``||x - inverse_transform(transform(x))||^2``."""
    require_fitted(model)
    if split not in ("signed", "nonnegative"):
        raise InputError(f"Expected split 'nonnegative' or 'signed', got {split!r}.")
    return residual_network(
        as_tensor(model.mean_, "mean"),
        as_tensor(model.components_, "components"),
        split == "signed",
        type(model).__name__,
    )


def residual_network(
    mean: Tensor, components: Tensor, signed: bool, model_name: str
) -> OutlierNetwork:
    """The residual's network from ``mu`` ``(d,)`` and orthonormal ``V^T`` ``(q, d)``."""
    q, d = components.shape
    if q >= d:
        raise UnsupportedModelError(
            f"{model_name} keeps all {d} dimensions, so its residual is zero everywhere. Refit "
            "with n_components below the number of features."
        )
    layers: list[Layer] = [SquaredResidual(mean, components)]
    if signed:
        complement = torch.eye(d, dtype=mean.dtype) - components.T @ components
        layers = [QuadraticForms(mean[None], complement[None]), WeightedSum(torch.ones(1).to(mean))]
    return OutlierNetwork(
        layers,
        n_features=d,
        evidence_name="squared reconstruction residual",
        score_map=ScoreMap("squared residual"),
        model_name=model_name,
    )
