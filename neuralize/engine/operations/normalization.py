"""Normalisations with their statistic held constant (LN rule; Ali et al., ICML 2022).

With the standard deviation detached, ``y = w (x - mean x) / sd + b`` is affine in ``x``:
``R_i = x_i (g_i - mean g)`` with ``g = s w / sd`` and ``s = R / stab(y)``; the bias ``b`` absorbs
its share. Without a mean (RMSNorm, L2 normalisation) every output belongs to its input: Pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.engine.operations.affine import (
    NORM_ARGUMENTS,
    TORCH_NORM_ARGUMENTS,
    elementwise_affine,
    scale_and_shift,
)
from neuralize.engine.registry import Call, operation
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Same, Shares, Step, Stop, share
from neuralize.errors import NoRuleError
from neuralize.rules.named import Epsilon, Ignore, Norm, Pass


class Centred(Step):
    """A normalisation that subtracts the mean over ``dims`` of a grouped view of its input."""

    sinks = ("stabilizer", "bias")

    def __init__(
        self, f: Any, grouped: tuple[int, ...], dims: tuple[int, ...], eps: float,
        weight: Tensor | None, bias: Tensor | None, rows: Rows, epsilon: float,
    ) -> None:  # fmt: skip
        self.f, self.grouped, self.dims, self.eps = f, grouped, dims, eps
        self.weight, self.bias, self.rows, self.epsilon = weight, bias, rows, epsilon

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.x,) = inputs
        return self.f(self.x)  # type: ignore[no-any-return]

    def kept(self, z: Tensor) -> None:
        self.y = z

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        s = share(relevance, self.y, self.epsilon)
        shares = {"stabilizer": self.rows.sum(relevance) - self.rows.sum(s * self.y)}
        if self.bias is not None:
            shares["bias"] = self.rows.sum(s * self.bias)
        x = self.x.reshape(self.grouped)
        sd = torch.sqrt(x.var(self.dims, correction=0, keepdim=True) + self.eps)
        g = (s if self.weight is None else s * self.weight).reshape(self.grouped) / sd
        r = x * (g - g.mean(self.dims, keepdim=True))
        return [r.reshape(self.x.shape)], shares

    def release(self) -> None:
        self.x = self.y = self.x[:0]


def centred(
    call: Call, kind: type[nn.Module], grouped: tuple[int, ...], dims: tuple[int, ...], eps: float,
    weight: Tensor | None, bias: Tensor | None,
) -> Any:  # fmt: skip
    """Run a normalisation under Norm, Epsilon, Pass or Ignore."""
    rule = call.rule(kind)
    f = call.of(call.x)
    if len(grouped) == call.x.ndim:
        call.require_apart(dims)
    else:  # groups of channels: the batch comes first
        call.require_apart(range(1, call.x.ndim))
    if isinstance(rule, Pass):
        return call.apply(Same(f, call.x.shape), rule=rule)
    if isinstance(rule, Ignore):
        return call.apply(Stop(f, 1, call.tag.rows), rule=rule)
    if not isinstance(rule, Epsilon | Norm):
        raise NoRuleError(
            f"{rule} is no rule for {call.name} in {call.run.place}; use Norm, Epsilon or Pass."
        )
    weight = None if weight is None else weight.detach()
    bias = None if bias is None else bias.detach()
    step = Centred(f, grouped, dims, eps, weight, bias, call.tag.rows, rule.epsilon)
    return call.apply(step, rule=rule)


@operation("layer_norm")
def layer_norm(call: Call) -> Any:
    """LayerNorm over the last dimensions."""
    x, shape, weight, bias, eps = call.arguments(
        "input", "normalized_shape", "weight", "bias", "eps", eps=1e-5
    )
    dims = tuple(range(x.ndim - len(shape), x.ndim))
    return centred(call, nn.LayerNorm, tuple(x.shape), dims, eps, weight, bias)


def _per_channel(t: Tensor | None, ndim: int) -> Tensor | None:
    return None if t is None else t.reshape(1, -1, *[1] * (ndim - 2))


@operation("group_norm")
def group_norm(call: Call) -> Any:
    """GroupNorm over the channels of a group and all positions."""
    x, groups, weight, bias, eps = call.arguments(
        "input", "num_groups", "weight", "bias", "eps", eps=1e-5
    )
    grouped = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    dims = tuple(range(2, len(grouped)))
    weight, bias = _per_channel(weight, x.ndim), _per_channel(bias, x.ndim)
    return centred(call, nn.GroupNorm, grouped, dims, eps, weight, bias)


@operation("instance_norm")
def instance_norm(call: Call) -> Any:
    """InstanceNorm: over positions; with running statistics, an affine map per channel."""
    order = NORM_ARGUMENTS if call.func is F.instance_norm else TORCH_NORM_ARGUMENTS
    names = ["use_input_stats" if name == "training" else name for name in order]
    given = dict(zip(names, call.arguments(*names, use_input_stats=True, eps=1e-5), strict=True))
    x, weight, bias, eps = call.x, given["weight"], given["bias"], given["eps"]
    if not given["use_input_stats"]:
        mean, var = given["running_mean"], given["running_var"]
        a, b = scale_and_shift(mean, var, weight, bias, eps)
        return elementwise_affine(call, call.rule(nn.InstanceNorm2d), a, b, 1)
    dims = tuple(range(2, x.ndim))
    weight, bias = _per_channel(weight, x.ndim), _per_channel(bias, x.ndim)
    return centred(call, nn.InstanceNorm2d, tuple(x.shape), dims, eps, weight, bias)


@operation("rms_norm", "normalize", "local_response_norm")
def scaled_only(call: Call) -> Any:
    """Only a detached scale per entry: Pass."""
    if call.name == "normalize":
        call.require_apart([int(call.arguments("input", "p", "dim", dim=1)[2])])
    elif call.name == "rms_norm":
        call.require_apart(range(-len(call.arguments("input", "normalized_shape")[1]), 0))
    else:
        call.require_apart([1])
    return call.apply(Same(call.of(call.x), call.x.shape), raw=False)


@operation("cosine_similarity")
def cosine_similarity(call: Call) -> Any:
    """A product of two normalised vectors."""
    a, b, dim, eps = call.arguments("x1", "x2", "dim", "eps", dim=1, eps=1e-8)
    ndim = max(a.ndim, b.ndim)
    with call.mode:
        a, b = (t.reshape(*[1] * (ndim - t.ndim), *t.shape) for t in (a, b))
        norms = (torch.linalg.vector_norm(t, dim=dim, keepdim=True).clamp(min=eps) for t in (a, b))
        a, b = (t / norm for t, norm in zip((a, b), norms, strict=True))
        return (a * b).sum(dim)
