"""PatchCore and PaDiM as anomalib computes them; :mod:`neuralize.deep.readers.anomalib` reads them.

A manifest of theirs says what the backbone is built from, so that loading needs no network.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.deep.bank_distances import Split
from neuralize.deep.padim import PaDiM, PaDiMScore
from neuralize.deep.patch_detector import gaussian_kernel
from neuralize.deep.patch_features import PatchFeatures
from neuralize.deep.patchcore import PatchCore
from neuralize.deep.readers.resnet import ResNetPlan
from neuralize.deep.score_pools import take_most
from neuralize.errors import InputError

SIGMA = 4.0
"""Of the smoothing, where a file has no kernel."""


def stored_backbone(config: dict[str, Any], network: nn.Module | None) -> nn.Module | None:
    """The caller's network, else what the manifest says the backbone is built from."""
    if network is None and "resnet" in config:
        return ResNetPlan(**config["resnet"]).build()
    return network


class AnomalibPatchCore(PatchCore):
    """PatchCore as anomalib trained it; the parameters are PatchCore's."""

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        return super()._build(config, stored_backbone(config, network))


class SmoothedPaDiMScore(PaDiMScore):
    """The largest value of the resized and smoothed map, ``(n, ...) -> (n,)``."""

    kernel: Tensor

    def __init__(
        self, steps: nn.Module, features: PatchFeatures, positions: int, width: int, split: Split,
        side: int,
    ) -> None:  # fmt: skip
        super().__init__(steps, features, positions, width, split)
        line = gaussian_kernel(SIGMA, side // 2)
        self.register_buffer("kernel", torch.outer(line, line).float()[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Scores of pictures."""
        inner = self.preprocessing(x)
        maps = self.features.maps(inner)
        s = self.patch_scores(maps.flatten(2).transpose(1, 2))
        if self.pool != "max":
            return self.pooled(maps, s)
        wide = F.interpolate(s.reshape(len(x), 1, *maps.shape[2:]), size=tuple(inner.shape[2:]),
                             mode="bilinear", align_corners=False)  # fmt: skip
        r = self.kernel.shape[-1] // 2
        smooth = F.conv2d(F.pad(wide, (r, r, r, r), mode="reflect"), self.kernel)
        return take_most(smooth.flatten(1), dim=1, stiffness=self.stiffness)


class AnomalibPaDiM(PaDiM):
    """PaDiM as anomalib trained it, scored by its smoothed map; the parameters are PaDiM's."""

    evidence_name = "largest value of the smoothed map of Mahalanobis distances"

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        raise InputError("AnomalibPaDiM is read from files of anomalib. Fit a PaDiM instead.")

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        backbone = self._checked(stored_backbone(config, network))
        features = PatchFeatures(backbone, self.layers, pool=1, resize="nearest")
        positions, width = config["gaussians"]
        return SmoothedPaDiMScore(
            self._steps(), features, positions, width, self.split, config["kernel"]
        )
