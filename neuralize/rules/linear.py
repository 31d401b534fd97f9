"""Rules for linear maps."""

from __future__ import annotations

import torch
from torch import Tensor

from neuralize.rules.base import ratio, stabilize


def midpoint(x: Tensor, weight: Tensor, midpoints: Tensor, relevance: Tensor) -> Tensor:
    """Midpoint rule of neuralized clusterings (Kauffmann et al., arXiv 1906.07633).

    ``R_i = sum_k (x_i - m_ik) w_ik / [sum_i' (x_i' - m_i'k) w_i'k] R_k``. The reference of each
    discriminant ``h_k = w_k . (x - m_k)`` is the point half way between two centroids, where it is
    zero. Dense: memory ``(n, K, d)``. The heads use the equal closed form by matrix products.

    Parameters
    ----------
    x
        Points ``(n, d)``.
    weight, midpoints
        ``(K, d)`` each.
    relevance
        Relevance of the discriminants ``(n, K)``.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 1.0]])
    >>> w, m = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> midpoint(x, w, m, torch.tensor([[4.0]])).tolist()
    [[4.0, 0.0]]
    """
    contributions = (x.unsqueeze(1) - midpoints) * weight
    share = ratio(relevance, contributions.sum(-1))
    return torch.einsum("nk,nkd->nd", share, contributions)


def epsilon(
    x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor, stabilizer: float = 1e-9
) -> tuple[Tensor, Tensor]:
    """LRP-epsilon, ``R_i = sum_j x_i w_ji R_j / stab(z_j)`` with ``z = W x + b``.

    Returns the relevance ``(n, d)`` and what bias and stabilizer absorbed ``(n,)``.

    Examples
    --------
    >>> x, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]])
    >>> r, absorbed = epsilon(x, w, torch.tensor([1.0]), torch.tensor([[4.0]]), 0.0)
    >>> r.tolist(), absorbed.tolist()
    ([[1.0, 2.0]], [1.0])
    """
    z = x @ weight.T if bias is None else x @ weight.T + bias
    r = x * ((relevance / stabilize(z, stabilizer)) @ weight)
    return r, relevance.sum(-1) - r.sum(-1)


def wsquare(weight: Tensor, relevance: Tensor) -> Tensor:
    """WSquare rule, ``R_i = sum_j w_ji^2 / [sum_i' w_ji'^2] R_j``: no bias, always conserving.

    Parameters
    ----------
    weight
        ``(m, d)``.
    relevance
        ``(n, m)``.

    Examples
    --------
    >>> wsquare(torch.tensor([[3.0, 4.0]]), torch.tensor([[25.0]])).tolist()
    [[9.0, 16.0]]
    """
    squared = weight**2
    total = squared.sum(-1, keepdim=True)
    return relevance @ (squared / total.masked_fill(total == 0, 1))
