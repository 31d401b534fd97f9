"""Pipelines: preprocessing in front of a model, explained in the units of the pipeline's input.

Element-wise steps hand relevance on unchanged. A projection ``z = B x + b`` in front of a model
that measures Euclidean or Mahalanobis distances becomes part of the distance rule (nearest
neighbours and PCA residuals too): the reference of a support point ``u`` is the point nearest to
``x`` that maps onto it, and ``R_i = sum_j w_j [B^+ (z
- u_j)]_i [B^T (z - u_j)]_i``, exact and, for PCA, non-negative. In front of any other model it is
split by the WSquare rule.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from torch import Tensor

from neuralize.convert import as_tensor, neuralize, register_converter, require_fitted
from neuralize.errors import UnsupportedModelError
from neuralize.layers import Elementwise, Projection, Selection, Step
from neuralize.network import Neuralized


class PowerMap(Elementwise):
    """Yeo-Johnson or Box-Cox power of every column, then ``scale z + shift``.

    Parameters
    ----------
    powers
        ``lambda`` of every column ``(d,)``.
    box_cox
        Box-Cox (positive data) instead of Yeo-Johnson.
    scale, shift
        ``(d,)`` each.
    """

    powers: Tensor

    def __init__(self, powers: Tensor, box_cox: bool, scale: Tensor, shift: Tensor) -> None:
        super().__init__(scale, shift)
        self.box_cox = box_cox
        self.register_buffer("powers", powers)

    def transform(self, x: Tensor) -> Tensor:
        if self.box_cox:
            return _box_cox(x, self.powers)
        positive = _box_cox(x.clamp(min=0) + 1, self.powers)
        negative = -_box_cox(1 - x.clamp(max=0), 2 - self.powers)
        return torch.where(x >= 0, positive, negative)


def _box_cox(x: Tensor, power: Tensor) -> Tensor:
    """``(x^p - 1) / p``, and ``log x`` at ``p = 0``; ``expm1`` keeps the digits in between."""
    log = x.log()
    safe = torch.where(power == 0, torch.ones_like(power), power)
    return torch.where(power == 0, log, torch.expm1(log * safe) / safe)


@singledispatch
def front_steps(step: object, n_features: int) -> list[Step]:
    """Layers equal to a fitted preprocessing step that takes ``n_features`` columns."""
    raise UnsupportedModelError(
        f"No exact layer for the pipeline step {type(step).__name__}. Supported: StandardScaler, "
        "MinMaxScaler, MaxAbsScaler, RobustScaler, PowerTransformer, PCA, IncrementalPCA, "
        "TruncatedSVD, feature selectors, 'passthrough'. Apply it beforehand and explain the rest."
    )


def affine_front(step: Any) -> list[Step]:
    """A scaler with ``mean_`` (or ``center_``) and ``scale_``."""
    center: Any = getattr(step, "mean_", getattr(step, "center_", None))
    scale = step.scale_
    n = step.n_features_in_
    slope = torch.ones(n, dtype=torch.float64) if scale is None else 1 / as_tensor(scale)
    # A scaler that was told not to centre may still know the mean.
    centred = getattr(step, "with_mean", getattr(step, "with_centering", False))
    limits = (-1.0, 1.0) if getattr(step, "clip", False) else None
    zero = torch.zeros_like(slope)
    return [Elementwise(slope, zero, as_tensor(center) if centred else None, limits=limits)]


@front_steps.register(StandardScaler)
@front_steps.register(RobustScaler)
@front_steps.register(MaxAbsScaler)
def _(step: Any, n_features: int) -> list[Step]:
    return affine_front(step)


@front_steps.register
def _(step: MinMaxScaler, n_features: int) -> list[Step]:
    low, high = step.feature_range
    limits = (float(low), float(high)) if step.clip else None
    return [Elementwise(as_tensor(step.scale_), as_tensor(step.min_), limits=limits)]


@front_steps.register
def _(step: PowerTransformer, n_features: int) -> list[Step]:
    scale, shift = torch.ones(n_features, dtype=torch.float64), None
    if step.standardize:
        scale = 1 / as_tensor(step._scaler.scale_)
        shift = -as_tensor(step._scaler.mean_) * scale
    powers = as_tensor(step.lambdas_)
    shift = torch.zeros_like(scale) if shift is None else shift
    return [PowerMap(powers, step.method == "box-cox", scale, shift)]


@front_steps.register(PCA)
@front_steps.register(IncrementalPCA)
def _(step: Any, n_features: int) -> list[Step]:
    matrix = as_tensor(step.components_)
    if step.whiten:
        floor = np.finfo(step.explained_variance_.dtype).eps
        matrix = matrix / as_tensor(step.explained_variance_).sqrt().clamp(min=floor)[:, None]
    return [Projection(matrix, -matrix @ as_tensor(step.mean_))]


@front_steps.register
def _(step: TruncatedSVD, n_features: int) -> list[Step]:
    matrix = as_tensor(step.components_)
    return [Projection(matrix, torch.zeros(len(matrix), dtype=matrix.dtype))]


@front_steps.register
def _(step: SelectorMixin, n_features: int) -> list[Step]:
    index = torch.from_numpy(np.flatnonzero(step.get_support()))
    return [Selection(index, n_features)]


@front_steps.register
def _(step: Pipeline, n_features: int) -> list[Step]:
    return [layer for inner in _fitted_steps(step.steps) for layer in _layers(inner)]


def _fitted_steps(steps: Sequence[tuple[str, Any]]) -> list[Any]:
    return [step for _, step in steps if step is not None and step != "passthrough"]


def _layers(step: Any) -> list[Step]:
    require_fitted(step)
    return front_steps(step, int(step.n_features_in_))


def merge_affine(steps: Sequence[Step]) -> list[Step]:
    """Join a projection with the affine steps that follow it into one projection.

    Examples
    --------
    >>> project = Projection(torch.tensor([[1.0, 1.0]]), torch.zeros(1))
    >>> double = Elementwise(torch.tensor([2.0]), torch.tensor([1.0]))
    >>> [merged] = merge_affine([project, double])
    >>> merged(torch.tensor([[3.0, 4.0]])).tolist()
    [[15.0]]
    """
    merged: list[Step] = []
    for step in steps:
        last = merged[-1] if merged else None
        if isinstance(last, Projection) and isinstance(step, Projection):
            step = Projection(step.matrix @ last.matrix, step.matrix @ last.offset + step.offset)
            merged.pop()
        elif isinstance(last, Projection) and isinstance(step, Selection):
            step = Projection(last.matrix[step.index], last.offset[step.index])
            merged.pop()
        elif isinstance(last, Projection) and type(step) is Elementwise and step.limits is None:
            matrix = step.scale[:, None] * last.matrix
            offset = last.offset if step.center is None else last.offset - step.center
            step = Projection(matrix, step.scale * offset + step.shift)
            merged.pop()
        merged.append(step)
    return merged


@register_converter(Pipeline)
def convert_pipeline(model: Pipeline, **options: Any) -> Neuralized:
    """A pipeline ending in a supported model; ``options`` are that model's."""
    *before, final = [step for _, step in model.steps]
    if final is None or final == "passthrough":
        raise UnsupportedModelError(
            "The pipeline ends in 'passthrough': there is nothing to explain."
        )
    fitted = [step for step in before if step is not None and step != "passthrough"]
    layers = merge_affine([layer for step in fitted for layer in _layers(step)])
    if options.get("data") is not None and fitted:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rows without names are fine here
            options["data"] = model[:-1].transform(options["data"])
    net = neuralize(final, **options)
    net.add_front(layers)
    net.n_features = int(fitted[0].n_features_in_) if fitted else net.n_features
    names = ", ".join(type(step).__name__ for step in (*fitted, final))
    net.model_name = f"Pipeline({names})"
    return net
