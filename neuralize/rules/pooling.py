"""Pooling rules: who of the pooled values gets the relevance.

With ``LME^t{h} = (1/t) log sum_j a_j exp(t h_j)`` (``t > 0`` soft maximum, ``t < 0`` soft minimum,
``sum_j a_j = 1``) and ``p`` its gradient, ``R_j = p_j R`` is an exact deep Taylor step: the pool is
translation equivariant, so the root point ``h - o`` has the same ``p`` and output zero [1]_ [2]_.

References
----------
.. [1] Kauffmann, Esders, Ruff, Montavon, Samek, Mueller. From Clustering to Cluster Explanations
via
   Neural Networks. IEEE TNNLS 35(2), 2024 (arXiv 1906.07633).
.. [2] Kauffmann, Mueller, Montavon. Towards Explaining Anomalies: A Deep Taylor Decomposition of
   One-Class Models. Pattern Recognition 101, 2020 (arXiv 1805.06230).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def soft_min_weights(h: Tensor, stiffness: float, log_weights: Tensor | None = None) -> Tensor:
    """Weights of a soft minimum, ``p_j = a_j exp(-t h_j) / sum_j a_j exp(-t h_j)``.

    Parameters
    ----------
    h
        Pooled values ``(n, m)``.
    stiffness
        ``t >= 0``; ``inf`` gives all weight to the smallest, shared equally among ties.
    log_weights
        ``log a_j`` ``(m,)``; uniform when missing.

    Examples
    --------
    >>> soft_min_weights(torch.tensor([[0.0, 1.0]]), math.inf).tolist()
    [[1.0, 0.0]]
    >>> soft_min_weights(torch.tensor([[0.0, 5.0]]), 0.0).tolist()
    [[0.5, 0.5]]
    """
    if math.isinf(stiffness):
        winners = (h == h.amin(-1, keepdim=True)).to(h.dtype)
        return winners / winners.sum(-1, keepdim=True)
    scores = -stiffness * h if stiffness else torch.where(h.isinf(), -h, torch.zeros_like(h))
    return torch.softmax(scores if log_weights is None else scores + log_weights, -1)


def soft_max_weights(h: Tensor, stiffness: float, log_weights: Tensor | None = None) -> Tensor:
    """Weights of a soft maximum, ``p_j = a_j exp(t h_j) / sum_j a_j exp(t h_j)``.

    Examples
    --------
    >>> soft_max_weights(torch.tensor([[0.0, 1.0]]), math.inf).tolist()
    [[0.0, 1.0]]
    """
    return soft_min_weights(-h, stiffness, log_weights)


def take_most(weights: Tensor, relevance: Tensor) -> Tensor:
    """Take-most pooling: ``R_j = p_j R``, from weights ``(n, m)`` and relevance ``(n,)``.

    Examples
    --------
    >>> take_most(torch.tensor([[0.75, 0.25]]), torch.tensor([4.0])).tolist()
    [[3.0, 1.0]]
    """
    return weights * relevance.unsqueeze(-1)


def winner_take_all(h: Tensor, relevance: Tensor, largest: bool = False) -> Tensor:
    """All relevance to the smallest (or largest) value; ties share it.

    Examples
    --------
    >>> winner_take_all(torch.tensor([[3.0, 2.0]]), torch.tensor([2.0])).tolist()
    [[0.0, 2.0]]
    """
    return take_most(soft_min_weights(-h if largest else h, math.inf), relevance)


def harmonic_pooling(
    h: Tensor, relevance: Tensor, offset: float, weights: Tensor | None = None
) -> Tensor:
    """Pool of a Student kernel, ``o = 1 / sum_j a_j / (c + h_j) - c``: ``R_j = p_j R``.

    The weights are ``p_j = a_j F_j / sum_j a_j F_j`` with ``F_j = 1 / (c + h_j)``. Towards the root
    point ``h + c`` shrinks along a ray on which ``p`` is constant.

    Parameters
    ----------
    h
        Squared distances ``(n, m)``.
    relevance
        Relevance of the pool ``(n,)``.
    offset
        ``c > 0``.
    weights
        ``a_j`` ``(m,)`` with sum 1; uniform when missing.

    Examples
    --------
    >>> harmonic_pooling(torch.tensor([[1.0, 3.0]]), torch.tensor([6.0]), 1.0).tolist()
    [[4.0, 2.0]]
    """
    f = 1 / (offset + h)
    f = f if weights is None else f * weights
    return take_most(f / f.sum(-1, keepdim=True), relevance)


def paper_stiffness(evidence: Tensor) -> float:
    """The paper's choice of a clustering's stiffness, ``1 / mean_n max_c f_c(x_n)``.

    Kauffmann et al., arXiv 1906.07633.

    Parameters
    ----------
    evidence
        Evidence of a set of points for every cluster ``(n, K)``.

    Examples
    --------
    >>> paper_stiffness(torch.tensor([[4.0, -4.0], [-2.0, 2.0]])) == 1 / 3
    True
    """
    mean = float(evidence.amax(-1).mean())
    return 1 / mean if mean > 0 else math.inf
