"""Greedy k-centre coreset: few patches that leave none of the others far from them.

Sener and Savarese, ICLR 2018; for PatchCore, Roth et al., CVPR 2022, algorithm 1. From a random
start the patch farthest from the chosen ones comes next: a 2-approximation of the smallest covering
radius. Distances are taken in a random projection, which keeps them up to a few per cent
(Johnson and Lindenstrauss 1984).
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from neuralize.errors import InputError

BLOCK = 2**16
"""Rows whose distances are updated together."""


def greedy_coreset(
    x: Tensor, size: int, *, seed: int = 0, projection: int | None = 128, progress: bool = True
) -> Tensor:
    """Row numbers ``(size,)`` of a coreset of ``x`` ``(n, d)``, in the order they were chosen.

    Parameters
    ----------
    x
        Rows.
    size
        How many to choose, 1 to ``n``.
    seed
        Of the start and of the projection.
    projection
        Width of the Gaussian random projection; not taken where rows are no wider, or for None.
    progress
        Whether to show a bar when it takes longer than two seconds.

    Raises
    ------
    InputError
        A size that is not 1 to ``n``.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [0.1], [5.0], [9.0]])
    >>> sorted(greedy_coreset(x, 3).tolist())[1:]
    [2, 3]
    """
    n = len(x)
    if not 1 <= size <= n:
        raise InputError(f"Expected a coreset of 1 to {n} rows, got {size}.")
    generator = torch.Generator().manual_seed(seed)
    start = int(torch.randint(n, (1,), generator=generator))
    z = x - x.mean(0)
    if projection is not None and projection < x.shape[1]:
        matrix = torch.randn(x.shape[1], projection, generator=generator).to(x)
        z = z @ (matrix / projection**0.5)
    norms = torch.linalg.vecdot(z, z)
    chosen = torch.empty(size, dtype=torch.long)
    nearest = torch.full((n,), torch.inf, dtype=z.dtype, device=z.device)
    at = start
    for i in tqdm(range(size), delay=2, disable=not progress, desc="choosing a coreset"):
        chosen[i] = at
        for first in range(0, n, BLOCK):
            block = slice(first, first + BLOCK)
            d = torch.addmv(norms[block], z[block], z[at], alpha=-2).add_(norms[at])
            torch.minimum(nearest[block], d, out=nearest[block])
        nearest[at] = -torch.inf  # never twice, whatever rounding makes of its own distance
        at = int(nearest.argmax())
    return chosen
