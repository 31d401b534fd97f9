"""Kernel PCA as an outlier detector: the squared residual in feature space.

With ``phi`` centred at ``m`` and ``P`` the projection on the kept components,
``o = ||(I - P)(phi(x) - m)||^2``. The reconstruction is an affine combination of training points,
``m + P(phi(x) - m) = sum_j gamma_j phi(u_j)`` with ``sum_j gamma_j = 1``.

As a function of the feature-space distances ``delta_j = ||phi(x) - phi(u_j)||^2 = 2 - 2 k(x,
u_j)``, the residual is translation equivariant: adding ``c`` to all of them leaves the centred
kernel, hence the projection and ``gamma``, as they are, and adds ``c`` to ``o``. The root point
``delta - o`` therefore has output zero and the same ``gamma``, and ``R_j = gamma_j o`` is an exact
Taylor step of the same form as take-most pooling. The distance rule takes it to the inputs, ``R_i =
sum_j gamma_j o (x_i - u_ij)^2 / ||x - u_j||^2``.

The rule is derived here; no published input rule for kernel PCA residuals was found. ``gamma_j``
may be negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.decomposition import KernelPCA
from torch import Tensor

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import UnsupportedModelError
from neuralize.layers import SquaredDistances
from neuralize.outlier import OutlierNetwork
from neuralize.pca import residual_network
from neuralize.propagate import Layer
from neuralize.rules import take_most
from neuralize.score_map import ScoreMap


class KernelResidual(Layer):
    """``o = ktilde(x, x) - ||y||^2`` from squared distances ``h`` ``(n, m)``, ``k = exp(-g h)``.

    Rule: ``R_j = gamma_j(x) R``.

    Parameters
    ----------
    g
        Kernel stiffness.
    alphas
        ``y = ktilde(x, U) alphas``, ``(m, q)``.
    row_means
        Mean of every row of the training kernel ``(m,)``.
    """

    alphas: Tensor
    row_means: Tensor

    def __init__(self, g: float, alphas: Tensor, row_means: Tensor) -> None:
        super().__init__()
        self.g = g
        self.register_buffer("alphas", alphas)
        self.register_buffer("row_means", row_means)

    def compute(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k = torch.exp(-self.g * x)
        mean = k.mean(1, keepdim=True)
        all_mean = self.row_means.mean()
        y = (k - mean - self.row_means + all_mean) @ self.alphas
        return 1 - 2 * mean[:, 0] + all_mean - (y**2).sum(1), y

    def split(
        self, x: Tensor, z: Tensor, saved: Tensor, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        a = saved @ self.alphas.T
        gamma = a + (1 - a.sum(1, keepdim=True)) / x.shape[1]
        return take_most(gamma, relevance), {}


@register_converter(KernelPCA)
def convert_kernel_pca(model: KernelPCA) -> OutlierNetwork:
    """Kernels ``rbf`` and ``linear``; all components that scikit-learn kept are used."""
    require_fitted(model)
    return kernel_pca_network(model, model.eigenvectors_.shape[1])


def kernel_pca_network(model: Any, n_components: int) -> OutlierNetwork:
    """The residual after the first ``n_components`` of a fitted kernel PCA."""
    if model.kernel not in ("rbf", "linear"):
        raise UnsupportedModelError(
            f"KernelPCA with kernel={model.kernel!r}: no exact relevance is known for a kernel "
            "that is not a function of a distance. Nearest supported: kernel='rbf' (or 'linear')."
        )
    values = model.eigenvalues_[:n_components]
    vectors = model.eigenvectors_[:, :n_components][:, values > 0]
    scaled = as_tensor(vectors / np.sqrt(values[values > 0]), "eigenvectors")
    support = as_tensor(model.X_fit_, "training points")
    if model.kernel == "linear":
        # Feature space is input space: v = sum_j alpha_j (u_j - mean).
        mean = support.mean(0)
        return residual_network(mean, scaled.T @ (support - mean), False, type(model).__name__)
    gamma = getattr(model, "gamma_", None)
    g = 1 / support.shape[1] if gamma is None else float(gamma)
    row_means = as_tensor(model._centerer.K_fit_rows_, "kernel")
    return OutlierNetwork(
        [SquaredDistances(support), KernelResidual(g, scaled, row_means)],
        n_features=support.shape[1],
        evidence_name="squared residual in feature space",
        score_map=ScoreMap("squared residual"),
        width=len(support),
        model_name=type(model).__name__,
    )
