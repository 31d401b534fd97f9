"""Relevance by dense Jacobians of a function in which what the rules hold constant is detached.

With vanishing stabilizers every rule of the Epsilon composite is input times gradient of such a
function, and a constant's share is the constant times the gradient with respect to it. So a case
gives its function twice: as a model writes it, and with the held parts detached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neuralize.composites import AVERAGES, NORMALIZATIONS, Composite, SumKind, epsilon
from neuralize.lrp import LRP
from neuralize.rules.named import Norm

TINY = 1e-14

EXACT: Composite = epsilon(TINY).with_rules(
    layer_map=[((nn.BatchNorm2d, SumKind, *AVERAGES, *NORMALIZATIONS), Norm(TINY))]
)
"""Epsilon everywhere, with stabilizers too small to matter."""

Function = Callable[..., Tensor]


def held(t: Tensor) -> Tensor:
    """What a rule holds constant."""
    return t.detach()


def half(t: Tensor) -> Tensor:
    """A product of two signals, of degree two: half of its gradient."""
    return t / 2 + (t / 2).detach()


def passed(x: Tensor, y: Tensor) -> Tensor:
    """``y`` with the relevance of ``x``, entry by entry; ``x`` has no zeros."""
    return x * (y / x).detach()


@dataclass
class Case:
    """``model(x, **constants, **factors)`` as written, and ``oracle`` with the held parts detached.

    ``model`` gets both as the parameters of a module. Constants are expected to absorb their share,
    factors, which only scale, are not. ``oracle`` takes further constants, ``also``, that are
    numbers in the model's code, reported under ``constants``.
    """

    model: Function
    oracle: Function | None = None
    shape: tuple[int, ...] = (3, 6)
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    factors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    also: dict[str, Any] = field(default_factory=dict)


class Written(nn.Module):
    """A function as the forward of a module with the constants as its parameters.

    A linear layer comes first: offsets of the input itself would be units, and no evidence.
    """

    def __init__(self, function: Function, constants: dict[str, Tensor], width: int) -> None:
        super().__init__()
        self.function = function
        self.values = nn.ParameterDict(constants)
        self.mix = nn.Linear(width, width, bias=False, dtype=torch.float64)
        self.mix.weight.data = mixing(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.mix(x), **self.values)


def mixing(width: int) -> Tensor:
    """The weight of the linear layer before every case."""
    return torch.eye(width, dtype=torch.float64) + random(99, width, width) / 3


def random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def by_engine(
    model: nn.Module, x: Tensor, weights: Tensor, composite: Composite = EXACT
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, relevance and absorbed shares for the evidence ``weights * output``."""
    trace = LRP(model, composite).trace(x)
    values, absorbed = trace.relevance(weights * trace.output)
    return trace.output, values, absorbed


def by_jacobian(
    function: Function, x: Tensor, weights: Tensor, constants: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Relevance of ``x`` and, per row, of every constant."""
    names = list(constants)

    def evidence(x: Tensor, *values: Tensor) -> Tensor:
        out = function(x, **dict(zip(names, values, strict=True)))
        return (weights * out).reshape(len(x), -1).sum(1)

    found = torch.autograd.functional.jacobian(evidence, (x, *constants.values()))
    n = len(x)
    own = torch.stack([found[0][i, i] for i in range(n)])
    assert all(not found[0][i, j].any() for i in range(n) for j in range(n) if i != j)
    own = own * x
    shares = {
        name: (jacobian * constants[name]).reshape(n, -1).sum(1)
        for name, jacobian in zip(names, found[1:], strict=True)
    }
    return own, shares
