"""Sparse neighbourhoods: products with features in bounded memory, forwards and backwards.

``A[k, j]`` weighs what cell ``j`` sends to cell ``k``; ``(A h)_k = sum_j A_kj h_j``. Stored by rows
(CSR), so a product never forms one message per edge.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from neuralize.errors import InputError


@dataclass(frozen=True, eq=False)
class Adjacency:
    """A sparse matrix ``(n, n)`` by rows.

    Parameters
    ----------
    starts
        ``(n + 1,)``: where each row begins in ``columns``.
    columns
        ``(e,)``: the senders, row by row.
    weights
        ``(e,)``.

    Examples
    --------
    >>> A = Adjacency.from_edges(torch.tensor([[0, 2], [1, 1]]), 3)
    >>> (A @ torch.tensor([[1.0], [2.0], [4.0]])).squeeze(1).tolist()
    [0.0, 5.0, 0.0]
    >>> A.with_self_loops().dense().tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    """

    starts: Tensor
    columns: Tensor
    weights: Tensor

    @classmethod
    def from_edges(
        cls, edges: Tensor, n: int, weights: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Adjacency:
        """From edges ``(2, e)``: ``edges[0]`` sends to ``edges[1]``; an edge given twice adds up.

        Raises
        ------
        InputError
            Edges out of range, or weights of another length.
        """
        if edges.ndim != 2 or edges.shape[0] != 2:
            raise InputError(f"Expected edges (2, e), got {tuple(edges.shape)}.")
        if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= n):
            raise InputError(
                f"Expected edges between cells 0 to {n - 1}, got {int(edges.min())} to "
                f"{int(edges.max())}."
            )
        if weights is not None and weights.shape != edges.shape[1:]:
            raise InputError(
                f"Expected {edges.shape[1]} weights, one per edge, got {tuple(weights.shape)}."
            )
        dtype = dtype or (torch.get_default_dtype() if weights is None else weights.dtype)
        order = torch.argsort(edges[1] * n + edges[0])
        receivers, senders = edges[1][order], edges[0][order]
        if weights is None:
            values = torch.ones(len(order), dtype=dtype, device=edges.device)
        else:
            values = weights[order].to(dtype)
        same = (receivers[1:] == receivers[:-1]) & (senders[1:] == senders[:-1])
        if bool(same.any()):
            first = torch.cat([same.new_ones(1), ~same])
            slot = torch.cumsum(first, 0) - 1
            values = values.new_zeros(int(first.sum())).index_add(0, slot, values)
            receivers, senders = receivers[first], senders[first]
        return cls(_starts(receivers, n), senders, values)

    @property
    def n(self) -> int:
        """Number of cells."""
        return len(self.starts) - 1

    @cached_property
    def rows(self) -> Tensor:
        """The receiver of every entry ``(e,)``."""
        numbers = torch.arange(self.n, device=self.starts.device)
        return torch.repeat_interleave(numbers, self.starts.diff())

    @cached_property
    def csr(self) -> Tensor:
        """As a torch CSR tensor."""
        return _csr(self.starts, self.columns, self.weights, (self.n, self.n))

    @cached_property
    def transposed(self) -> Adjacency:
        """``A^T``; the object itself where it is symmetric."""
        order = torch.argsort(self.columns, stable=True)
        columns, weights = self.rows[order], self.weights[order]
        starts = _starts(self.columns[order], self.n)
        same = torch.equal(starts, self.starts) and torch.equal(columns, self.columns)
        if same and torch.equal(weights, self.weights):
            return self
        return Adjacency(starts, columns, weights)

    def __matmul__(self, h: Tensor) -> Tensor:
        """``A h`` ``(n, f)``, differentiable in ``h``."""
        product: Tensor = _Product.apply(h, self)  # type: ignore[no-untyped-call]
        return product

    def dense(self) -> Tensor:
        """As a plain matrix: for tests and small graphs."""
        return self.csr.to_dense()

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Adjacency:
        """The same on another device, or with weights of another type."""
        if (device is None or torch.device(device) == self.weights.device) and (
            dtype is None or dtype == self.weights.dtype
        ):
            return self
        return Adjacency(
            self.starts.to(device), self.columns.to(device), self.weights.to(device, dtype)
        )

    # -- other matrices ----------------------------------------------------------------------

    def where(self, keep: Tensor) -> Adjacency:
        """Only the entries where ``keep`` ``(e,)``."""
        counts = torch.zeros(self.n + 1, dtype=torch.int64, device=keep.device)
        counts[1:] = torch.cumsum(
            torch.zeros(self.n, dtype=torch.int64, device=keep.device).index_add(
                0, self.rows[keep], torch.ones_like(self.rows[keep])
            ),
            0,
        )
        return Adjacency(counts, self.columns[keep], self.weights[keep])

    def among(self, cells: Tensor) -> Adjacency:
        """The matrix among some cells ``(m,)``, ascending, numbered anew."""
        number = torch.full((self.n,), -1, dtype=torch.int64, device=cells.device)
        number[cells] = torch.arange(len(cells), device=cells.device)
        keep = (number[self.rows] >= 0) & (number[self.columns] >= 0)
        receivers = number[self.rows[keep]]
        return Adjacency(
            _starts(receivers, len(cells)), number[self.columns[keep]], self.weights[keep]
        )

    def with_self_loops(self, weight: float = 1.0) -> Adjacency:
        """``A + weight I``: what GIN sums."""
        return self._remembered(f"+{weight}", lambda: self._with_self_loops(weight))

    def _with_self_loops(self, weight: float) -> Adjacency:
        numbers = torch.arange(self.n, device=self.columns.device)
        edges = torch.stack([torch.cat([self.columns, numbers]), torch.cat([self.rows, numbers])])
        weights = torch.cat([self.weights, self.weights.new_full((self.n,), weight)])
        return Adjacency.from_edges(edges, self.n, weights)

    def mean(self) -> Adjacency:
        """``D^-1 A``: the mean over neighbours (GraphSAGE); zero for a cell without any."""
        return self._remembered("mean", self._mean)

    def _mean(self) -> Adjacency:
        return Adjacency(self.starts, self.columns, self.weights / self._degree()[self.rows])

    def symmetric(self) -> Adjacency:
        """``D^-1/2 (A + I) D^-1/2`` with ``D`` the degrees of ``A + I``: what GCN sums."""
        return self._remembered("symmetric", self._symmetric)

    def _symmetric(self) -> Adjacency:
        looped = self.with_self_loops()
        root = looped._degree().rsqrt()
        weights = looped.weights * root[looped.rows] * root[looped.columns]
        return Adjacency(looped.starts, looped.columns, weights)

    def _degree(self) -> Tensor:
        return self.weights.new_zeros(self.n).index_add(0, self.rows, self.weights)

    def _remembered(self, name: str, make: Any) -> Adjacency:
        known: dict[str, Adjacency] = self.__dict__.setdefault("_made", {})
        if name not in known:
            known[name] = make()
        return known[name]


class _Product(torch.autograd.Function):
    """``A h`` with ``A^T`` kept for the way back (torch would transpose it every time)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, matrix: Adjacency) -> Tensor:
        ctx.matrix = matrix
        return matrix.csr @ h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.transposed.csr @ grads[0], None


def _starts(receivers: Tensor, n: int) -> Tensor:
    """Where each row begins, of receivers in ascending order."""
    return torch.searchsorted(receivers.contiguous(), torch.arange(n + 1, device=receivers.device))


def _csr(starts: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        # torch says once that CSR is in beta state
        warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support.*")
        return torch.sparse_csr_tensor(starts, columns, weights, shape, check_invariants=False)
