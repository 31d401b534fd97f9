"""Nearest neighbours of very many short rows, block by block: memory grows with n, not n^2."""

from __future__ import annotations

import numpy as np
import torch

from xai.relevance import Array

BLOCK_BYTES = 2**27
"""Similarities held at a time, between some rows and all."""

EXACT = 5000
"""Up to so many rows similarities are computed in float64, beyond in float32."""


def nearest(x: Array, k: int, device: torch.device | str | None = None) -> Array:
    """The ``k`` rows most similar to each row ``(n, k)``, itself left out, the nearest first.

    Parameters
    ----------
    x
        Rows of length one ``(n, p)``: there, the largest inner product is the smallest distance.
    k
        How many, at most ``n - 1``.
    device
        Where to compute; a GPU if there is one.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    >>> nearest(x, 2, "cpu").tolist()
    [[1, 3], [3, 0], [3, 1], [1, 2]]
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.float64 if len(x) <= EXACT and device.type != "mps" else torch.float32
    rows = torch.as_tensor(x).to(device, dtype)
    size = max(1, BLOCK_BYTES // (rows.element_size() * len(rows)))
    found = np.empty((len(rows), k), np.int64)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        similar = part @ rows.T
        own = torch.arange(len(part), device=device)
        similar[own, start + own] = -torch.inf
        found[start : start + len(part)] = similar.topk(k, 1).indices.cpu().numpy()
    return found
