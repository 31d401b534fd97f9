"""What PatchCore and PaDiM share: patches of a frozen backbone, and a map of patch scores."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from neuralize.deep.bank_distances import SPLITS, Split
from neuralize.deep.detector import Array, DeepDetector
from neuralize.deep.patch_features import PatchFeatures, picture_steps
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.score_pools import excess, take_most
from neuralize.encoder import evaluating
from neuralize.errors import InputError
from neuralize.score_map import ScoreMap

PICTURES_AT_ONCE = 2**20
"""Input numbers that go through the backbone together."""

Pool = Literal["max", "sum", "excess"]
POOLS = ("max", "sum", "excess")

USUAL_SHARE = 0.99
"""Share of the patches of training pictures that the patch threshold leaves below it."""


class PatchMap(nn.Module):
    """Scores of pictures ``(n,)``: the largest of the scores of their patches.

    A subclass gives :meth:`patch_scores`.

    Attributes
    ----------
    pool, stiffness
        ``"max"``, explained with that stiffness; ``"sum"``; or ``"excess"``, the sum of what
        exceeds ``patch_threshold``.
    patch_threshold
        A quantile of the scores of training patches; None where no training is known.
    """

    pool: Pool = "max"
    stiffness: float = math.inf
    patch_threshold: float | None = None

    def __init__(self, steps: nn.Module, features: PatchFeatures, split: Split) -> None:
        super().__init__()
        self.preprocessing, self.features, self.split = steps, features, split

    def patch_scores(self, z: Tensor) -> Tensor:
        """Scores ``(n, P)`` of patches ``(n, P, D)``."""
        raise NotImplementedError

    def pooled(self, z: Tensor, s: Tensor) -> Tensor:
        """One score per picture ``(n,)`` from its patches and their scores."""
        if self.pool == "max":
            return take_most(s, dim=1, stiffness=self.stiffness)
        if self.pool == "excess":
            assert self.patch_threshold is not None
            s = excess(s, self.patch_threshold)
        return s.sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of pictures."""
        z = self.features(self.preprocessing(x))
        return self.pooled(z, self.patch_scores(z))

    def score_map(self, x: Tensor) -> Tensor:
        """Scores of the patches on their grid ``(n, h, w)``."""
        maps = self.features.maps(self.preprocessing(x))
        s = self.patch_scores(maps.flatten(2).transpose(1, 2))
        return s.reshape(len(x), *maps.shape[2:])


class PatchDetector(DeepDetector):
    """Base of the detectors that score the patches of a picture.

    The parameters are those of :class:`~neuralize.deep.PatchCore`.
    """

    backbone: nn.Module
    layers: Sequence[str]
    mean: Sequence[float] | None
    std: Sequence[float] | None
    split: Split
    seed: int

    def _steps(self) -> nn.Sequential:
        return picture_steps(self.input_shape_, self.mean, self.std)

    def _checked(self, backbone: nn.Module | None) -> nn.Module:
        if self.split not in SPLITS:
            raise InputError(f"Expected split 'euler' or 'all', got {self.split!r}.")
        if not isinstance(backbone, nn.Module):
            raise InputError(
                f"{type(self).__name__} takes its features from a network of the user's own; "
                "expected one as backbone= (as network= where it is loaded), got "
                f"{type(backbone).__name__}."
            )
        return backbone

    def _patches(self, module: PatchMap, x: Tensor) -> Tensor:
        """Patches ``(n, P, D)`` of all pictures."""
        parts = x.split(max(1, PICTURES_AT_ONCE // max(1, x[0].numel())))
        with torch.no_grad(), evaluating(module):
            bar = tqdm(parts, delay=2, desc="patches of the training pictures")
            return torch.cat([module.features(module.preprocessing(part)) for part in bar])

    def patch_scores(self, X: Any) -> Array:
        """Scores of the patches on their grid, ``(n, h, w)`` of the finest layer."""
        self._require_fitted()
        return self._mapped(X, self._map_of(), PICTURES_AT_ONCE)

    def _map_of(self) -> Callable[[Tensor], Tensor]:
        module = self.module_
        assert isinstance(module, PatchMap)
        return module.score_map

    def anomaly_map(self, X: Any, sigma: float = 4.0) -> Array:
        """The native map: patch scores resized to the pictures, and smoothed, ``(n, h, w)``.

        Parameters
        ----------
        X
            Pictures.
        sigma
            Of the Gaussian, in pixels; 0 for none.
        """
        self._require_fitted()
        score_map = self._map_of()

        def smooth(part: Tensor) -> Tensor:
            size = tuple(part.shape[-2:])
            wide = F.interpolate(score_map(part).unsqueeze(1), size=size, mode="bilinear",
                                 align_corners=False)  # fmt: skip
            return gaussian_blur(wide, sigma).squeeze(1)

        return self._mapped(X, smooth, PICTURES_AT_ONCE)

    def neuralized(self, pool: Pool = "max", stiffness: float = math.inf) -> ScoreNetwork:
        """The network equal to the decision, or to the sum of the map.

        Parameters
        ----------
        pool
            ``"max"``: the score. ``"excess"``: the sum over patches of what exceeds the patch
            threshold, a quantile of the training patches, so that relevance covers every defect and
            nothing else. ``"sum"``: the sum of all patch scores.
        stiffness
            Of the maximum's rule: infinite, the winner takes all; else patches share by the softmax
            of ``stiffness`` times their scores.
        """
        self._require_fitted()
        if pool not in POOLS:
            raise InputError(f"Expected pool 'max', 'sum' or 'excess', got {pool!r}.")
        if not stiffness >= 0:
            raise InputError(f"Expected a stiffness of at least 0, got {stiffness}.")
        module: Any = copy.copy(self.module_)  # ScoreNetwork copies it in depth
        if pool == "excess" and module.patch_threshold is None:
            raise InputError(
                f"This {type(self).__name__} was read from a file that says nothing of its "
                "training patches, so none exceeds anything. Use pool='sum', or set "
                "module_.patch_threshold."
            )
        module.pool, module.stiffness = pool, float(stiffness)
        whole = pool != "max"
        what = f"{pool} of the patches' distances" if whole else self.evidence_name
        return ScoreNetwork(
            module,
            input_shape=self.input_shape_,
            evidence_name=what,
            threshold=None if whole else self.threshold_,
            model_name=type(self).__name__,
            score_map=ScoreMap("evidence") if whole else None,
            composite=self._composite(self.module_),
        )


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Pictures ``(n, c, h, w)`` smoothed by a Gaussian cut at 4 ``sigma``, mirrored at the edges.

    Examples
    --------
    >>> gaussian_blur(torch.ones(1, 1, 3, 3), 2.0).unique().round(decimals=5).tolist()
    [1.0]
    """
    if sigma <= 0:
        return x
    radius = int(4 * sigma + 0.5)
    kernel = gaussian_kernel(sigma, radius).to(x)
    for dim in (2, 3):
        at = torch.arange(-radius, x.shape[dim] + radius, device=x.device) % (2 * x.shape[dim])
        mirrored = x.index_select(dim, torch.minimum(at, 2 * x.shape[dim] - 1 - at))
        x = (mirrored.unfold(dim, 2 * radius + 1, 1) * kernel).sum(-1)
    return x


def gaussian_kernel(sigma: float, radius: int) -> Tensor:
    """Weights ``(2 radius + 1,)`` that sum to one, float64.

    Examples
    --------
    >>> gaussian_kernel(1.0, 1).round(decimals=3).tolist()
    [0.274, 0.452, 0.274]
    """
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    return weights / weights.sum()
