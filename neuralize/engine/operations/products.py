"""Products of matrices: with a constant, a linear layer; of two signals, degree two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.engine.operations.attention import Attention
from neuralize.engine.registry import Call, operation
from neuralize.engine.rows import Rows, rows_of
from neuralize.engine.run import replace_tensors, tensors_in
from neuralize.engine.steps import Euler
from neuralize.rules.named import CPLRP

_WITH_ADDEND = {
    "addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addbmm": ("batch1", "batch2"),
    "addmv": ("mat", "vec"),
}  # fmt: skip


@operation("matmul", "bmm", "rmatmul", "mv", "mm", "dot", "inner", "einsum", "tensordot", "baddbmm",
           "addmm", "addbmm", "addmv", "kron", "outer", "vdot", "multi_dot",
           "chain_matmul")  # fmt: skip
def matrix_product(call: Call) -> Any:
    """Products of matrices: with a constant, a linear layer; of two signals, degree two."""
    name = call.name
    if name in _WITH_ADDEND:
        bias, a, b, beta, alpha = call.arguments(
            "input", *_WITH_ADDEND[name], "beta", "alpha", beta=1, alpha=1
        )
        with call.mode:
            if (
                name == "addmm"
                and call.run.tag(a) is not None
                and call.run.tag(b) is None
                and (beta == alpha == 1 and bias.ndim == 1)
            ):
                return F.linear(a, b.t(), bias)
            product = torch.matmul(a, b) if name != "addbmm" else torch.bmm(a, b).sum(0)
            return bias * beta + product * alpha
    if name == "rmatmul":
        with call.mode:
            return torch.matmul(call.args[1], call.args[0])
    if len(call.tracked) == 1:
        return _with_constant(call)
    (a, tag_a), (b, tag_b) = call.tracked[:2]
    rows = _product_rows(call)
    if bool(tag_a.gate) != bool(tag_b.gate):
        gate = tag_a.gate or tag_b.gate
        uniform = gate == "softmax" and not isinstance(call.rule(Attention), CPLRP)
        if not uniform:
            signal = b if tag_a.gate else a
            return call.apply(
                Euler(call.of(signal), 1, rows, 1e-9), [signal], "signal takes all", rows
            )
    both = [t for t, _ in call.tracked]
    unique = list({id(t): t for t in both}.values())
    return call.apply(
        Euler(call.of(*unique), len(call.tracked), rows, 1e-9), unique, "half each", rows,
        gate="gate" if tag_a.gate and tag_b.gate else "",
    )  # fmt: skip


def _with_constant(call: Call) -> Any:
    x, tag = call.tracked[0]
    if call.name == "matmul":
        left, other = call.arguments("input", "other")
        if left is x and isinstance(other, Tensor) and other.ndim == 2:
            with call.mode:
                return F.linear(x, _transposed_weight(call, other))
    rows = _product_rows(call)
    if not tag.gate:
        rule = call.rule(nn.Linear)
        epsilon = getattr(rule, "epsilon", 1e-6)
    else:
        epsilon = 1e-9
    return call.apply(Euler(call.of(x), 1, rows, epsilon), [x], "Epsilon", rows, gate=tag.gate)


def _transposed_weight(call: Call, other: Tensor) -> Tensor:
    """The transposed constant, the same object each time, so that its copies are cached."""
    known = call.run.transposes
    if other not in known:
        with torch.no_grad():
            known[other] = other.t()
        call.run.names.setdefault(id(known[other]), call.run.constant_name(other))
    transposed: Tensor = known[other]
    return transposed


def _product_rows(call: Call) -> Rows:
    """Rows of a product of matrices.

    The leading dimensions of a batched product stay where they are, and ``einsum`` says where its
    letters go. Any other product is told by
    its own linearity: with row numbers for one factor and ones for the others it sums the numbers
    of each entry, and the mean of their squares is the square of their mean only if all are one.
    """
    x, tag = call.tracked[0]
    rows = tag.rows
    if rows.n == 1:
        return rows
    operands = list(tensors_in((call.args, call.kwargs)))
    alike = all(other.rows == rows and t.ndim == x.ndim for t, other in call.tracked)
    if call.name in ("matmul", "bmm") and rows.dim is not None and alike:
        if rows.dim < x.ndim - 2 and x.ndim == max(t.ndim for t in operands):
            return rows
    elif call.name == "einsum" and rows.dim is not None and rows.groups == 1:
        found = _einsum_dim(call, operands)
        if found is not None:
            return Rows(rows.n, found)
    with torch.no_grad():
        shadows = []
        for x, tag in {id(t): (t, tag) for t, tag in call.tracked}.values():
            numbers = tag.rows.shadow(x.shape, x.device).double() + 1
            once = 1 / sum(t is x for t in operands)  # a factor of itself
            count, mean, square = (
                _with_ones(call, x, numbers ** (power * once)) for power in (0, 1, 2)
            )
            mean = mean / count
            if bool(((square / count - mean**2).abs() > 1e-6 * mean**2).any()):
                raise call.mixing()
            shadows.append(mean.round() - 1)
        if any(not torch.equal(shadow, shadows[0]) for shadow in shadows[1:]):
            raise call.mixing()
    return rows_of(shadows[0].int(), rows.n)


def _einsum_dim(call: Call, operands: Sequence[Tensor]) -> int | None:
    """Where the letter of the rows goes, if all signals have it and the equation is plain."""
    equation = call.args[0]
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return None
    terms, _, result = equation.replace(" ", "").partition("->")
    letters = set()
    for t, term in zip(operands, terms.split(","), strict=True):
        tag = call.run.tag(t)
        if tag is not None:
            dim, groups = tag.rows.dim, tag.rows.groups
            letters.add(term[dim] if dim is not None and groups == 1 else "")
    letter = letters.pop()
    return result.index(letter) if not letters and letter and letter in result else None


def _with_ones(call: Call, x: Tensor, value: Tensor) -> Tensor:
    """The product with ``value`` in place of ``x``, and ones for the other factors."""
    swap = lambda t: value if t is x else torch.ones_like(t, dtype=value.dtype)  # noqa: E731
    result: Tensor = call.func(
        *replace_tensors(call.args, swap), **replace_tensors(call.kwargs, swap)
    )
    return result


@operation("bilinear")
def bilinear(call: Call) -> Any:
    """``x W y + b``, as the products and sum it is."""
    a, b, weight, bias = call.arguments("input1", "input2", "weight", "bias")
    with call.mode:
        z = torch.einsum("...i,kij,...j->...k", a, weight, b)
        return z if bias is None else z + bias
