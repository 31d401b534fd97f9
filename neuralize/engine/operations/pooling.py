"""Average, sum, maximum and adaptive pools, means, norms, upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.engine.operations.views import absorbing_constants
from neuralize.engine.registry import Call, operation
from neuralize.engine.rows import Rows, rows_of
from neuralize.engine.run import Tag, tensors_in
from neuralize.engine.steps import Euler, Same, Shares, Step, Stop, transpose_of
from neuralize.errors import NoRuleError
from neuralize.rules.named import Epsilon, Ignore, Norm, Pass, Rule, TakeMost, WinnerTakeAll


def _nd(name: str) -> int:
    return int(name[name.rindex("d") - 1]) if name[-1] == "d" and name[-2].isdigit() else 2


_AVERAGES: dict[str, type[nn.Module]] = {
    "avg_pool1d": nn.AvgPool1d, "avg_pool2d": nn.AvgPool2d, "avg_pool3d": nn.AvgPool3d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d, "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_avg_pool3d": nn.AdaptiveAvgPool3d, "mean": nn.AdaptiveAvgPool2d,
}  # fmt: skip


@operation("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
           "adaptive_avg_pool3d")  # fmt: skip
def average_pool(call: Call) -> Any:
    """Degree one, ``R_i = x_i sum_j w_ij R_j / z_j`` (Norm)."""
    call.require_apart(range(-_nd(call.name), 0))
    positive = (call.arguments(*_POOLED)[6] or 1) > 0  # a divisor of one's own may turn the sign
    rule = call.rule(_AVERAGES[call.name])
    return linear_map(call, rule, call.rows_like, nonnegative=positive and call.tag.nonnegative)


_POOLED = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
           "divisor_override")  # fmt: skip


def linear_map(call: Call, rule: Rule, rows_like: Any = None, **known: Any) -> Any:
    """A parameter-free linear operation under Norm, Epsilon, Pass (equal shapes) or Ignore."""
    f = call.of(call.x)
    with torch.no_grad():
        shape_of = f(call.x.detach()) if rows_like is not None and call.run.rows.n > 1 else None
    rows = call.tag.rows if shape_of is None else rows_like(shape_of)
    if isinstance(rule, Ignore):
        return call.apply(Stop(f, 1, rows), rule=rule, rows=rows)
    if isinstance(rule, Pass):
        return call.apply(Same(f, call.x.shape), rule=rule, rows=rows)
    if not isinstance(rule, Epsilon | Norm):
        raise NoRuleError(
            f"{rule} is no rule for {call.name} in {call.run.place}; use Norm or Epsilon."
        )
    step = Euler(f, 1, rows, rule.epsilon)
    return call.apply(step, rule=rule, rows=rows, **known)


@operation("mean", "sum", "nansum")
def reduce(call: Call) -> Any:
    """A mean or sum over some dimensions, degree one."""
    _, dim, keepdim = call.arguments("input", "dim", "keepdim", keepdim=False)
    dim = call.kwargs.get("axis", dim)
    rule = call.rule(_AVERAGES["mean"])
    rows = reduced_rows(call, dim, bool(keepdim))
    f = call.of(call.x)
    step: Step = (
        Stop(f, 1, rows)
        if isinstance(rule, Ignore)
        else Euler(f, 1, rows, rule.epsilon if isinstance(rule, Epsilon) else 1e-6)
    )
    return call.apply(step, rule=rule, rows=rows, nonnegative=call.tag.nonnegative)


def reduced_rows(call: Call, dim: Any, keepdim: bool) -> Rows:
    """Rows after a reduction over ``dim``."""
    rows, x = call.tag.rows, call.x
    if rows.n == 1:
        return rows
    if dim is None or isinstance(dim, torch.dtype):
        dims = list(range(x.ndim))
    else:
        dims = [d % x.ndim for d in (dim if isinstance(dim, list | tuple) else [dim])]
    shadow = rows.shadow(x.shape, x.device)
    lines = shadow[tuple(slice(0, 1) if d in dims else slice(None) for d in range(x.ndim))]
    if not bool((lines == shadow).all()) if rows.dim is None else rows.dim in dims:
        raise NoRuleError(
            f"{call.operation} in {call.run.place} sums over the rows of the batch, so relevance "
            "cannot be told apart by row. Explain one row at a time (batch_size=1)."
        )
    if not keepdim:
        lines = lines.squeeze(tuple(dims))
    return rows_of(lines, rows.n)


@operation("max_pool1d", "max_pool2d", "max_pool3d", "max_pool1d_with_indices",
           "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool1d",
           "adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_max_pool2d_with_indices",
           "fractional_max_pool2d")  # fmt: skip
def max_pool(call: Call) -> Any:
    """Winner-take-all, which is the plain gradient; or take-most within each window."""
    rule = call.rule(nn.MaxPool2d)
    if isinstance(rule, TakeMost):
        return _take_most(call, rule)
    call.require_apart(range(-_nd(call.name.removesuffix("_with_indices")), 0))
    if not isinstance(rule, WinnerTakeAll | Pass):
        raise NoRuleError(
            f"{rule} is no rule for {call.name} in {call.run.place}; use WinnerTakeAll or TakeMost."
        )
    result = call.func(*call.args, **call.kwargs)
    call.run.note(call.operation, "WinnerTakeAll")
    for t in tensors_in(result):
        if t.requires_grad:
            call.mark_like(t, nonnegative=call.tag.nonnegative)
    return result


class SoftWindows(Step):
    """Take-most: ``R_i = sum_w p_wi R_w``, ``p_w`` the softmax of ``t x`` within window ``w``."""

    def __init__(self, f: Any, unfold: Any, stiffness: float) -> None:
        self.f, self.unfold, self.stiffness = f, unfold, stiffness

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.x,) = inputs
        return self.f(self.x)  # type: ignore[no-any-return]

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        low = torch.finfo(self.x.dtype).min
        windows = self.unfold(self.x, low)
        p = torch.softmax(self.stiffness * windows, 2).masked_fill(windows == low, 0)
        (r,) = transpose_of(lambda x: self.unfold(x, 0.0), self.x)(
            p * relevance.flatten(2).unsqueeze(2)
        )
        return [r], {}


def _take_most(call: Call, rule: TakeMost) -> Any:
    if call.name != "max_pool2d":
        raise NoRuleError(
            f"TakeMost is not known for {call.name} in {call.run.place}; use WinnerTakeAll."
        )
    x, kernel, stride, padding, dilation, ceil = call.arguments(
        "input", "kernel_size", "stride", "padding", "dilation", "ceil_mode",
        padding=0, dilation=1, ceil_mode=False,
    )  # fmt: skip
    if x.ndim != 4 or call.tag.rows.varies((1,), x.shape):
        raise NoRuleError(
            f"TakeMost in {call.run.place} expects images (n, c, h, w), got {tuple(x.shape)}."
        )
    if ceil:
        raise NoRuleError(f"TakeMost with ceil_mode=True is not known, in {call.run.place}.")
    two = [tuple(v) if isinstance(v, list | tuple) else (v, v) for v in
           (kernel, kernel if stride in (None, []) else stride, padding, dilation)]  # fmt: skip
    k, st, pad, dil = two

    def unfold(x: Tensor, fill: float) -> Tensor:
        n, c = x.shape[:2]
        padded = F.pad(x, (pad[1], pad[1], pad[0], pad[0]), value=fill)
        return F.unfold(padded, k, dil, 0, st).reshape(n, c, k[0] * k[1], -1)

    return call.apply(
        SoftWindows(call.of(x), unfold, rule.stiffness), rule=rule,
        nonnegative=call.tag.nonnegative,
    )  # fmt: skip


@operation("interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "fold", "cumsum",
           "affine_grid", "diff")  # fmt: skip
def resample(call: Call) -> Any:
    """Linear in its input without parameters: Norm."""
    _, given = call.arguments("input", "dim")
    if call.name == "diff":
        return _difference(call)
    call.require_apart([given] if call.name == "cumsum" else range(1, call.x.ndim))
    known = {"nonnegative": call.tag.nonnegative and _averages(call)}
    return linear_map(call, call.rule(nn.Upsample), call.rows_like, **known)


def _averages(call: Call) -> bool:
    """Whether all weights of a resampling are non-negative: those of cubics are not."""
    return "bicubic" not in (*call.args, *call.kwargs.values())


def _difference(call: Call) -> Any:
    """``torch.diff``, as the subtractions it is."""
    x, n, dim, before, after = call.arguments("input", "n", "dim", "prepend", "append", n=1, dim=-1)
    with call.mode:
        parts = [t for t in (before, x, after) if t is not None]
        x = torch.cat(parts, dim) if len(parts) > 1 else x
        for _ in range(n):
            length = x.shape[dim] - 1
            x = x.narrow(dim, 1, length) - x.narrow(dim, 0, length)
        return x


@operation("grid_sample", "grid_sampler")
def sample(call: Call) -> Any:
    """Linear in the image; where it is sampled is held constant."""
    if call.run.tag(call.args[0]) is None:
        raise NoRuleError(
            f"grid_sample in {call.run.place} reads constants at places made of the input: no rule."
        )
    call.require_apart(range(1, call.x.ndim))
    rows, positive = call.rows_like, call.tag.nonnegative and _averages(call)
    return linear_map(call, call.rule(nn.Upsample), rows, nonnegative=positive)


@operation("norm", "vector_norm", "linalg_vector_norm", "linalg_norm", "std")
def norm(call: Call) -> Any:
    """A norm is of degree one: ``R_i = x_i dz/dx_i R / z``; as a divisor it is held constant."""
    return _statistic(call, 1)


@operation("var")
def variance(call: Call) -> Any:
    """A variance is of degree two in ``x``; as a scale it is held constant."""
    return _statistic(call, 2)


def _statistic(call: Call, degree: int) -> Any:
    f = call.of(call.x)
    rows = call.tag.rows
    order = call.kwargs.get("p", call.kwargs.get("ord", call.args[1] if call.args[1:] else 2))
    if "norm" in call.name and order in (0, 0.0):
        raise NoRuleError(f"{call.name} in {call.run.place} counts entries (p=0): no rule.")
    if rows.n > 1:
        with torch.no_grad():
            keeps = f(call.x.detach()).ndim == call.x.ndim
        rows = reduced_rows(call, _dim_of_statistic(call), keeps)
    return call.apply(
        Euler(f, degree, rows, 1e-9), rule="Norm", rows=rows, gate="gate", nonnegative=True
    )


def _dim_of_statistic(call: Call) -> Any:
    """``dim`` by name or position: the second argument of a variance, the third of a norm."""
    at = 1 if call.name in ("std", "var", "std_mean", "var_mean") else 2
    dim = call.args[at] if len(call.args) > at else None
    dim = call.kwargs.get("dim", call.kwargs.get("axis", dim))
    return None if isinstance(dim, bool) else dim  # var(x, unbiased)


@operation("var_mean", "std_mean")
def var_mean(call: Call) -> Any:
    """Both statistics, each by its own rule."""
    which = torch.var if call.name == "var_mean" else torch.std
    given = dict(call.kwargs)
    rest = list(call.args[1:])
    dim = _dim_of_statistic(call)
    if dim is not None and rest:
        rest.pop(0)
    for name, value in zip(("unbiased", "keepdim"), rest, strict=False):
        given[name] = value
    correction = given.get("correction", int(given.get("unbiased", True)))
    keepdim = bool(given.get("keepdim", False))
    with call.mode:
        spread = which(call.x, dim=dim, correction=correction, keepdim=keepdim)
        return spread, call.x.mean(dim=dim, keepdim=keepdim)


@operation("amax", "amin", "max", "min", "maximum", "minimum", "topk", "sort", "median", "kthvalue",
           "logsumexp", "aminmax", "cummax", "cummin", "fmax", "fmin", "msort")  # fmt: skip
def extremes(call: Call) -> Any:
    """The plain gradient is the rule: winner-take-all, and take-most for log-sum-exp."""
    other = call.kwargs.get("other", call.args[1] if len(call.args) > 1 else None)
    if isinstance(other, Tensor):
        return absorbing_constants(call)
    result = call.func(*call.args, **call.kwargs)
    call.run.note(call.operation, "WinnerTakeAll")
    n = call.run.rows.n
    for t in tensors_in(result):
        if not t.requires_grad:
            continue
        if n == 1:
            rows = call.tag.rows
        elif call.name in _ALONG:
            at, default = _ALONG[call.name]
            dim = call.args[at] if at < len(call.args) else default
            dim = call.kwargs.get("dim", call.kwargs.get("axis", dim))
            reduced_rows(call, dim, True)  # refuses the dimension of the batch
            rows = call.rows_like(t)
        else:
            at = 2 if call.name == "kthvalue" else 1
            dim = call.args[at] if len(call.args) > at else (-1 if at == 2 else None)
            dim = call.kwargs.get("dim", call.kwargs.get("axis", dim))
            rows = reduced_rows(call, dim, t.ndim == call.x.ndim)
        call.run.mark(t, Tag(call.run, rows, nonnegative=call.tag.nonnegative))
    return result


_ALONG = {"topk": (2, -1), "sort": (1, -1), "msort": (1, 0), "cummax": (1, -1), "cummin": (1, -1)}
"""What orders values along a dimension: the position of ``dim`` among the arguments, and its value
where it is not given."""
