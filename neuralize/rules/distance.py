"""Distance rules: ``R_i = sum_j |x_i - u_ij|^p / ||x - u_j||_p^p R_j``, without ``(n, m, d)``.

A distance is homogeneous in ``x - u``, so Euler's theorem splits it exactly. For squared Euclidean
distances, with ``w_j = R_j / h_j``,

    ``R_i = sum_j w_j (x_i - u_ij)^2 = x_i^2 sum_j w_j - 2 x_i (W U)_i + (W U^2)_i``,

two matrix products. The expansion cancels badly when the spread is small beside the offset: callers
centre ``x`` and ``u`` first (Kauffmann, Mueller, Montavon, arXiv 1805.06230, for the rule).
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_BYTES = 32 * 2**20
"""Largest temporary a blockwise rule forms, in bytes."""


def l2_distance(
    x: Tensor, u: Tensor, w: Tensor, u_squared: Tensor | None = None, *, balanced: bool = False
) -> Tensor:
    """Relevance through squared Euclidean distances by matrix products.

    Parameters
    ----------
    x, u
        Points ``(n, d)`` and support points ``(m, d)``, both centred.
    w
        Relevance per unit of squared distance, ``R_j / h_j`` ``(n, m)``; any sign.
    u_squared
        ``u ** 2``, if the caller keeps it; made in blocks otherwise.
    balanced
        Promise that ``w`` sums to zero in every row (differences of distances): one pass less.

    Examples
    --------
    >>> x, u = torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    >>> l2_distance(x, u, torch.tensor([[1.0]])).tolist()
    [[1.0, 4.0]]
    """
    wu = w @ u
    if u_squared is not None:
        squares = w @ u_squared
    else:
        squares = torch.zeros_like(wu)
        rows = max(1, BLOCK_BYTES // max(1, u.shape[1] * u.element_size()))
        for start in range(0, len(u), rows):
            block = slice(start, start + rows)
            squares.addmm_(w[:, block], u[block] ** 2)
    if balanced:
        return squares.addcmul_(x, wu, value=-2)
    # x * (x * sum_w - 2 W U) + W U^2, in two fused passes over (n, d)
    inner = wu.mul_(-2).addcmul_(x, w.sum(-1, keepdim=True))
    return squares.addcmul_(x, inner)


def metric_distance(z: Tensor, u: Tensor, w: Tensor, matrix: Tensor, inverse: Tensor) -> Tensor:
    """Relevance of ``x`` through ``h_j = ||z - u_j||^2`` behind a projection ``z = B x + b``.

    The reference of pair ``j`` is the point nearest to ``x`` that ``B`` maps onto ``u_j``; the way
    to it is ``B^+ (z - u_j)``, and ``R_i = sum_j w_j [B^+ (z - u_j)]_i [B^T (z - u_j)]_i`` sums to
    ``sum_j w_j h_j`` when ``B`` has full row rank. With orthonormal rows, ``B^+ = B^T`` and every
    term is a square.

    Parameters
    ----------
    z, u
        ``(n, q)``, ``(m, q)``, both centred.
    w
        ``R_j / h_j`` ``(n, m)``.
    matrix, inverse
        ``B`` ``(q, d)`` and its pseudo-inverse ``B^+`` ``(d, q)``.

    Examples
    --------
    >>> z, u = torch.tensor([[2.0]]), torch.tensor([[0.0]])
    >>> b = torch.tensor([[0.6, 0.8]])
    >>> r = metric_distance(z, u, torch.tensor([[1.0]]), b, b.T)
    >>> [round(value, 4) for value in r[0].tolist()]
    [1.44, 2.56]
    """
    way, force = z @ inverse.T, z @ matrix
    u_way, u_force = u @ inverse.T, u @ matrix
    total = w.sum(-1, keepdim=True)
    cross = way * (w @ u_force) + force * (w @ u_way)
    return way * force * total - cross + w @ (u_way * u_force)


def lp_distance(x: Tensor, u: Tensor, w: Tensor, p: float) -> Tensor:
    """Relevance through ``||x - u_j||_p``, blockwise over the support points.

    Parameters
    ----------
    x, u
        ``(n, d)``, ``(m, d)``.
    w
        ``R_j / ||x - u_j||_p^p`` ``(n, m)``.
    p
        Order of the norm, finite and at least 1.

    Examples
    --------
    >>> x, u = torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    >>> lp_distance(x, u, torch.tensor([[1.0]]), 3.0).tolist()
    [[1.0, 8.0]]
    """
    n, d = x.shape
    r = torch.zeros_like(x)
    step = max(1, BLOCK_BYTES // max(1, n * d * x.element_size()))
    for start in range(0, len(u), step):
        block = slice(start, start + step)
        delta = (x.unsqueeze(1) - u[block]).abs_()
        if p != 1:
            delta = delta.pow_(p)
        r += torch.einsum("nm,nmd->nd", w[:, block], delta)
    return r


def l1_distance(x: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """Relevance through ``||x - u_j||_1``: ``R_i = sum_j w_j |x_i - u_ij|``.

    Examples
    --------
    >>> x, u = torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    >>> l1_distance(x, u, torch.tensor([[1.0]])).tolist()
    [[1.0, 2.0]]
    """
    return lp_distance(x, u, w, 1.0)


def mahalanobis_distance(
    delta: Tensor, factor: Tensor, w: Tensor, nonnegative: bool = False
) -> Tensor:
    """Relevance through ``Q = ||F delta||^2``, ``F^T F`` the precision; ``w = R / Q`` ``(n,)``.

    Signed: ``R_i = w delta_i [F^T F delta]_i`` (half of gradient times input minus mean).
    Non-negative: relevance of each eigendirection ``(v_m . delta)^2 / lambda_m`` goes to the inputs
    by ``v_mi^2`` (WSquare); ``F`` must then hold the scaled eigenvectors as its rows.

    Examples
    --------
    >>> f = torch.tensor([[1.0, 1.0]])
    >>> mahalanobis_distance(torch.tensor([[1.0, 2.0]]), f, torch.tensor([1.0])).tolist()
    [[3.0, 6.0]]
    >>> mahalanobis_distance(torch.tensor([[1.0, 2.0]]), f, torch.tensor([1.0]), True).tolist()
    [[4.5, 4.5]]
    """
    y = delta @ factor.T
    if nonnegative:
        squared = factor**2
        return w.unsqueeze(-1) * (y**2 @ (squared / squared.sum(-1, keepdim=True)))
    return w.unsqueeze(-1) * delta * (y @ factor)
