"""Where relevance may travel in a graph network: sums over neighbours, and waypoints.

Walks are sequences of cells, one per layer, along which relevance reaches the input (Schnake et
al., Higher-order explanations of graph neural networks via relevant walks, TPAMI 2021). A
:class:`Route` says which of them count. It never changes a forward value, hence no denominator.

* Parts: edges between different parts hand on nothing. For a partition of the cells, what arrives
  at the input is the relevance of all walks that stay in their part, for every part at once, since
  a walk stays exactly if none of its edges leaves; what the other edges carried is absorbed as
  ``"across parts"``.
* Masks: relevance is multiplied by a number per cell where it passes a waypoint (after each layer
  and each readout): walk relevance with one cell per layer, sGNN-LRP (Xiong et al., ICML 2022) with
  one set for all. What is masked is absorbed as ``"off route"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from graphs.adjacency import Adjacency, _csr
from neuralize.engine.operations.elementwise import SumKind
from neuralize.engine.registry import Call, register_operation
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Shares, Step, Stop, share_of
from neuralize.rules.named import Epsilon, Ignore

ACROSS = "across parts"
OFF = "off route"

Waypoint = tuple[str, int]
"""``("layer", l)``: cells after layer ``l`` (0: the encoder); ``("readout", l)``: the cells as they
are read out there; ``("read", l)``: the images' readouts."""


@dataclass
class Route:
    """Which walks count, and what passed.

    Attributes
    ----------
    parts
        Part of every cell ``(n,)``, or None for no borders.
    masks
        Numbers ``(n,)`` to multiply relevance by, per waypoint.
    watched
        Waypoints at which what arrives is noted.
    seen
        What arrived there, in the shape of the features.
    """

    parts: Tensor | None = None
    masks: dict[Waypoint, Tensor] = field(default_factory=dict)
    watched: frozenset[Waypoint] = frozenset()
    seen: dict[Waypoint, Tensor] = field(default_factory=dict)


_route: ContextVar[Route | None] = ContextVar("route", default=None)


@contextmanager
def following(route: Route) -> Iterator[Route]:
    """Within this context, explanations of graph networks follow ``route``.

    The forward pass and the backward passes both belong inside; masks may change in between.
    """
    token = _route.set(route)
    try:
        yield route
    finally:
        _route.reset(token)


class Aggregation(SumKind):
    """What a sum over neighbours stands for in a composite's map; by default a sum (Norm)."""


def aggregate(h: Tensor, adjacency: Adjacency, cells: Tensor | None = None) -> Tensor:
    """``A h``: the (weighted) sum over neighbours.

    Parameters
    ----------
    h
        Features ``(n, f)``.
    adjacency
        ``(n, n)``.
    cells
        ``(n,)``: which cells these are, where pooling has dropped some.
    """
    if has_torch_function_unary(h):
        found: Tensor = handle_torch_function(aggregate, (h,), h, adjacency, cells)
        return found
    return adjacency @ h


def waypoint(h: Tensor, kind: str, number: int, cells: Tensor | None = None) -> Tensor:
    """``h`` ``(n, f)`` itself, at a place where a :class:`Route` may mask or note relevance."""
    if has_torch_function_unary(h):
        found: Tensor = handle_torch_function(waypoint, (h,), h, kind, number, cells)
        return found
    return h


class Aggregate(Step):
    """``R_j = h_j sum_k A_kj s_k``, ``s = R / stab(A h)``, over edges within parts only."""

    def __init__(
        self, adjacency: Adjacency, parts: Tensor | None, rows: Rows, epsilon: float
    ) -> None:
        self.whole, self.rows, self.epsilon = adjacency, rows, epsilon
        self.parts = parts
        self.sinks = ("stabilizer",) if parts is None else ("stabilizer", ACROSS)
        self.h: Tensor | None = None
        self.z: Tensor | None = None

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.h,) = inputs
        return self.whole.csr @ self.h

    def kept(self, z: Tensor) -> None:
        self.z = z

    def split(self, relevance: Tensor) -> tuple[list[Tensor | None], Shares]:
        assert self.h is not None and self.z is not None
        s, lost = share_of(relevance, self.z, self.epsilon, self.rows)
        shares = {"stabilizer": lost}
        matrix = self.whole
        if self.parts is not None:
            matrix, crossing = split_by_parts(self.whole, self.parts)
            shares[ACROSS] = crossing.share(s, self.h, self.rows)
        own = _product(matrix.transposed, s)
        return [own * self.h], shares

    def release(self) -> None:
        self.h = self.z = None


@dataclass(frozen=True, eq=False)
class Crossing:
    """The entries of an adjacency between different parts, with only the rows that have some."""

    receivers: Tensor
    csr: Tensor

    def share(self, s: Tensor, h: Tensor, rows: Rows) -> Tensor:
        """``sum_k s_k sum_j A_kj h_j`` over the entries between parts."""
        if not len(self.receivers):
            return rows.sum(torch.zeros_like(s[..., :0, :]))
        return rows.sum(s[..., self.receivers, :] * (self.csr @ h))


def split_by_parts(adjacency: Adjacency, parts: Tensor) -> tuple[Adjacency, Crossing]:
    """The entries within parts, and those between them; remembered for the last partition."""
    known = adjacency.__dict__.get("_by_parts")
    if known is not None and known[0] is parts:
        return known[1], known[2]
    inside = parts[adjacency.rows] == parts[adjacency.columns]
    senders, weights = adjacency.columns[~inside], adjacency.weights[~inside]
    receivers, counts = torch.unique_consecutive(adjacency.rows[~inside], return_counts=True)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    crossing = Crossing(receivers, _csr(starts, senders, weights, (len(receivers), adjacency.n)))
    within = adjacency.where(inside)
    adjacency.__dict__["_by_parts"] = (parts, within, crossing)
    return within, crossing


def _product(matrix: Adjacency, s: Tensor) -> Tensor:
    """``A s``, also for a batch of targets ``(k, n, f)`` under ``vmap``."""
    return _BatchedProduct.apply(s, matrix)  # type: ignore[no-any-return,no-untyped-call]


class _BatchedProduct(torch.autograd.Function):
    """A sparse product that vmap may batch: targets become further features."""

    @staticmethod
    def forward(s: Tensor, matrix: Adjacency) -> Tensor:
        return matrix.csr @ s

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, s: Tensor, matrix: Adjacency) -> tuple[Tensor, int]:
        k = info.batch_size
        wide = s.movedim(in_dims[0], 1)
        flat = wide.reshape(wide.shape[0], -1)
        return (matrix.csr @ flat).reshape(-1, k, wide.shape[2]), 1


class Point(Step):
    """Passes relevance, times a mask; notes what arrives."""

    sinks = (OFF,)

    def __init__(self, route: Route, place: Waypoint, cells: Tensor | None, rows: Rows) -> None:
        self.route, self.place, self.cells, self.rows = route, place, cells, rows

    def compute(self, *inputs: Tensor) -> Tensor:
        return inputs[0].view_as(inputs[0])

    def split(self, relevance: Tensor) -> tuple[list[Tensor | None], Shares]:
        if self.place in self.route.watched:
            self.route.seen[self.place] = relevance
        mask = self.route.masks.get(self.place)
        if mask is None:
            return [relevance], {}
        if self.cells is not None:
            mask = mask[self.cells]
        passed = relevance * mask[:, None]
        return [passed], {OFF: self.rows.sum(relevance) - self.rows.sum(passed)}


def _aggregate(call: Call) -> Any:
    h, adjacency, cells = call.arguments("h", "adjacency", "cells")
    rule = call.rule(Aggregation)
    route = _route.get()
    parts = route.parts if route is not None else None
    if parts is not None and cells is not None:
        parts = parts[cells]
    epsilon = rule.epsilon if isinstance(rule, Epsilon) else 1e-6
    if isinstance(rule, Ignore):
        return call.apply(Stop(lambda t: adjacency.csr @ t, 1, call.tag.rows), [h], rule)
    step = Aggregate(adjacency, parts, call.tag.rows, epsilon)
    positive = call.tag.nonnegative and bool((adjacency.weights >= 0).all())
    return call.apply(step, [h], rule, nonnegative=positive)


def _waypoint(call: Call) -> Any:
    h, kind, number, cells = call.arguments("h", "kind", "number", "cells")
    route = _route.get()
    if route is None or not ((kind, number) in route.masks or (kind, number) in route.watched):
        return h
    return call.apply(
        Point(route, (kind, number), cells, call.tag.rows), [h], "Pass",
        nonnegative=call.tag.nonnegative,
    )  # fmt: skip


register_operation(aggregate, _aggregate)
register_operation(waypoint, _waypoint)
