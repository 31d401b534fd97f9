r"""Distances to a memory bank, and how the LRP engine carries relevance through them.

With ``d = z - b``, a force ``f`` (``d`` itself, ``S^{-1} d``, or ``sign(d) |d|^{p-1}``) and
``h = sum_i d_i f_i``, relevance ``R`` of ``h`` belongs to the coordinates of ``d`` in proportion to
``d_i f_i`` (Euler; the root is ``z = b``). Where ``z`` is the input, that is its relevance. Where
``z`` are features, or the input is behind a virtual layer, two ways lead on:

- ``"euler"``: ``d_i f_i = z_i f_i - b_i f_i`` is a sum, of which the encoder's part goes on and the
  bank's stays with the bank, by name. Nothing is divided by a feature, so nothing explodes;
- ``"all"``: ``d_i f_i`` goes on as a whole. A feature that is near zero, where the bank's is not,
  then hands on much relevance from few activations, which amplifies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from neuralize.engine.registry import Call, register_operation
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Shares, Step
from neuralize.layers.distances import COINCIDENT

Split = Literal["euler", "all"]
SPLITS = ("euler", "all")

BLOCK_NUMBERS = 2**23
"""Distances in the largest temporary of a search: 32 MiB in float32."""

PAIR_NUMBERS = 2**19
"""Numbers in a block of differences, which are made and used up: they should stay in the cache."""

ROUNDING = 32 * torch.finfo(torch.float32).eps
"""A bank row this near to a point, relative to their size, is the same point."""

BANK_BLOCK = 8192
"""Bank rows compared at a time: a matrix product wants no more."""


def nearest(z: Tensor, bank: Tensor, k: int = 1) -> Tensor:
    """Numbers of the ``k`` nearest rows of ``bank`` ``(m, d)`` to ``z`` ``(n, d)``, nearest first.

    The bank is streamed in blocks, so that memory does not grow with it.

    Examples
    --------
    >>> nearest(torch.tensor([[2.0]]), torch.tensor([[0.0], [1.0], [5.0]]), 2).tolist()
    [[1, 0]]
    """
    if has_torch_function_unary(z):
        rows: Tensor = handle_torch_function(nearest, (z,), z, bank, k)
        return rows
    z = z.detach()
    center = bank[:BANK_BLOCK].mean(0)  # against cancellation
    wide = max(k, min(BANK_BLOCK, len(bank)))
    found = []
    for part in (z - center).split(max(1, BLOCK_NUMBERS // wide)):
        best = part.new_empty((len(part), 0))
        index = torch.empty((len(part), 0), dtype=torch.long, device=z.device)
        for start in range(0, len(bank), wide):
            block = bank[start : start + wide] - center
            h = torch.addmm(torch.linalg.vecdot(block, block), part, block.T, alpha=-2)
            if k == 1:
                values, rows = h.min(1, keepdim=True)
            else:
                values, rows = h.topk(min(k, h.shape[1]), 1, largest=False)
            best, index = torch.cat([best, values], 1), torch.cat([index, rows + start], 1)
            if best.shape[1] > k:
                best, order = best.topk(k, 1, largest=False)
                index = index.gather(1, order)
        found.append(index)
    return torch.cat(found)


def form(
    z: Tensor, reference: Tensor, precision: Tensor | None = None, split: Split = "euler"
) -> Tensor:
    """``h = d^T S^{-1} d`` with ``d = z - reference``, over the last dimension.

    Parameters
    ----------
    z, reference
        ``(n, ..., d)``, broadcast.
    precision
        ``S^{-1}`` ``(P, d, d)`` for ``z`` ``(n, P, d)``; the identity when missing.
    split
        See the module.

    Examples
    --------
    >>> form(torch.tensor([[2.0, 3.0]]), torch.tensor([1.0, 1.0])).tolist()
    [5.0]
    """
    if has_torch_function_unary(z):
        found: Tensor = handle_torch_function(form, (z,), z, reference, precision, split)
        return found
    d = z - reference
    h: Tensor = torch.linalg.vecdot(d, _force(d, precision))
    return h


def _force(d: Tensor, precision: Tensor | None) -> Tensor:
    return d if precision is None else torch.einsum("npi,pij->npj", d, precision)


class FormStep(Step):
    """Relevance through :func:`form`; see the module."""

    def __init__(
        self, reference: Tensor, precision: Tensor | None, whole: bool, name: str, rows: Rows
    ) -> None:
        self.reference, self.precision, self.whole = reference, precision, whole
        self.name, self.rows = name, rows
        self.sinks = (name, COINCIDENT)

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.z,) = inputs
        return form(self.z, self.reference, self.precision)

    def kept(self, z: Tensor) -> None:
        self.h = z

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        size = torch.linalg.vector_norm(self.z, dim=-1)
        w, shares = _weights(relevance, self.h, size, 2, self.rows)
        d = self.z - self.reference
        force = w.unsqueeze(-1) * _force(d, self.precision)
        if self.whole:
            return [(force * d).sum_to_size(self.z.shape)], shares
        shares[self.name] = -self.rows.sum((force * self.reference).sum(-1))
        return [(force * self.z).sum_to_size(self.z.shape)], shares


def _weights(
    relevance: Tensor, h: Tensor, size: Tensor, p: float, rows: Rows
) -> tuple[Tensor, Shares]:
    """``R / h``, and what pairs absorb that coincide: they have no direction.

    ``size`` is the point's ``p``-norm, and nearly that of a bank row that coincides with it. Banks
    are stored in float32, so nothing nearer than its rounding can be told from the same point.
    """
    same = h <= 2 * (ROUNDING * size) ** p
    w = (relevance / h.masked_fill(same, 1)).masked_fill(same, 0)
    if not bool(same.any()):
        return w, {}
    lost = torch.where(same, relevance, torch.zeros_like(relevance))
    return w, {COINCIDENT: rows.sum(lost)}


def _form(call: Call) -> Any:
    z, reference, precision, split = call.arguments("z", "reference", "precision", "split",
                                                    precision=None, split="euler")  # fmt: skip
    rows = call.rows_like(z.new_empty(()).expand(torch.broadcast_shapes(z.shape, reference.shape)))
    whole = split == "all" or call.run.is_explained(call.tag)
    step = FormStep(reference, precision, whole, call.run.constant_name(reference), rows)
    rule = "distance" if whole else "distance, Euler split"
    return call.apply(step, [z], rule, rows, nonnegative=True)


def power_distances(
    x: Tensor, bank: Tensor, p: float = 2.0, metric: Callable[[Tensor], Tensor] | None = None,
    bank_force: Tensor | None = None, split: Split = "euler",
) -> Tensor:  # fmt: skip
    """``h_j = ||x - u_j||_p^p`` or ``(x - u_j)^T M (x - u_j)``, ``(n, d) -> (n, m)``, in blocks.

    Parameters
    ----------
    x, bank
        ``(n, d)`` and ``u`` ``(m, d)``.
    p
        Order, where there is no metric.
    metric, bank_force
        ``x -> M x``, linear and symmetric, and ``M u_j`` ``(m, d)``.
    split
        See the module.

    Examples
    --------
    >>> power_distances(torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 1.0]]), 4.0).tolist()
    [[17.0]]
    """
    if has_torch_function_unary(x):
        given = (x, bank, p, metric, bank_force, split)
        found: Tensor = handle_torch_function(power_distances, (x,), *given)
        return found
    pulled = None if metric is None else metric(x)
    found_rows = []
    for some in _row_blocks(x):
        parts = _pairs(x, bank, p, pulled, bank_force, some)
        found_rows.append(torch.cat([torch.linalg.vecdot(d, f) for d, f, _ in parts], 1))
    return torch.cat(found_rows)


def _row_blocks(x: Tensor) -> list[slice]:
    """Few rows at a time where they are wide, so that a block holds several of the bank's."""
    size = max(1, PAIR_NUMBERS // (8 * max(1, x.shape[1])))
    return [slice(start, start + size) for start in range(0, len(x), size)]


def _pairs(
    x: Tensor, bank: Tensor, p: float, pulled: Tensor | None, bank_force: Tensor | None, some: slice
) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Differences and forces ``(rows, block, d)`` to every block of the bank, and the block."""
    x = x[some]
    pulled = None if pulled is None else pulled[some]
    size = max(1, PAIR_NUMBERS // max(1, x.numel()))
    for start in range(0, len(bank), size):
        block = slice(start, start + size)
        d = x.unsqueeze(1) - bank[block]
        if pulled is not None and bank_force is not None:
            force = pulled.unsqueeze(1) - bank_force[block]
        elif p == 2:
            force = d
        else:
            force = d.sign() if p == 1 else d.abs().pow_(p - 1).mul_(d.sign())
        yield d, force, block


class PowerStep(Step):
    """Relevance through :func:`power_distances`; see the module."""

    def __init__(self, given: tuple[Any, ...], whole: bool, name: str, rows: Rows) -> None:
        self.bank, self.p, self.metric, self.bank_force = given
        self.whole, self.name, self.rows = whole, name, rows
        self.sinks = (name, COINCIDENT)

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.x,) = inputs
        return power_distances(self.x, self.bank, self.p, self.metric, self.bank_force)

    def kept(self, z: Tensor) -> None:
        self.h = z

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        size = torch.linalg.vector_norm(self.x, self.p, dim=1, keepdim=True)
        w, shares = _weights(relevance, self.h, size, self.p, self.rows)
        pulled = None if self.metric is None else self.metric(self.x)
        passed, kept = [], []
        for some in _row_blocks(self.x):
            x = self.x[some]
            r, own = torch.zeros_like(x), torch.zeros_like(x[:, 0])
            for d, force, block in _pairs(self.x, self.bank, self.p, pulled, self.bank_force, some):
                share = w[some, block]
                if self.whole:
                    r = r + torch.einsum("nm,nmd->nd", share, d * force)
                    continue
                r = r + torch.einsum("nm,nmd->nd", share, force) * x
                own = own - (share * torch.einsum("nmd,md->nm", force, self.bank[block])).sum(1)
            passed.append(r)
            kept.append(own)
        if not self.whole:
            shares[self.name] = self.rows.sum(torch.cat(kept))
        return [torch.cat(passed)], shares


def _power(call: Call) -> Any:
    x, *given, split = call.arguments("x", "bank", "p", "metric", "bank_force", "split",
                                      p=2.0, split="euler")  # fmt: skip
    whole = split == "all" or call.run.is_explained(call.tag)
    rows = call.rows_like(x)
    step = PowerStep(tuple(given), whole, call.run.constant_name(given[0]), rows)
    rule = "distance" if whole else "distance, Euler split"
    return call.apply(step, [x], rule, rows, nonnegative=True)


register_operation(form, _form)
register_operation(power_distances, _power)
