"""Pools: from distances or discriminants to one number per row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from neuralize.propagate import Layer
from neuralize.rules.base import ratio
from neuralize.rules.pooling import (
    harmonic_pooling,
    soft_min_weights,
)

Absorbed = dict[str, Tensor]


class SoftMinPool(Layer):
    """``o = -(1/t) log sum_j a_j exp(-t h_j)``, ``(n, m) -> (n,)``; rule: take-most.

    Parameters
    ----------
    stiffness
        ``t > 0``.
    log_weights
        ``log a_j`` ``(m,)``, ``sum_j a_j = 1``; uniform when missing.

    Examples
    --------
    >>> round(SoftMinPool(1.0)(torch.tensor([[1.0, 1.0]])).item(), 6)
    1.0
    """

    log_weights: Tensor | None
    sign = -1.0

    def __init__(self, stiffness: float, log_weights: Tensor | None = None) -> None:
        super().__init__()
        self.stiffness = stiffness
        self.register_buffer("log_weights", log_weights)

    def _scores(self, x: Tensor) -> Tensor:
        t = self.sign * self.stiffness
        return t * x if self.log_weights is None else torch.add(self.log_weights, x, alpha=t)

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        pooled = self._scores(x).logsumexp(1)
        if self.log_weights is None:
            pooled = pooled - math.log(x.shape[1])
        return pooled / (self.sign * self.stiffness), None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, Absorbed]:
        # p = exp(scores - logsumexp) in one buffer: these are the largest matrices there are
        scores = self._scores(x)
        p = scores.sub_(scores.logsumexp(1, keepdim=True)).exp_()
        return p.mul_(relevance.unsqueeze(1)), {}


class SoftMaxPool(SoftMinPool):
    """``o = (1/t) log sum_j a_j exp(t h_j)``, ``(n, m) -> (n,)``; rule: take-most.

    Examples
    --------
    >>> round(SoftMaxPool(1.0)(torch.tensor([[1.0, 1.0]])).item(), 6)
    1.0
    """

    sign = 1.0


class HarmonicPool(Layer):
    """Student kernel's pool, ``o = 1 / sum_j a_j / (c + h_j) - c``, ``(n, m) -> (n,)``.

    Examples
    --------
    >>> HarmonicPool(1.0)(torch.tensor([[1.0, 1.0]])).item()
    1.0
    """

    weights: Tensor | None

    def __init__(self, offset: float, weights: Tensor | None = None) -> None:
        super().__init__()
        self.offset = offset
        self.register_buffer("weights", weights)

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        f = 1 / (self.offset + x)
        mean = f.mean(1) if self.weights is None else f @ self.weights
        return 1 / mean - self.offset, None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, Absorbed]:
        return harmonic_pooling(x, relevance, self.offset, self.weights), {}


class WeightedSum(Layer):
    """``o = sum_j w_j h_j + b``, ``(n, m) -> (n,)``; the constant absorbs its share by name.

    Examples
    --------
    >>> WeightedSum(torch.tensor([0.5, 0.5]))(torch.tensor([[1.0, 3.0]])).item()
    2.0
    """

    weights: Tensor

    def __init__(self, weights: Tensor, constant: float = 0.0, constant_name: str = "bias") -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.constant, self.constant_name = constant, constant_name

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        return x @ self.weights + self.constant, None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, Absorbed]:
        share = ratio(relevance, z)
        absorbed = {self.constant_name: self.constant * share} if self.constant else {}
        return share.unsqueeze(1) * x * self.weights, absorbed


class ClusterContrast(Layer):
    """``f_c = min_{k != c} h_k`` with ``h_k = d_k - d_c``, ``(n, K) -> (n,)``, ``c`` given per row.

    Rule: min-take-most over the competitors, ``R_k = p_k f_c`` with ``p`` the soft-min weights of
    stiffness ``t``; then the difference, ``R_{d_k} = s_k d_k`` and ``R_{d_c} = -sum_k s_k d_c``
    with ``s_k = R_k / h_k``. Together with the distance rule on ``d_k = ||x - mu_k||^2`` this *is*
    the midpoint rule, since ``(x - m_k)_i w_ik = (x_i - mu_ki)^2 - (x_i - mu_ci)^2``.

    For a row that is not in its target cluster (``f_c <= 0``) a competitor's ``h_k`` may be near
    zero and ``s_k`` unbounded; there the nearest competitor takes all, which is exact and stable.

    Parameters
    ----------
    target
        Cluster per row ``(n,)``; the nearest of each row when missing.
    stiffness
        ``t >= 0``; ``inf`` is winner-take-all.

    Examples
    --------
    >>> contrast = ClusterContrast(torch.tensor([0]), math.inf)
    >>> contrast(torch.tensor([[1.0, 5.0, 9.0]])).item()
    4.0
    """

    def __init__(self, target: Tensor | None, stiffness: float) -> None:
        super().__init__()
        self.target = target
        self.stiffness = stiffness

    def compute(self, x: Tensor) -> tuple[Tensor, Any]:
        if self.target is None:
            own, index = x.min(1, keepdim=True)
            self.target = index[:, 0]
        else:
            index = self.target.unsqueeze(1)
            own = x.gather(1, index)
        gaps = (x - own).scatter_(1, index, math.inf)
        return gaps.amin(1), gaps

    def split(self, x: Tensor, z: Tensor, saved: Any, relevance: Tensor) -> tuple[Tensor, Absorbed]:
        return self.weights(z, saved, relevance) * x, {}

    def weights(self, z: Tensor, gaps: Tensor, relevance: Tensor) -> Tensor:
        """Relevance per unit of every distance, ``s_k`` and ``-sum_k s_k`` for the target's own."""
        assert self.target is not None
        s = self.shares(gaps, z, relevance)
        return s.scatter_(1, self.target.unsqueeze(1), -s.sum(1, keepdim=True))

    def shares(self, gaps: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
        """``s_k = R_k / h_k`` of the pooled gaps ``(n, m)`` with minimum ``z`` ``(n,)``."""
        scale = ratio(relevance, z)
        inside = z > 0
        if math.isinf(self.stiffness) or not bool(inside.any()):
            return soft_min_weights(gaps, math.inf).mul_(scale.unsqueeze(1))
        s = soft_min_weights(gaps, self.stiffness).div_(gaps).mul_((z * scale).unsqueeze(1))
        outside = (~inside).nonzero()[:, 0]
        if len(outside):
            s[outside] = soft_min_weights(gaps[outside], math.inf) * scale[outside].unsqueeze(1)
        return s
