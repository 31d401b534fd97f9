"""PyOD's detectors that are neural networks: ``DeepSVDD`` and ``AutoEncoder``.

- DeepSVDD: ``o(x) = ||phi(z) - c||^2``, ``phi`` dense layers without biases, ``c = c_``;
- AutoEncoder: ``o(x) = ||z - g(f(z))||``, not squared;

``z`` the input as PyOD standardises it, so that relevance is in the user's units. PyOD standardises
in float64 and goes on in float32; here all is float64, so that both agree to float32's precision
whatever the units are. Imported only when one of these models comes by.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.deep_svdd import DeepSVDD
from torch import Tensor, nn

from neuralize.convert import as_tensor, register_converter
from neuralize.deep.deep_svdd import SphereScore
from neuralize.deep.preprocessing import Standardize
from neuralize.deep.score_network import ScoreNetwork
from neuralize.errors import UnfittedModelError, UnsupportedModelError

STD_FLOOR = 1e-8
"""PyOD's AutoEncoder adds it to standard deviations."""

TINY = 1e-30
"""Below it a squared norm counts as zero, where the root has no derivative."""


class ResidualNorm(nn.Module):
    """``||z - g(f(z))||`` of preprocessed rows ``z``, ``(n, d) -> (n,)``."""

    def __init__(self, steps: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.preprocessing, self.encoder, self.decoder = steps, encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        z = self.preprocessing(x)
        residual: Tensor = z - self.decoder(self.encoder(z))
        return (residual**2).sum(1).clamp_min(TINY).sqrt()


@register_converter(DeepSVDD)
def convert_deep_svdd(model: DeepSVDD) -> ScoreNetwork:
    """DeepSVDD of PyOD 3.6.3 and later; before, its training did not change the network."""
    _require_fitted(model)
    if getattr(model, "c_", None) is None:
        raise UnsupportedModelError(
            "PyOD DeepSVDD without c_ was fitted by a version before 3.6.3, which did not train "
            "it. Refit it with pyod>=3.6.3."
        )
    steps = nn.Sequential()
    if model.preprocessing:
        scaler = model.scaler_
        steps.append(_standardize(scaler.mean_, scaler.scale_))
    center = as_tensor(_array(model.c_), "centre")
    module = SphereScore(steps, _network(model.model_.model), len(center)).double()
    module.center.copy_(center)
    return _finish(module, model, int(model.n_features_), "squared distance to the centre")


@register_converter(AutoEncoder)
def convert_autoencoder(model: AutoEncoder) -> ScoreNetwork:
    """AutoEncoder: the norm of the residual, through both branches."""
    _require_fitted(model)
    steps = nn.Sequential()
    if model.preprocessing:
        steps.append(_standardize(model.X_mean, np.asarray(model.X_std) + STD_FLOOR))
    pair = _network(getattr(model.model, "_orig_mod", model.model))  # what torch.compile wraps
    module = ResidualNorm(steps, pair.encoder, pair.decoder).double()
    return _finish(module, model, int(model.feature_size), "norm of the residual")


def _require_fitted(model: Any) -> None:
    if getattr(model, "decision_scores_", None) is None:
        raise UnfittedModelError(
            f"{type(model).__name__} is not fitted yet. Call .fit(data) first."
        )


def _standardize(mean: Any, std: Any) -> Standardize:
    center, scale = as_tensor(mean, "means"), as_tensor(std, "standard deviations")
    step = Standardize(center.shape).double()
    step.mean.copy_(center)
    step.std.copy_(scale)
    return step


def _network(module: nn.Module) -> Any:
    """A copy on the CPU, without gradients."""
    return copy.deepcopy(module).cpu().eval().requires_grad_(False)


def _array(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _finish(module: nn.Module, model: Any, width: int, evidence_name: str) -> ScoreNetwork:
    return ScoreNetwork(
        module,
        input_shape=(width,),
        evidence_name=evidence_name,
        threshold=float(model.threshold_),
        model_name=f"PyOD {type(model).__name__}",
    )
