"""Which row of the batch each entry of a tensor belongs to.

Absorbed shares are reported per row, and networks fold the batch into other dimensions (windows,
heads, tokens first). Views are therefore followed on a shadow that holds the row's number; almost
always it costs nothing, because the shadow of a tensor is an expanded ``arange``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows ``0 .. n-1`` of a batch, within a tensor.

    Attributes
    ----------
    n
        Number of rows.
    dim
        Dimension that counts the rows; ``None`` where ``index`` says it entry by entry.
    groups
        For ``dim == 0``: consecutive entries per row, so that the size is ``n * groups``.
    index
        Row of every entry, in the tensor's shape.

    Examples
    --------
    >>> rows = Rows(2)
    >>> rows.sum(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [3.0, 7.0]
    >>> rows.follow(lambda t: t.T, (2, 3)).sum(torch.ones(3, 2)).tolist()
    [3.0, 3.0]
    """

    n: int
    dim: int | None = 0
    groups: int = 1
    index: Tensor | None = None

    def sum(self, values: Tensor) -> Tensor:
        """Sum of ``values`` for every row ``(n,)``."""
        if self.n == 1:
            return values.sum().reshape(1)
        if self.dim == 0:
            return values.reshape(self.n, -1).sum(1)
        if self.dim is not None:
            return values.movedim(self.dim, 0).reshape(self.n, -1).sum(1)
        assert self.index is not None
        flat, index = values.reshape(-1), self.index.reshape(-1)
        return torch.zeros(self.n, dtype=values.dtype, device=values.device).index_add(
            0, index.to(values.device), flat
        )

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum of ``a * b`` for every row ``(n,)``, without forming the product where it can."""
        if self.dim == 0 and a.shape == b.shape and a.numel():
            dot: Tensor = torch.linalg.vecdot(a.reshape(self.n, -1), b.reshape(self.n, -1))
            return dot
        return self.sum(a * b)

    def fits(self, shape: torch.Size | tuple[int, ...]) -> bool:
        """Whether a tensor of ``shape`` can have these rows."""
        if self.n == 1:
            return True
        if self.index is not None:
            return tuple(self.index.shape) == tuple(shape)
        return (
            self.dim is not None
            and len(shape) > self.dim
            and (shape[self.dim] == self.n * self.groups)
        )

    def agree(self, other: Rows, shape: torch.Size | tuple[int, ...]) -> bool:
        """Whether both say the same of a tensor of ``shape``."""
        if self.n == 1 or (self.dim is not None and self == other):
            return True
        return torch.equal(self.shadow(shape).cpu(), other.shadow(shape).cpu())

    def varies(self, dims: Iterable[int], shape: torch.Size | tuple[int, ...]) -> bool:
        """Whether entries along any of ``dims`` belong to different rows."""
        if self.n == 1:
            return False
        along = {d % max(len(shape), 1) for d in dims}
        if self.dim is not None:
            return self.dim in along
        index = self.index
        assert index is not None
        return any(bool((index != index.narrow(d, 0, 1)).any()) for d in along if shape[d] > 1)

    def shadow(
        self, shape: torch.Size | tuple[int, ...], device: torch.device | None = None
    ) -> Tensor:
        """Row of every entry of a tensor of ``shape``, expanded where possible."""
        if self.index is not None:
            return self.index
        assert self.dim is not None
        numbers = torch.arange(self.n, dtype=torch.int32, device=device)
        if self.groups > 1:
            numbers = numbers.repeat_interleave(self.groups)
        sizes = [1] * len(shape)
        sizes[self.dim] = self.n * self.groups
        return numbers.reshape(sizes).expand(*shape)

    def broadcast(
        self, shape: torch.Size, wide: torch.Size, device: torch.device | None = None
    ) -> Rows:
        """Rows of a tensor of ``shape`` that is broadcast to ``wide``."""
        if self.n == 1 or shape == wide:
            return self
        if self.dim is not None and self.groups == 1:
            return Rows(self.n, self.dim + len(wide) - len(shape))
        return self.follow(lambda t: t.expand(wide), shape, device)

    def follow(
        self,
        view: Callable[[Tensor], Any],
        shape: torch.Size | tuple[int, ...],
        device: torch.device | None = None,
    ) -> Rows:
        """Rows of ``view(t)`` for a tensor ``t`` of ``shape`` with these rows."""
        if self.n == 1:
            return self
        return rows_of(view(self.shadow(shape, device)), self.n)


def rows_of(shadow: Tensor, n: int) -> Rows:
    """The simplest description of a shadow."""
    moving = [d for d in range(shadow.ndim) if shadow.shape[d] > 1 and shadow.stride(d) != 0]
    if len(moving) == 1 and shadow.shape[moving[0]] == n and shadow.numel():
        # expanded in every other dimension, so one line tells all
        line = shadow[tuple(slice(None) if d == moving[0] else 0 for d in range(shadow.ndim))]
        if _is_arange(line, 0, n):
            return Rows(n, moving[0])
    if shadow.ndim and shadow.shape[0] % n == 0 and shadow.numel():
        grouped = shadow.reshape(n, -1)
        numbers = torch.arange(n, dtype=grouped.dtype, device=grouped.device)
        if bool((grouped == numbers[:, None]).all()):
            return Rows(n, 0, shadow.shape[0] // n)
    for dim in range(1, shadow.ndim):
        if shadow.shape[dim] == n and _is_arange(shadow, dim, n):
            return Rows(n, dim)
    return Rows(n, None, 1, shadow)


def _is_arange(shadow: Tensor, dim: int, n: int) -> bool:
    numbers = torch.arange(n, dtype=shadow.dtype, device=shadow.device)
    sizes = [1] * shadow.ndim
    sizes[dim] = n
    return bool((shadow == numbers.reshape(sizes)).all())
