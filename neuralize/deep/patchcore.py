r"""PatchCore (Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022).

Patches ``z_m`` of normal pictures, reduced to a coreset, are the memory bank ``b_j``. A patch is as
abnormal as it is far from the bank, and a picture as its most abnormal patch,

    ``s_m = pool_{j in kNN(z_m)} ||z_m - b_j||``,  ``o(x) = max_m s_m``,

``pool`` the mean, or a soft minimum. With the paper's re-weighting ``o`` is multiplied by
``1 - p``, ``p`` the softmax share of the winner's distance to its neighbour among its distances to
that neighbour's own neighbours.

Relevance: the winning patch takes all (or patches share); which bank patch is nearest, and the
re-weighting, are gates; ``||z - b||`` is split over feature dimensions by ``(z_i - b_i)^2``. Of
this, ``z_i (z_i - b_i)`` goes on into the backbone and ``-b_i (z_i - b_i)`` stays with the bank
(``split="euler"``, see :mod:`neuralize.deep.bank_distances`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from neuralize.convert import register_converter
from neuralize.deep.bank_distances import Split, form, nearest
from neuralize.deep.coreset import greedy_coreset
from neuralize.deep.patch_detector import USUAL_SHARE, PatchDetector, PatchMap, Pool
from neuralize.deep.patch_features import IMAGENET_MEAN, IMAGENET_STD, PatchFeatures
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.score_pools import as_gate, root, soft_max
from neuralize.errors import InputError


class PatchCoreScore(PatchMap):
    """``(n, ...) -> (n,)``: patches, their distances to the bank, the largest of them."""

    bank: Tensor

    def __init__(
        self, steps: nn.Module, features: PatchFeatures, bank: Tensor, *, neighbors: int,
        neighbor_stiffness: float | None, reweight: int, split: Split,
    ) -> None:  # fmt: skip
        super().__init__(steps, features, split)
        self.register_buffer("bank", bank)
        self.neighbors, self.neighbor_stiffness = neighbors, neighbor_stiffness
        self.reweight = reweight

    def patch_scores(self, z: Tensor) -> Tensor:
        index = nearest(z.flatten(0, 1), self.bank, self.neighbors).reshape(*z.shape[:2], -1)
        d = root(form(z.unsqueeze(2), self.bank[index], split=self.split))
        if self.neighbor_stiffness is not None:
            return soft_max(d, dim=2, stiffness=-self.neighbor_stiffness)
        return d.mean(2) if self.neighbors > 1 else d.squeeze(2)

    def pooled(self, z: Tensor, s: Tensor) -> Tensor:
        pooled = super().pooled(z, s)
        if not self.reweight or self.pool != "max":
            return pooled
        return pooled * as_gate(self._weight, z, s)

    def _weight(self, z: Tensor, s: Tensor) -> Tensor:
        """``1 - p`` ``(n,)``: small where the winner's neighbour lies alone."""
        winner = z[torch.arange(len(z), device=z.device), s.argmax(1)]
        own = nearest(winner, self.bank)[:, 0]
        around = nearest(self.bank[own], self.bank, min(self.reweight, len(self.bank)))
        d = root(form(winner.unsqueeze(1), self.bank[around]))
        nearby = root(form(winner, self.bank[own]))
        weight: Tensor = 1 - (nearby - d.logsumexp(1)).exp()
        return weight


class PatchCore(PatchDetector):
    """PatchCore over any backbone.

    Parameters
    ----------
    backbone
        A network over pictures; copied and kept as it is.
    layers
        Paths of the modules whose feature maps are joined, e.g. ``["layer2", "layer3"]``.
    coreset
        Share of the training patches in the bank, or their number.
    neighbors
        ``k`` of the distance.
    neighbor_stiffness
        Soft minimum over the ``k`` neighbours instead of their mean, with that stiffness.
    reweight
        Number of neighbours of the paper's re-weighting; 0 for none.
    mean, std
        By channel, as the backbone wants its input; None for pictures that it takes as they are.
    split
        How a distance goes into the backbone: ``"euler"`` or ``"all"``.
    seed
        Of the coreset.
    contamination
        Share of the training pictures above the threshold, each scored without its own patches.

    Raises
    ------
    InputError
        By ``fit``: options, layers or pictures that do not fit.

    Examples
    --------
    >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
    >>> pictures = np.random.default_rng(0).random((12, 3, 16, 16), dtype="float32")
    >>> detector = PatchCore(backbone, layers=["1", "2"], coreset=0.2).fit(pictures)
    >>> detector.module_.bank.shape, detector.decision_function(pictures[:2]).shape
    (torch.Size([154, 16]), (2,))
    >>> detector.anomaly_map(pictures[:2]).shape
    (2, 16, 16)
    """

    evidence_name = "distance of the most abnormal patch to the memory bank"

    def __init__(
        self,
        backbone: nn.Module,
        *,
        layers: Sequence[str],
        coreset: float = 0.1,
        neighbors: int = 1,
        neighbor_stiffness: float | None = None,
        reweight: int = 0,
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
        split: Split = "euler",
        seed: int = 0,
        contamination: float = 0.1,
    ) -> None:
        self.backbone = backbone
        self.layers = layers
        self.coreset = coreset
        self.neighbors = neighbors
        self.neighbor_stiffness = neighbor_stiffness
        self.reweight = reweight
        self.mean = mean
        self.std = std
        self.split = split
        self.seed = seed
        self.contamination = contamination

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        module = self._empty(self.backbone, (0, 0))
        z = self._patches(module, x)
        n, per_picture, width = z.shape
        z = z.flatten(0, 1)
        chosen = greedy_coreset(z, self._size(len(z)), seed=self.seed)
        if not self.neighbors <= len(chosen):
            raise InputError(
                f"Expected at least {self.neighbors} patches in the bank, which is what neighbors "
                f"asks for, got {len(chosen)}; raise coreset."
            )
        module.bank = z[chosen]
        owner = chosen // per_picture
        scores, maps = [], []
        for i in tqdm(range(n), delay=2, desc="scoring each picture without its own patches"):
            own = z[i * per_picture : (i + 1) * per_picture].unsqueeze(0)
            others = module.bank[owner != i]
            if len(others) < self.neighbors:
                others = module.bank
            score, of_patches = self._without(module, others, own)
            scores.append(score)
            maps.append(of_patches)
        self._left_out = np.concatenate(scores)
        module.patch_threshold = float(np.quantile(np.concatenate(maps), USUAL_SHARE))
        config = {"bank": [len(chosen), width], "patch_threshold": module.patch_threshold}
        return module, config

    def _without(self, module: PatchCoreScore, bank: Tensor, z: Tensor) -> tuple[Any, Any]:
        """Score and patch scores of ``z`` ``(1, P, D)`` with another bank."""
        whole, module.bank = module.bank, bank
        with torch.no_grad():
            s = module.patch_scores(z)
            score = module.pooled(z, s)
        module.bank = whole
        return score.numpy(), s.numpy()

    def _size(self, patches: int) -> int:
        size = round(self.coreset * patches) if self.coreset < 1 else int(self.coreset)
        if not 1 <= size <= patches:
            raise InputError(
                f"Expected coreset as a share below 1, or a number of up to {patches} patches, got "
                f"{self.coreset}."
            )
        return size

    def _empty(self, backbone: nn.Module | None, bank: Sequence[int]) -> PatchCoreScore:
        if self.neighbors < 1 or self.reweight < 0:
            raise InputError(
                "Expected neighbors of at least 1 and reweight of at least 0, got "
                f"{self.neighbors} and {self.reweight}."
            )
        if self.neighbor_stiffness is not None and not 0 < self.neighbor_stiffness < math.inf:
            raise InputError(
                f"Expected a positive neighbor_stiffness or None, got {self.neighbor_stiffness}."
            )
        features = PatchFeatures(self._checked(backbone), self.layers)
        return PatchCoreScore(
            self._steps(), features, torch.zeros(*bank), neighbors=self.neighbors,
            neighbor_stiffness=self.neighbor_stiffness, reweight=self.reweight, split=self.split,
        )  # fmt: skip

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        module = self._empty(network, config["bank"])
        module.patch_threshold = config.get("patch_threshold")
        return module


@register_converter(PatchCore)
def convert_patchcore(
    model: PatchCore, *, pool: Pool = "max", stiffness: float = math.inf
) -> ScoreNetwork:
    """The score, explained by its winner or by shares; or a sum over the map."""
    return model.neuralized(pool, stiffness)
