r"""PaDiM (Defard et al., PaDiM: a Patch Distribution Modeling Framework, ICPR Workshops 2021).

Every position ``m`` of the patch grid has a Gaussian of its own, over a random choice of feature
dimensions, with mean ``mu_m`` and covariance ``S_m + eps I``,

    ``s_m = sqrt((z_m - mu_m)^T S_m^{-1} (z_m - mu_m))``,  ``o(x) = max_m s_m``.

Relevance: the winning position takes all (or positions share); ``d = z - mu`` is split by
``d_i [S^{-1} d]_i`` (Euler, signed). Of this, ``z_i [S^{-1} d]_i`` goes on into the backbone and
``-mu_i [S^{-1} d]_i`` stays with the mean (``split="euler"``, see
:mod:`neuralize.deep.bank_distances`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralize.convert import register_converter
from neuralize.deep.bank_distances import Split, form
from neuralize.deep.patch_detector import USUAL_SHARE, PatchDetector, PatchMap, Pool
from neuralize.deep.patch_features import IMAGENET_MEAN, IMAGENET_STD, PatchFeatures
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.score_pools import root
from neuralize.errors import InputError

POSITIONS_AT_ONCE = 64
"""Covariances inverted together, in float64."""


class PaDiMScore(PatchMap):
    """``(n, ...) -> (n,)``: patches, their Mahalanobis distances, the largest of them."""

    dims: Tensor
    center: Tensor
    precision: Tensor

    def __init__(
        self, steps: nn.Module, features: PatchFeatures, positions: int, width: int, split: Split
    ) -> None:
        super().__init__(steps, features, split)
        self.register_buffer("dims", torch.zeros(width, dtype=torch.long))
        self.register_buffer("center", torch.zeros(positions, width))
        self.register_buffer("precision", torch.zeros(positions, width, width))

    def patch_scores(self, z: Tensor) -> Tensor:
        return root(form(z[:, :, self.dims], self.center, self.precision, self.split))


class PaDiM(PatchDetector):
    """PaDiM over any backbone. Pictures must be aligned: every position has its own Gaussian.

    Parameters
    ----------
    backbone, layers, mean, std, split
        As for :class:`~neuralize.deep.PatchCore`.
    dims
        Number of feature dimensions, chosen at random; all where there are no more.
    epsilon
        Added to the diagonal of every covariance.
    seed
        Of the choice of dimensions.
    contamination
        Share of the training pictures above the threshold, each scored by Gaussians without it.

    Raises
    ------
    InputError
        By ``fit``: options, layers or pictures that do not fit.

    Examples
    --------
    >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
    >>> pictures = np.random.default_rng(0).random((12, 3, 16, 16), dtype="float32")
    >>> detector = PaDiM(backbone, layers=["1", "2"], dims=6).fit(pictures)
    >>> detector.module_.precision.shape, detector.patch_scores(pictures[:2]).shape
    (torch.Size([64, 6, 6]), (2, 8, 8))
    """

    evidence_name = "Mahalanobis distance of the most abnormal patch"

    def __init__(
        self,
        backbone: nn.Module,
        *,
        layers: Sequence[str],
        dims: int = 100,
        epsilon: float = 0.01,
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
        split: Split = "euler",
        seed: int = 0,
        contamination: float = 0.1,
    ) -> None:
        self.backbone = backbone
        self.layers = layers
        self.dims = dims
        self.epsilon = epsilon
        self.mean = mean
        self.std = std
        self.split = split
        self.seed = seed
        self.contamination = contamination

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        if self.dims < 1 or not self.epsilon > 0:
            raise InputError(
                f"Expected dims of at least 1 and a positive epsilon, got {self.dims} and "
                f"{self.epsilon}."
            )
        module = self._empty(self.backbone, (0, 0))
        z = self._patches(module, x)
        generator = torch.Generator().manual_seed(self.seed)
        module.dims = torch.randperm(z.shape[2], generator=generator)[: self.dims].sort().values
        z = z[:, :, module.dims]
        module.center = z.double().mean(0).float()
        blocks = [self._gaussians(part.double()) for part in z.split(POSITIONS_AT_ONCE, 1)]
        module.precision = torch.cat([precision for precision, _ in blocks])
        distances = torch.cat([squared for _, squared in blocks], 1).sqrt().numpy()
        self._left_out = distances.max(1)
        module.patch_threshold = float(np.quantile(distances, USUAL_SHARE))
        config = {"gaussians": list(module.center.shape), "patch_threshold": module.patch_threshold}
        return module, config

    def _gaussians(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Precisions ``(P, d, d)`` of ``z`` ``(n, P, d)``, and distances of rows left out.

        The latter ``(n, P)`` are every row's squared distances to the Gaussians fitted without it.
        Without row ``i``, at ``d`` from the mean, the covariance is ``a S - c d d^T`` with
        ``a = (n-1)/(n-2)`` and ``c = n/((n-1)(n-2))``, the row lies ``n/(n-1) d`` from the mean,
        and the inverse is Sherman and Morrison's.
        """
        n = len(z)
        d = z - z.mean(0)
        covariance = torch.einsum("npi,npj->pij", d, d) / (n - 1)
        precision = _inverse(covariance, self.epsilon)
        if n < 3:
            return precision.float(), torch.einsum("npi,pij,npj->np", d, precision, d)
        a, c = (n - 1) / (n - 2), n / ((n - 1) * (n - 2))
        other = _inverse(covariance, self.epsilon / a)
        q = torch.einsum("npi,pij,npj->np", d, other, d) / a
        return precision.float(), (n / (n - 1)) ** 2 * q / (1 - c * q)

    def _empty(self, backbone: nn.Module | None, gaussians: Sequence[int]) -> PaDiMScore:
        features = PatchFeatures(self._checked(backbone), self.layers, pool=1, resize="nearest")
        positions, width = gaussians
        return PaDiMScore(self._steps(), features, positions, width, self.split)

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        module = self._empty(network, config["gaussians"])
        module.patch_threshold = config.get("patch_threshold")
        return module


def _inverse(covariance: Tensor, epsilon: float) -> Tensor:
    raised = covariance + epsilon * torch.eye(covariance.shape[1], dtype=covariance.dtype)
    return torch.cholesky_inverse(torch.linalg.cholesky(raised))


@register_converter(PaDiM)
def convert_padim(model: PaDiM, *, pool: Pool = "max", stiffness: float = math.inf) -> ScoreNetwork:
    """The score, explained by its winner or by shares; or a sum over the map."""
    return model.neuralized(pool, stiffness)
