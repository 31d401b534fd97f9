"""Activations, sums and products: what works entry by entry.

A product holds its gate constant: the outcome of a saturating function (sigmoid, softmax, a
standard deviation) only scales the signal beside it, which takes all relevance. Two signals share
half and half, since the product is of degree two in them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.engine.operations.attention import Softmax
from neuralize.engine.registry import Call, operation
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Product, Same, Stop, Sum
from neuralize.rules.named import Epsilon, Ignore, Pass

ACTIVATIONS = (
    "relu", "relu6", "gelu", "silu", "swish", "hardswish", "hardtanh", "elu", "selu", "celu",
    "leaky_relu", "prelu", "rrelu", "mish", "softplus", "softsign", "tanhshrink", "logsigmoid",
    "threshold", "hardshrink", "softshrink", "clamp", "clip", "clamp_min", "clamp_max", "abs",
    "square", "sqrt", "log", "log1p", "log2", "log10", "expm1", "sin", "cos", "sign", "neg",
    "round", "floor", "ceil", "atan", "asinh", "log_softmax", "positive", "float_power",
    "nan_to_num", "deg2rad", "log_sigmoid", "rad2deg",
)  # fmt: skip

GATES = ("sigmoid", "hardsigmoid", "tanh", "exp", "rsqrt", "reciprocal", "erf", "special_erf",
         "rpow", "erfc", "expit", "exp2")  # fmt: skip

_NONNEGATIVE = {"relu", "relu6", "sigmoid", "hardsigmoid", "softplus", "abs", "square", "exp",
                "sqrt", "softmax"}  # fmt: skip


class Activation(nn.Module):
    """What element-wise operations stand for in a composite's map."""


@operation(*ACTIVATIONS, "pow")
def activation(call: Call) -> Any:
    """Pass: input and output correspond one to one."""
    return _elementwise(call, call.tag.gate)


@operation(*GATES)
def gate(call: Call) -> Any:
    """Pass as well; and to be held constant when it multiplies a signal."""
    return _elementwise(call, "gate")


@operation("softmax")
def softmax(call: Call) -> Any:
    """A gate: attention. As a signal of its own its rule is that of AttnLRP."""
    x = call.x
    dim = call.arguments("input", "dim")[1]
    dim = call.kwargs.get("axis", dim)
    if dim is None:  # what torch then takes, with a warning
        dim = 0 if x.ndim in (0, 1, 3) else 1
    call.require_apart([int(dim)])
    step = Softmax(call.of(x), int(dim), call.tag.rows)
    return call.apply(step, rule="AttnLRP", gate="softmax", nonnegative=True)


@operation("softmin")
def softmin(call: Call) -> Any:
    """A softmax of the negative."""
    dim = call.kwargs.get("axis", call.arguments("input", "dim")[1])
    with call.mode:
        return F.softmax(-call.x, dim)


def _elementwise(call: Call, kind: str) -> Any:
    x, tag = call.x, call.tag
    f = call.of(x)
    rule = call.rule(Activation)
    others = [v for v in (*call.args[1:], *call.kwargs.values()) if isinstance(v, Tensor)]
    rows = _result_rows(call, x, *others) if others else tag.rows
    nonnegative = (call.name in _NONNEGATIVE and _keeps_sign(call)) or (
        call.name == "hardtanh" and (call.arguments("input", "min_val", min_val=-1.0)[1] or 0) >= 0
    )
    if isinstance(rule, Ignore):
        return call.apply(Stop(f, 1, rows), rule=rule, rows=rows)
    y = call.apply(Same(f, x.shape), [x], "Pass", rows, nonnegative=nonnegative, gate=kind)
    if call.name == "relu" and tag.step is not None:
        tag.step.rectified(y.detach())
    return y


def _keeps_sign(call: Call) -> bool:
    """A softplus with a negative beta is negative."""
    return call.name != "softplus" or call.arguments("input", "beta", beta=1.0)[1] > 0


@operation("add", "sub", "rsub")
def add(call: Call) -> Any:
    """``z = a + b``, of degree one: ``R_a = a R / z``; a constant takes its share by name."""
    a, b, alpha = call.arguments("input", "other", "alpha", alpha=1)
    signs = {"add": (1.0, float(alpha)), "sub": (1.0, -float(alpha)), "rsub": (-float(alpha), 1.0)}
    sign_a, sign_b = signs[call.name]
    tracked_a, tracked_b = (
        call.run.tag(a) if isinstance(a, Tensor) else None,
        (call.run.tag(b) if isinstance(b, Tensor) else None),
    )
    rule = call.rule(SumKind)
    if tracked_a is not None and tracked_b is not None:
        rows = call.broadcast_rows(torch.broadcast_shapes(a.shape, b.shape))
        if isinstance(rule, Ignore):
            return call.apply(Stop(call.of(a, b), 2, rows), [a, b], rule, rows)
        step = Sum(rows, _epsilon(rule), (sign_a, sign_b))
        return call.apply(
            step, [a, b], rule, rows,
            nonnegative=sign_a == sign_b == 1 and tracked_a.nonnegative and tracked_b.nonnegative,
            gate="gate" if tracked_a.gate and tracked_b.gate else "",
        )  # fmt: skip
    x, tag, sign = (a, tracked_a, sign_a) if tracked_a is not None else (b, tracked_b, sign_b)
    other, other_sign = (b, sign_b) if tracked_a is not None else (a, sign_a)
    assert tag is not None
    known: dict[str, Any] = {"raw": tag.raw, "gate": tag.gate}
    if not isinstance(other, Tensor) and other == 0:
        return call.apply(Same(call.of(x), x.shape), [x], **known)
    name = call.run.constant_name(other)
    constant = torch.as_tensor(other, dtype=torch.result_type(x, other), device=x.device)
    constant = constant.detach() * other_sign
    rows = call.broadcast_rows(torch.broadcast_shapes(x.shape, constant.shape))
    if isinstance(rule, Pass) or call.run.is_explained(tag) or tag.gate:
        # an offset of the input's own units, such as normalisation, is no evidence
        return call.apply(Same(call.of(x), x.shape), [x], "Pass", rows, **known)
    infinite = constant.isinf()
    if not bool(infinite.any()):
        step = Sum(rows, _epsilon(rule), (sign,), constant, name)
        return call.apply(step, [x], rule, rows, **known)
    # an additive mask: what it hides takes no part in the sum
    step = Sum(rows, _epsilon(rule), (sign,), constant.masked_fill(infinite, 0), name)
    z = call.apply(step, [x], rule, rows, **known)
    with call.mode:
        for value in (math.inf, -math.inf):
            z = z.masked_fill(constant == value, value)
    return z


class SumKind(nn.Module):
    """What additions stand for in a composite's map."""


class ProductKind(nn.Module):
    """What products of two signals stand for in a composite's map."""


def _epsilon(rule: Any) -> float:
    return rule.epsilon if isinstance(rule, Epsilon) else 1e-6


@operation("mul")
def multiply(call: Call) -> Any:
    """A product with a constant passes; of gate and signal, the signal takes all."""
    return product(call, *call.arguments("input", "other"))


def product(call: Call, a: Any, b: Any) -> Any:
    """Relevance of ``a * b``, element by element."""
    tag_a = call.run.tag(a) if isinstance(a, Tensor) else None
    tag_b = call.run.tag(b) if isinstance(b, Tensor) else None
    if tag_a is not None and tag_b is not None:
        shape = torch.broadcast_shapes(a.shape, b.shape)
        rows = call.broadcast_rows(shape)
        positive = tag_a.nonnegative and tag_b.nonnegative
        if a is b:
            return call.apply(Same(call.of(a), a.shape), [a], nonnegative=True)
        if bool(tag_a.gate) != bool(tag_b.gate):
            signal = b if tag_a.gate else a
            return call.apply(
                Same(call.of(signal), signal.shape), [signal], "signal takes all", rows,
                nonnegative=positive,
            )  # fmt: skip
        step = Product(call.of(a, b), (a.shape, b.shape))
        both = tag_a.gate if tag_a.gate and tag_b.gate else ""
        return call.apply(
            step, [a, b], "half each", rows, nonnegative=positive, gate="gate" if both else ""
        )
    x, tag = (a, tag_a) if tag_a is not None else (b, tag_b)
    assert tag is not None
    other = b if tag_a is not None else a
    rows = tag.rows
    positive = tag.nonnegative and isinstance(other, float | int) and other >= 0
    if isinstance(other, Tensor):
        rows = call.broadcast_rows(torch.broadcast_shapes(x.shape, other.shape))
    return call.apply(
        Same(call.of(x), x.shape), [x], "Pass", rows,
        raw=tag.raw, gate=tag.gate, nonnegative=positive,
    )  # fmt: skip


@operation("div", "rdiv", "floor_divide")
def divide(call: Call) -> Any:
    """A denominator is held constant, as a standard deviation is (LN rule, Ali et al. 2022)."""
    a, b = call.arguments("input", "other")
    if call.name == "rdiv":
        a, b = b, a
    tag_a = call.run.tag(a) if isinstance(a, Tensor) else None
    tag_b = call.run.tag(b) if isinstance(b, Tensor) else None
    if tag_a is None:
        return call.apply(
            Same(call.of(b), b.shape), [b], rows=_result_rows(call, a, b), gate="gate"
        )
    return call.apply(
        Same(call.of(a), a.shape), [a], rows=_result_rows(call, a, b),
        raw=tag_a.raw and tag_b is None, gate=tag_a.gate,
    )  # fmt: skip


def _result_rows(call: Call, *operands: Any) -> Rows:
    shapes = [t.shape for t in operands if isinstance(t, Tensor)]
    return call.broadcast_rows(torch.broadcast_shapes(*shapes))


@operation("glu")
def glu(call: Call) -> Any:
    """``a * sigmoid(b)``: the gate is held constant."""
    dim = call.arguments("input", "dim", dim=-1)[1]
    with call.mode:
        a, b = call.x.chunk(2, dim)
        return a * b.sigmoid()


@operation("addcdiv")
def addcdiv(call: Call) -> Any:
    """``c + value a / b``, as the sum and quotient it is."""
    c, a, b, value = call.arguments("input", "tensor1", "tensor2", "value", value=1)
    with call.mode:
        return c + (a / b if value == 1 else a / b * value)


@operation("addcmul")
def addcmul(call: Call) -> Any:
    """``c + value a b``, as the sum and product it is."""
    c, a, b, value = call.arguments("input", "tensor1", "tensor2", "value", value=1)
    with call.mode:
        return c + (a * b if value == 1 else a * b * value)


@operation("lerp")
def lerp(call: Call) -> Any:
    """``a + w (b - a)``, as the sums and product it is."""
    a, b, w = call.arguments("input", "end", "weight")
    with call.mode:
        return a * (1 - w) + b * w
