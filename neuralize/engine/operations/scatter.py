"""Values gathered into places by an index: sums, means and extremes over groups.

A sum over a group is of degree one, ``z_k = b_k + sum_{i in k} w_i x_i``: ``R_i = w_i x_i s_k``
with ``s = R / stab(z)``; a mean has ``w_i = 1 / n_k``. Of a maximum the winner takes all, and equal
winners share alike. What was in the places before, ``b``, is one term more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuralize.engine.operations.elementwise import SumKind
from neuralize.engine.registry import Call, operation
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Shares, Step, Stop, share_of
from neuralize.errors import NoRuleError
from neuralize.rules.named import Epsilon, Ignore


class GroupSum(Step):
    """``z_k = b_k + sum_{i in k} w_i x_i``.

    Parameters
    ----------
    f
        The operation, of the base and the values.
    base
        What was there before, if it is a constant other than zero; its share stays, by ``name``.
    carries
        Whether base and values carry relevance.
    index
        Place of every value along ``dim``, in the shape of the values.
    weight
        ``w``: a number, or one per value.
    """

    def __init__(
        self, f: Callable[..., Tensor], base: Tensor | None, name: str, carries: tuple[bool, bool],
        values: Tensor, dim: int, index: Tensor, weight: Tensor | float, rows: Rows, epsilon: float,
    ) -> None:  # fmt: skip
        self.f, self.base, self.name, self.carries, self.values = f, base, name, carries, values
        self.dim, self.index, self.weight = dim, index, weight
        self.rows, self.epsilon = rows, epsilon
        self.sinks = ("stabilizer",) if base is None else ("stabilizer", name)
        self.xs: tuple[Tensor, ...] = ()
        self.z: Tensor | None = None

    def compute(self, *inputs: Tensor) -> Tensor:
        self.xs = inputs
        return self.f(*inputs)

    def kept(self, z: Tensor) -> None:
        self.z = z

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        assert self.z is not None
        s, lost = share_of(relevance, self.z, self.epsilon, self.rows)
        shares = {"stabilizer": lost}
        parts: list[Tensor | None] = []
        if self.carries[0]:
            parts.append(s * self.xs[0])
        elif self.base is not None:
            shares[self.name] = self.rows.sum(s * self.base)
        values = self.xs[-1] if self.carries[1] else self.values
        mine = _at(s, self.dim, self.index) * values * self.weight
        if self.carries[1]:
            parts.append(mine)
        else:
            shares[self.name] = self.rows.sum(mine)
        return parts, shares

    def release(self) -> None:
        self.xs, self.z = (), None


class GroupWinner(Step):
    """``z_k`` the largest (smallest) of group ``k``: equal winners share its relevance alike.

    ``name`` is what a constant there before is called; None where values reach every place.
    """

    def __init__(
        self, f: Callable[[Tensor], Tensor], base: Tensor | None, name: str | None, dim: int,
        index: Tensor, rows: Rows,
    ) -> None:  # fmt: skip
        self.f, self.base, self.name, self.dim, self.index = f, base, name, dim, index
        self.rows, self.sinks = rows, () if name is None else (name,)
        self.part = index.new_zeros(0)

    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        z = self.f(x)
        wins = (x == _at(z, self.dim, self.index)).to(x.dtype)
        count = torch.zeros_like(z) if self.base is None else (self.base == z).to(z.dtype)
        count = count.scatter_add(self.dim, self.index, wins)
        self.part = wins / _at(count, self.dim, self.index).clamp(min=1)
        return z

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        r = _at(relevance, self.dim, self.index) * self.part
        if self.name is None:
            return [r], {}
        # places that no value reached, or where what was there before has won
        return [r], {self.name: self.rows.sum(relevance) - self.rows.sum(r)}

    def release(self) -> None:
        self.part = self.part[:0]


@operation("scatter_add", "index_add")
def scatter_add(call: Call) -> Any:
    """A sum into places."""
    source = "src" if call.name == "scatter_add" else "source"
    base, dim, index, values, alpha = call.arguments(
        "input", "dim", "index", source, "alpha", alpha=1
    )
    return _sum(call, base, int(dim) % base.ndim, index, values, float(alpha))


@operation("scatter_reduce", "index_reduce")
def scatter_reduce(call: Call) -> Any:
    """Sum, mean, maximum or minimum into places."""
    source = "src" if call.name == "scatter_reduce" else "source"
    base, dim, index, values, reduce, include = call.arguments(
        "input", "dim", "index", source, "reduce", "include_self", include_self=True
    )
    dim = int(dim) % base.ndim
    if reduce == "sum" and include:
        return _sum(call, base, dim, index, values, 1.0)
    if call.run.tag(base) is not None or (reduce == "mean" and include):
        raise NoRuleError(
            f"{call.operation} ({reduce}) in {call.run.place} meets what is there already: no "
            "rule. Write into constants with include_self=False, or as a sum and a division."
        )
    if reduce not in ("sum", "mean", "amax", "amin"):
        raise NoRuleError(f"{call.operation} of a {reduce!r} in {call.run.place}: no rule.")
    full = _full(call, index, values, dim)
    written = torch.zeros_like(base).scatter_add(dim, full, torch.ones_like(values).detach())
    if reduce in ("sum", "mean"):
        # what was there before counts only where nothing is written
        weight = 1 / _at(written, dim, full) if reduce == "mean" else 1.0
        return _sum(call, base.masked_fill(written > 0, 0), dim, index, values, weight)
    rows = _rows(call, base, dim)
    before = base.detach() if include else None
    name = call.run.constant_name(base) if include or not bool(written.all()) else None
    step = GroupWinner(call.of(values), before, name, dim, full, rows)
    positive = call.tag.nonnegative and bool((base >= 0).all())
    return call.apply(
        step, [values], "WinnerTakeAll", rows, gate=call.tag.gate, nonnegative=positive
    )


@operation("segment_reduce", "_segment_reduce")
def segment_reduce(call: Call) -> Any:
    """Sum, mean, maximum or minimum of consecutive entries along the first dimension."""
    x, reduce, lengths, _, offsets, axis, _, initial = call.arguments(
        "data", "reduce", "lengths", "indices", "offsets", "axis", "unsafe", "initial", axis=0
    )
    if offsets is not None:
        lengths = offsets.diff(dim=-1)
    kind = {"max": "amax", "min": "amin"}.get(reduce, reduce)
    known = kind in ("sum", "mean", "amax", "amin")
    if lengths is None or lengths.ndim != 1 or axis != 0 or initial or not known:
        raise NoRuleError(
            f"{call.operation} in {call.run.place} with these options has no rule; known are sum, "
            "mean, max and min along the first dimension. Use scatter_reduce."
        )
    places = torch.arange(len(lengths), device=x.device).repeat_interleave(lengths)
    full = places.reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
    empty = torch.zeros(len(lengths), *x.shape[1:], dtype=x.dtype, device=x.device)
    if initial is None and kind in ("amax", "amin"):
        empty.fill_(-torch.inf if kind == "amax" else torch.inf)
    if initial is None and kind == "mean":
        empty = empty.masked_fill((lengths == 0).reshape(-1, *[1] * (x.ndim - 1)), torch.nan)
    with call.mode:
        return empty.scatter_reduce(0, full, x, kind, include_self=False)


def _sum(
    call: Call, base: Tensor, dim: int, index: Tensor, values: Tensor, weight: Tensor | float
) -> Tensor:
    run = call.run
    before, tag = run.tag(base), run.tag(values)
    operands = [t for t, known in ((base, before), (values, tag)) if known is not None]
    if not operands:
        raise NoRuleError(f"{call.operation} in {run.place} has a signal for an index: no rule.")
    rows = _rows(call, base, dim)
    rule = call.rule(SumKind)
    if isinstance(rule, Ignore):
        return call.apply(Stop(call.of(*operands), len(operands), rows), operands, rule, rows)
    constant, name = None, "constants"
    if tag is None:
        constant, name = values.detach(), run.constant_name(values)
    elif before is None and bool((base != 0).any()):
        constant, name = base.detach(), run.constant_name(base)
    step = GroupSum(
        call.of(*operands), constant, name, (before is not None, tag is not None),
        values.detach(), dim, _full(call, index, values, dim), weight, rows,
        rule.epsilon if isinstance(rule, Epsilon) else 1e-6,
    )  # fmt: skip
    positive = bool(torch.as_tensor(weight).ge(0).all()) and all(
        known.nonnegative if known is not None else bool((t >= 0).all())
        for t, known in ((base, before), (values, tag))
    )
    gates = [known.gate for known in (before, tag) if known is not None]
    return call.apply(
        step, operands, rule, rows, nonnegative=positive, gate=gates[0] if all(gates) else ""
    )


def _at(z: Tensor, dim: int, index: Tensor) -> Tensor:
    """``z`` at the place of every value."""
    steps = index.stride()
    if index.numel() and all(step == 0 for d, step in enumerate(steps) if d != dim):
        # one place for a whole slice of values: much faster than place by place
        line = index[tuple(slice(None) if d == dim else 0 for d in range(index.ndim))]
        return z.index_select(dim, line)
    return z.gather(dim, index)


def _full(call: Call, index: Tensor, values: Tensor, dim: int) -> Tensor:
    """The index in the shape of the values."""
    if index.shape == values.shape:
        return index
    if index.ndim == 1 and len(index) == values.shape[dim]:
        shape = [1] * values.ndim
        shape[dim] = -1
        return index.reshape(shape).expand_as(values)
    raise NoRuleError(
        f"{call.operation} in {call.run.place} has an index of shape {tuple(index.shape)} for "
        f"values of shape {tuple(values.shape)}: no rule for a part of the values. Select it first."
    )


def _rows(call: Call, base: Tensor, dim: int) -> Rows:
    """Rows of the result: groups lie along another dimension than theirs."""
    for t, _ in call.tracked:
        call.require_apart([dim], t)
    return call.tag.rows if call.run.rows.n == 1 else call.rows_like(base)
