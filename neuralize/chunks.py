"""Bounded memory: rows go through a network in chunks, and their results are put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""Rows are processed in chunks whose ``(rows, support points)`` matrix stays below this size."""

CACHE_BYTES = 4 * 2**20
"""Where rows are narrow, chunks stay below this size: temporaries that fit into the cache cost a
fraction of those that do not. Matrix products want a thousand rows all the same."""

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def rows_per_chunk(row_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Rows to process together where each takes ``row_bytes``.

    Examples
    --------
    >>> rows_per_chunk(400), rows_per_chunk(80_000), rows_per_chunk(10**9)
    (10485, 838, 1)
    """
    return max(1, min(chunk_bytes // row_bytes, max(1024, CACHE_BYTES // row_bytes)))


def room_for(x: Tensor) -> Tensor:
    """An empty tensor like ``x``.

    On the CPU numpy allocates it, which asks the kernel for huge pages: touching fresh memory for
    the first time otherwise costs as much as a matrix product.
    """
    if x.device.type == "cpu" and x.dtype in _NUMPY:
        return torch.from_numpy(np.empty(x.shape, _NUMPY[x.dtype]))
    return torch.empty_like(x)


def join(parts: Sequence[Tensor]) -> Tensor:
    """The chunks as one tensor, without a copy where there is one chunk."""
    joined: Tensor = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return joined
