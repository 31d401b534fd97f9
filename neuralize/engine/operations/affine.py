"""Linear layers, convolutions, embeddings, and BatchNorm merged into the map before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.engine.affine import AffineCall, Map, Weights
from neuralize.engine.operations.views import view
from neuralize.engine.registry import Call, operation
from neuralize.engine.rows import Rows
from neuralize.engine.run import Origin, Tag
from neuralize.engine.steps import Euler, Same, Shares, Step, Stop, share
from neuralize.errors import NoRuleError
from neuralize.rules.named import Epsilon, Gamma, Gradient, Ignore, Norm, Pass, Rule

CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")

KINDS: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
}


def _done(x: Tensor) -> Tensor:
    raise AssertionError("a step computes once")


class Affine(Step):
    """An affine map under its rule."""

    sinks = ("stabilizer", "bias", "ignored")

    def __init__(self, call: AffineCall, rule: Rule, f: Callable[[Tensor], Tensor]) -> None:
        self.call, self.rule, self.f = call, rule, f

    def compute(self, *inputs: Tensor) -> Tensor:
        # used once, and it may hold the output that BatchNorm takes
        f, self.f = self.f, _done
        self.call.x = inputs[0]
        return f(inputs[0])

    def kept(self, z: Tensor) -> None:
        if isinstance(self.rule, Epsilon | Gamma):
            self.call.saved_z = z

    def rectified(self, y: Tensor) -> None:
        if isinstance(self.rule, Epsilon | Gamma):
            self.call.saved_z, self.call.rectified = None, y

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        self.call.shares = {}
        r = self.rule.split(self.call, relevance)
        if isinstance(self.rule, Gradient):
            self.call.shares = {}
        return [r], self.call.shares

    def release(self) -> None:
        self.call.x = self.call.x[:0]
        self.call.saved_z = self.call.rectified = None


@operation(*KINDS)
def affine(call: Call) -> Any:
    """``z = W x + b``, with ``W`` held constant where it carries relevance itself."""
    name = call.name
    if name == "linear":
        x, weight, bias = call.arguments("input", "weight", "bias")
        mapping = Map("linear")
    elif name.startswith("conv_transpose"):
        x, weight, bias, stride, padding, output_padding, groups, dilation = call.arguments(
            "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation",
            stride=1, padding=0, output_padding=0, groups=1, dilation=1,
        )  # fmt: skip
        nd = int(name[-2])
        mapping = Map(
            name, _tuple(stride, nd), _tuple(padding, nd), _tuple(dilation, nd),
            _tuple(output_padding, nd), groups,
        )  # fmt: skip
    else:
        x, weight, bias, stride, padding, dilation, groups = call.arguments(
            *CONV, stride=1, padding=0, dilation=1, groups=1
        )
        nd = int(name[-2])
        dilation = _tuple(dilation, nd)
        if isinstance(padding, str):
            padding, odd = _padding(padding, dilation, weight.shape[2:])
            if any(odd):
                # One more on one side: pad both, and leave out what that adds in front. Padding
                # the input instead would make the padding a part of it.
                wide = dict(
                    zip(CONV, (x, weight, bias, stride, padding, dilation, groups), strict=True)
                )
                with call.mode:
                    z = call.func(**wide)
                    for d, more in enumerate(odd, start=z.ndim - nd):
                        z = z.narrow(d, more, z.shape[d] - more)
                    return z
        mapping = Map(name, _tuple(stride, nd), _tuple(padding, nd), dilation, (0,) * nd, groups)
    tag = call.run.tag(x)
    if tag is None:
        return _weight_alone(call, x, weight, bias, mapping)
    rule = call.rule(KINDS[name], first=tag.raw)
    origin = Origin(x, mapping, weight, bias, call.run.path, rule, tag.raw)
    return run_affine(call, origin, tag)


def _weight_alone(call: Call, x: Tensor, weight: Any, bias: Any, mapping: Map) -> Tensor:
    """A constant under a weight that carries relevance: linear in the weight all the same."""
    if call.run.rows.n > 1:
        raise NoRuleError(
            f"{call.name} in {call.run.place} has a weight made of the whole batch, so relevance "
            "cannot be told apart by row. Explain one row at a time (batch_size=1)."
        )
    if call.run.tag(weight) is None:
        raise NoRuleError(
            f"{call.name} in {call.run.place} adds a signal, its bias, to constants: no rule. "
            "Write it as an addition."
        )
    z = call.apply(
        Euler(lambda w: mapping.forward(x, w), 1, call.run.rows, 1e-9), [weight], "Epsilon"
    )
    if bias is None:
        return z
    with call.mode:
        shape = [-1] if mapping.is_linear else [-1, *[1] * (weight.ndim - 2)]
        return torch.add(z, bias.reshape(shape))


def run_affine(
    call: Call,
    origin: Origin,
    tag: Tag,
    f: Callable[[Tensor], Tensor] | None = None,
    scale: tuple[Tensor, Tensor, Sequence[Tensor | None]] | None = None,
) -> Tensor:
    """Run the map of ``origin``; with ``scale = (a, b, sources)``, of ``a z + b``."""
    # Modified weights are found again by the tensors they were made of, in the next forward too.
    sources: list[Tensor | None] = [origin.weight, origin.bias]
    weight = origin.weight.detach()
    bias = None if origin.bias is None else origin.bias.detach()
    mapping = origin.map

    def make() -> Weights:
        if scale is None:
            return Weights(mapping, weight, bias)
        a, b, _ = scale
        return Weights(mapping, weight, b if bias is None else a * bias + b, a)

    if scale is not None:
        sources += scale[2]
    weights = call.run.cache.get(sources, make)
    if f is None:

        def f(x: Tensor) -> Tensor:
            return mapping.forward(x, weight, bias)  # type: ignore[no-any-return]

    rows = _rows_after(call, tag.rows, origin.x, mapping, weight.shape[0])
    inner = AffineCall(mapping, weights, origin.x.detach(), rows, tag.nonnegative)
    step: Step
    if isinstance(origin.rule, Ignore):
        step = Stop(f, 1, rows)
    elif (
        isinstance(origin.rule, Pass) and mapping.is_linear and (weight.shape[0] == weight.shape[1])
    ):
        step = Same(f, origin.x.shape)
    elif type(origin.rule).split is Rule.split or (
        isinstance(origin.rule, Pass) and mapping.is_linear
    ):
        raise NoRuleError(
            f"{origin.rule} is no rule for {call.name} in {call.run.place}, which splits relevance "
            "over its inputs; use Epsilon, ZPlus, Gamma or another rule for layers with weights."
        )
    else:
        step = Affine(inner, origin.rule, f)
    z = call.apply(step, [origin.x], origin.rule, rows, origin=origin if scale is None else None)
    if step.record is not None and scale is None:
        origin.record = step.record
    elif step.record is not None and origin.record is not None:
        # one operation in the table, where the weights are
        origin.record.path, origin.record.operation = origin.path, f"{mapping.kind} + batch_norm"
        call.run.records.remove(step.record)
        step.record = origin.record
    return z


def _rows_after(call: Call, rows: Rows, x: Tensor, mapping: Map, width: int) -> Rows:
    """Rows of the output: the last dimension changes (linear), or all but batch and channel."""
    untouched = x.ndim - 1 if mapping.is_linear else x.ndim - int(mapping.kind[-2]) - 1
    if rows.n == 1 or (rows.dim is not None and rows.dim < untouched):
        return rows
    if rows.index is not None:
        line = rows.index[..., :1]
        if mapping.is_linear and bool((rows.index == line).all()):
            return Rows(rows.n, None, 1, line.expand(*line.shape[:-1], width))
    raise NoRuleError(
        f"{call.name} in {call.run.place} mixes the rows of the batch, so relevance cannot be told "
        "apart by row. Explain one row at a time (batch_size=1)."
    )


def _tuple(value: Any, nd: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * nd
    values = tuple(int(v) for v in value)
    return values * nd if len(values) == 1 else values


def _padding(
    padding: str, dilation: tuple[int, ...], kernel: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers for ``"same"`` and ``"valid"``, and where they are one too many in front."""
    if padding == "valid":
        return (0,) * len(dilation), (0,) * len(dilation)
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    odd = tuple(t % 2 for t in total)
    return tuple(t // 2 + o for t, o in zip(total, odd, strict=True)), odd


@operation("batch_norm")
def batch_norm(call: Call) -> Any:
    """BatchNorm in evaluation mode, ``y = a z + b``: merged into the affine map that made ``z``.

    Anywhere else it is an element-wise map of its own.
    """
    names = NORM_ARGUMENTS if call.func is F.batch_norm else TORCH_NORM_ARGUMENTS
    given = dict(zip(names, call.arguments(*names, eps=1e-5), strict=True))
    x, mean, var = call.x, given["running_mean"], given["running_var"]
    if given["training"] or mean is None:
        raise NoRuleError(
            f"BatchNorm in {call.run.place} uses the statistics of its batch, so rows explain one "
            "another. Put it into evaluation mode with running statistics (module.eval())."
        )
    weight, bias = given["weight"], given["bias"]
    a, b = scale_and_shift(mean, var, weight, bias, given["eps"])
    origin = call.tag.origin
    f = call.of(x)
    if origin is not None and (not origin.map.is_linear or x.ndim == 2):
        z = x.detach()
        source_tag = call.run.tag(origin.x)
        assert source_tag is not None
        return run_affine(
            call, origin, source_tag, lambda _: f(z), (a, b, (mean, var, weight, bias))
        )
    return elementwise_affine(call, call.rule(nn.BatchNorm2d), a, b, 1)


NORM_ARGUMENTS = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
)  # fmt: skip
"""Parameters of ``F.batch_norm``, in order."""

TORCH_NORM_ARGUMENTS = (
    "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps",
)  # fmt: skip
"""Parameters of ``torch.batch_norm``, in order."""


def scale_and_shift(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` of BatchNorm as ``y = a x + b``."""
    with torch.no_grad():
        a = torch.rsqrt(var + eps)
        a = a if weight is None else a * weight
        b = -mean * a
        return a, b if bias is None else b + bias


class ElementwiseAffine(Step):
    """``y = a x + b``: Epsilon, ``R_i = a x_i R_i / stab(y_i)``."""

    sinks = ("stabilizer", "bias")

    def __init__(self, f: Any, a: Tensor, b: Tensor | None, rows: Rows, epsilon: float) -> None:
        self.f, self.a, self.b, self.rows, self.epsilon = f, a, b, rows, epsilon

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.x,) = inputs
        return self.f(self.x)  # type: ignore[no-any-return]

    def kept(self, z: Tensor) -> None:
        self.z = z

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        s = share(relevance, self.z, self.epsilon)
        shares = {"stabilizer": self.rows.sum(relevance) - self.rows.sum(s * self.z)}
        if self.b is not None:
            shares["bias"] = self.rows.sum(s * self.b)
        return [s * (self.a * self.x)], shares


def elementwise_affine(call: Call, rule: Rule, a: Tensor, b: Tensor | None, channel: int) -> Tensor:
    """An element-wise affine map with one factor per channel, under Pass, Epsilon or Ignore."""
    shape = [1] * call.x.ndim
    shape[channel] = -1
    f = call.of(call.x)
    tag = call.tag
    if isinstance(rule, Pass):
        return call.apply(Same(f, call.x.shape), rule=rule, raw=tag.raw)
    if isinstance(rule, Ignore):
        return call.apply(Stop(f, 1, tag.rows), rule=rule)
    if isinstance(rule, Epsilon | Norm):
        b = None if b is None else b.reshape(shape)
        step = ElementwiseAffine(f, a.reshape(shape), b, tag.rows, rule.epsilon)
        return call.apply(step, rule=rule)
    raise NoRuleError(
        f"{rule} is no rule for {call.name} in {call.run.place}; use Pass, Norm or Epsilon."
    )


class Tokens(Step):
    """Rows of an embedding: the relevance of a token is that of its vector."""

    def __init__(self, f: Any) -> None:
        self.f = f

    def compute(self, *inputs: Tensor) -> Tensor:
        return self.f()  # type: ignore[no-any-return]

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        return [relevance.sum(-1)], {}


@operation("embedding")
def embedding(call: Call) -> Any:
    """A lookup is linear in the one-hot token: ``R_token = sum_d R_d``."""
    ids, _ = call.arguments("input", "weight")
    leaf = call.run.tokens.get(ids)
    if leaf is None:
        # relevance in the table itself: a lookup that moves values
        return view(call)
    rows = call.tag.rows
    func, args, kwargs = call.func, call.args, call.kwargs
    plain = [a.detach() if isinstance(a, Tensor) else a for a in args]
    return call.apply(Tokens(lambda: func(*plain, **kwargs)), [leaf], "Epsilon", rows)
