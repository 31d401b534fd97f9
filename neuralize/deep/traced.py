"""Operations with rules of their own inside a network that the engine traces.

Outside an explanation both are what they compute; inside one the engine meets them by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from neuralize.engine.registry import Call, register_operation
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Shares, Step
from neuralize.propagate import Layer, propagating


def held_constant(x: Tensor, name: str) -> Tensor:
    """``x`` itself; in an explanation its relevance stays here, absorbed by that name.

    Examples
    --------
    >>> held_constant(torch.tensor([3.0]), "log-determinant").tolist()
    [3.0]
    """
    if has_torch_function_unary(x):
        held: Tensor = handle_torch_function(held_constant, (x,), x, name)
        return held
    return x.clone()


def layers_with_rules(x: Tensor, layers: Sequence[Layer], absorbs: Sequence[str]) -> Tensor:
    """Layers of :mod:`neuralize.layers` one after the other, each with its own rule.

    Parameters
    ----------
    x
        ``(n, q)``.
    absorbs
        Names of everything that they may absorb.
    """
    if has_torch_function_unary(x):
        given = (x, layers, absorbs)
        found: Tensor = handle_torch_function(layers_with_rules, (x,), *given)
        return found
    for layer in layers:
        x = layer(x)
    return x


class _Held(Step):
    def __init__(self, rows: Rows, name: str) -> None:
        self.rows, self.name = rows, name
        self.sinks = (name,)

    def compute(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clone()

    def split(self, relevance: Tensor) -> tuple[list[Tensor | None], Shares]:
        return [None], {self.name: self.rows.sum(relevance)}


class _Layers(Step):
    def __init__(self, layers: Sequence[Layer], absorbs: Sequence[str]) -> None:
        self.layers = nn.Sequential(*layers)
        self.sinks = tuple(absorbs)
        self.x: Tensor | None = None

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.x,) = inputs
        z: Tensor = self.layers(self.x)
        return z

    def split(self, relevance: Tensor) -> tuple[list[Tensor | None], Shares]:
        assert self.x is not None
        with torch.enable_grad(), propagating() as ledger:
            leaf = self.x.detach().requires_grad_()
            (values,) = torch.autograd.grad(self.layers(leaf), leaf, relevance)
        return [values], ledger.shares

    def release(self) -> None:
        self.x = None


def _hold(call: Call) -> Any:
    _, name = call.arguments("x", "name")
    return call.apply(_Held(call.tag.rows, name), rule="absorbs")


def _run(call: Call) -> Any:
    _, layers, absorbs = call.arguments("x", "layers", "absorbs")
    return call.apply(_Layers(layers, absorbs), rule="the layers' own")


register_operation(held_constant, _hold)
register_operation(layers_with_rules, _run)
