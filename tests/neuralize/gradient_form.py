"""Relevance of a whole network as input times gradient of a forward pass with held parts detached.

Independent of the engine: nothing is split and nothing is recorded. A mode rewrites what is not
homogeneous so that autograd's own gradient, in-place operations and views included, is relevance
divided by value: activations become ``x * (f(x) / x)`` with the quotient detached, gates and
denominators are detached, products of two signals pass half of their gradient.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.neuralize.gradient_oracle import half

ACTIVATIONS = {
    "relu", "relu6", "gelu", "silu", "hardswish", "hardtanh", "elu", "leaky_relu", "mish", "pow",
    "softplus", "clamp", "abs", "sqrt", "rms_norm", "normalize",
}  # fmt: skip
GATES = {"sigmoid", "hardsigmoid", "tanh", "exp", "rsqrt", "reciprocal", "erf"}
VIEWS = {
    "view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "expand", "flatten", "chunk",
    "unflatten", "contiguous", "getitem", "split", "unbind", "clone", "repeat", "pad", "movedim",
    "dropout", "masked_fill", "roll", "select", "to", "interpolate",
}  # fmt: skip
NAMES = {
    "radd": "add", "iadd": "add_", "rmul": "mul", "imul": "mul_", "isub": "sub_", "truediv": "div",
    "rtruediv": "rdiv", "itruediv": "div_",
}  # fmt: skip


class GradientForm(TorchFunctionMode):
    """Rewrites a forward pass; signals know whether they are gates, or still the raw input."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.enable_grad():
            return self.met(func, tuple(args), dict(kwargs or {}))

    def met(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        name = name.strip("_") if name.startswith("__") else name
        name = NAMES.get(name, name)
        in_place = name.endswith("_") or bool(kwargs.pop("inplace", False))
        name = name.rstrip("_")
        nested = (a if isinstance(a, list | tuple) else [a] for a in (*args, *kwargs.values()))
        operands = [v for values in nested for v in values]
        signals = [v for v in operands if isinstance(v, Tensor) and v.requires_grad]
        if not signals:
            return func(*args, **kwargs)
        x = signals[0]
        if name in ACTIVATIONS | GATES:
            return self.activation(name, func, args, kwargs, in_place)
        if name in ("mul", "div", "rdiv", "add", "sub", "rsub"):
            return self.arithmetic(name, func, args, kwargs, in_place)
        if name in ("layer_norm", "group_norm"):
            return normalised(name, args, kwargs)
        if name in ("matmul", "bmm", "einsum") and len(signals) > 1:
            return half(func(*args, **kwargs))
        if name == "scaled_dot_product_attention":
            return attention(*args, **kwargs)
        if name == "multi_head_attention_forward":
            return multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, list | tuple) else [result]
        for y in outputs:
            if isinstance(y, Tensor) and y.requires_grad:
                if name == "softmax":
                    mark(y, gate="softmax")
                elif name in VIEWS:
                    mark(y, gate_of(x), is_raw(x))
        return result

    def activation(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool
    ) -> Tensor:
        x = args[0]
        if in_place and func is not getattr(F, name, None):
            func = getattr(torch, name)
        with torch.no_grad():
            y = func(x.detach().clone(), *args[1:], **kwargs)
            quotient = torch.where(x == 0, torch.zeros_like(y), y / x)
        kind = "gate" if name in GATES else gate_of(x)
        return mark(x.mul_(quotient) if in_place else x * quotient, kind)

    def arithmetic(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool
    ) -> Tensor:
        a, b = args[0], args[1] if len(args) > 1 else kwargs["other"]
        both = all(isinstance(t, Tensor) and t.requires_grad for t in (a, b))
        x = a if isinstance(a, Tensor) and a.requires_grad else b
        raw = is_raw(x) and not both
        if name == "mul" and both:
            if bool(gate_of(a)) != bool(gate_of(b)):
                a, b = (t.detach() if gate_of(t) else t for t in (a, b))
                y = mark(a * b, "")
            else:
                gate = "gate" if gate_of(a) and gate_of(b) else ""
                y = mark(a * a.detach() if a is b else half(a * b), gate)
            return mark(args[0].copy_(y), gate_of(y)) if in_place else y
        if name in ("div", "rdiv"):
            top, below = (a, b) if name == "div" else (b, a)
            if x is top:
                return mark(
                    top / (below.detach() if isinstance(below, Tensor) else below), gate_of(x), raw
                )
            value = top / below.detach()
            return mark(below * (value / below).detach(), "gate")
        parameter = isinstance(b if x is a else a, nn.Parameter)
        units = gate_of(x) or (raw and not parameter)
        if name in ("add", "sub", "rsub") and not both and units:
            assert not in_place
            value = func(*(t.detach() if isinstance(t, Tensor) else t for t in args), **kwargs)
            return mark(x * (value / x).detach(), gate_of(x), raw)
        y = func(*args, **kwargs)
        gates = [gate_of(t) for t in (a, b) if isinstance(t, Tensor) and t.requires_grad]
        return mark(y, "gate" if all(gates) else "", raw)


def mark(t: Tensor, gate: str, raw: bool = False) -> Tensor:
    t._gate, t._raw = gate, raw  # type: ignore[attr-defined]
    return t


def gate_of(t: Any) -> str:
    return getattr(t, "_gate", "")


def is_raw(t: Any) -> bool:
    return getattr(t, "_raw", False)


def normalised(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    names = ("input", "by", "weight", "bias", "eps")
    given = dict(zip(names, args, strict=False))
    given |= {"by" if k in ("normalized_shape", "num_groups") else k: v for k, v in kwargs.items()}
    x, weight, bias = given["input"], given.get("weight"), given.get("bias")
    if name == "layer_norm":
        grouped, dims, shape = x, tuple(range(-len(given["by"]), 0)), None
    else:
        grouped, dims = x.reshape(len(x), given["by"], -1), (2,)
        shape = (-1, *[1] * (x.ndim - 2))
    sd = (grouped.detach().var(dims, correction=0, keepdim=True) + given.get("eps", 1e-5)).sqrt()
    y = ((grouped - grouped.mean(dims, keepdim=True)) / sd).reshape(x.shape)
    weight, bias = (t if t is None or shape is None else t.reshape(shape) for t in (weight, bias))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None,
) -> Tensor:  # fmt: skip
    scores = half(q @ k.transpose(-1, -2)) * (scale or 1 / math.sqrt(q.shape[-1]))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return half(scores.softmax(-1) @ v)


def multi_head(
    query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, weight: Tensor, bias: Tensor,
    bias_k: None, bias_v: None, zero: bool, dropout: float, out: Tensor, out_bias: Tensor,
    key_padding_mask: Tensor | None = None, attn_mask: Tensor | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    length, n, _width = query.shape
    parts = zip((query, key, value), weight.chunk(3), bias.chunk(3), strict=True)
    q, k, v = (
        F.linear(t, w, b).reshape(-1, n, heads, width // heads).permute(1, 2, 0, 3)
        for t, w, b in parts
    )
    if key_padding_mask is not None:
        attn_mask = key_padding_mask.reshape(n, 1, 1, -1)
        attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
    found = attention(q, k, v, attn_mask)
    return F.linear(found.permute(2, 0, 1, 3).reshape(length, n, width), out, out_bias), None


def by_gradient_form(model: nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and relevance of ``x`` for the evidence ``weights * output``."""
    model = copy.deepcopy(model).requires_grad_(False)
    leaf = x.detach().clone().requires_grad_()
    with GradientForm():
        output = model(mark(leaf.view_as(leaf), "", raw=True))
    (gradient,) = torch.autograd.grad(output, leaf, weights)
    return output.detach(), x * gradient
