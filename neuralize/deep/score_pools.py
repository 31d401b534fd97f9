"""From distances to one score: roots, soft extremes, and gates, each with its rule in the engine.

A function here is an ordinary differentiable one. Under the LRP engine, which meets it as it meets
torch's own, it carries relevance by the rule that its docstring names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_unary

from neuralize.engine.operations.pooling import reduced_rows
from neuralize.engine.registry import Call, register_operation
from neuralize.engine.steps import Shares, Step


def soft_max(x: Tensor, *, dim: int, stiffness: float) -> Tensor:
    """``(1/t) log mean_j exp(t x_j)`` along ``dim``; a soft minimum where ``t < 0``.

    Its plain gradient is the rule, take-most: ``R_j = p_j R`` with ``p`` the softmax of ``t x``.

    Examples
    --------
    >>> round(soft_max(torch.tensor([1.0, 1.0]), dim=0, stiffness=-2.0).item(), 6)
    1.0
    """
    if has_torch_function_unary(x):
        found: Tensor = handle_torch_function(soft_max, (x,), x, dim=dim, stiffness=stiffness)
        return found
    count = torch.tensor(float(x.shape[dim]), dtype=x.dtype, device=x.device)
    pooled: Tensor = torch.logsumexp(stiffness * x, dim) - count.log()
    return pooled / stiffness


def root(h: Tensor) -> Tensor:
    """Square root whose slope at zero is zero.

    Examples
    --------
    >>> root(torch.tensor([4.0, 0.0])).tolist()
    [2.0, 0.0]
    """
    if has_torch_function_unary(h):
        found: Tensor = handle_torch_function(root, (h,), h)
        return found
    zero = h == 0
    return h.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def excess(x: Tensor, threshold: float) -> Tensor:
    """What exceeds a threshold, entry by entry; relevance passes.

    Examples
    --------
    >>> excess(torch.tensor([1.0, 3.0]), 2.0).tolist()
    [0.0, 1.0]
    """
    if has_torch_function_unary(x):
        found: Tensor = handle_torch_function(excess, (x,), x, threshold)
        return found
    return torch.relu(x - threshold)


def take_most(x: Tensor, *, dim: int, stiffness: float) -> Tensor:
    """The largest entry along ``dim``; rule ``R_j = p_j R``, ``p`` the softmax of ``t x``.

    With infinite ``t`` the winner takes all.

    Examples
    --------
    >>> take_most(torch.tensor([1.0, 3.0]), dim=0, stiffness=1.0).item()
    3.0
    """
    if has_torch_function_unary(x):
        found: Tensor = handle_torch_function(take_most, (x,), x, dim=dim, stiffness=stiffness)
        return found
    return x.amax(dim)


class TakeMostStep(Step):
    """Relevance through :func:`take_most`."""

    def __init__(self, dim: int, stiffness: float) -> None:
        self.dim, self.stiffness = dim, stiffness

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.x,) = inputs
        return self.x.amax(self.dim)

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        if math.isinf(self.stiffness):
            winner = self.x.argmax(self.dim, keepdim=True)
            p = torch.zeros_like(self.x).scatter_(self.dim, winner, 1)
        else:
            p = torch.softmax(self.stiffness * self.x, self.dim)
        return [p * relevance.unsqueeze(self.dim)], {}


def _take_most(call: Call) -> Any:
    dim, stiffness = call.kwargs["dim"], call.kwargs["stiffness"]
    rows = reduced_rows(call, dim, False)
    rule = f"TakeMost({stiffness:g})"
    return call.apply(TakeMostStep(dim, stiffness), rule=rule, rows=rows)


def as_gate(f: Callable[..., Tensor], *args: Any) -> Tensor:
    """``f(*args)``, which under the engine is held constant.

    Examples
    --------
    >>> as_gate(torch.exp, torch.zeros(1)).tolist()
    [1.0]
    """
    if has_torch_function(args):
        found: Tensor = handle_torch_function(as_gate, args, f, *args)
        return found
    return f(*args)


def _held_constant(call: Call) -> Any:
    with torch.no_grad():
        return call.func(*call.args)


register_operation(soft_max, "logsumexp")
register_operation(root, "sqrt")
register_operation(excess, "relu")
register_operation(take_most, _take_most)
register_operation(as_gate, _held_constant)
