"""Scores that are a sum of one term per feature: what each feature adds *is* its relevance.

Histogram (HBOS), empirical-distribution (ECOD, COPOD) and isolation scores are piecewise constant,
so nothing is propagated through them: ``o = sum_i O_i + constant`` and ``R_i = O_i``, exactly. The
network reports its ``method`` accordingly.
"""

from __future__ import annotations

import torch
from scipy.stats import skew
from torch import Tensor

from neuralize.layers import WeightedSum
from neuralize.outlier import OutlierNetwork
from neuralize.propagate import Layer
from neuralize.score_map import ScoreMap


class Terms(Layer):
    """``(n, d) -> (n, d)``: the score's terms, one per feature, which keeps its relevance."""

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        return self.terms(x), None

    def terms(self, x: Tensor) -> Tensor:
        """The terms ``(n, d)`` of rows ``x`` ``(n, d)``."""
        raise NotImplementedError

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return relevance, {}


def additive_network(
    terms: Terms,
    *,
    n_features: int,
    evidence_name: str,
    score_map: ScoreMap,
    threshold: float | None,
    model_name: str,
    method: str = "additive terms",
    constant: float = 0.0,
    constant_name: str = "constant",
    width: int = 1,
    row_independent: bool = True,
) -> OutlierNetwork:
    """The network of an additive score."""
    total = WeightedSum(torch.ones(n_features, dtype=torch.float64), constant, constant_name)
    return OutlierNetwork(
        [terms, total],
        method=method,
        homogeneous=False,
        differentiable=False,
        row_independent=row_independent,
        n_features=n_features,
        evidence_name=evidence_name,
        score_map=score_map,
        threshold=threshold,
        width=width,
        model_name=model_name,
    )


class HistogramTerms(Terms):
    """HBOS (Goldstein, Dengel, KI 2012): ``O_i = -log2(hist_i(bin of x_i) + alpha)``.

    A value outside the histogram counts as its end bin up to ``tol`` bin widths away, and as the
    rarest bin beyond.

    Parameters
    ----------
    edges
        Bin edges of every feature, ascending, ``B_i + 1`` each.
    densities
        Densities of every feature, ``B_i`` each.
    alpha, tol
        The model's own parameters.
    """

    edges: Tensor
    scores: Tensor
    n_bins: Tensor

    def __init__(
        self, edges: list[Tensor], densities: list[Tensor], alpha: float, tol: float
    ) -> None:
        super().__init__()
        self.tol = tol
        widest = max(map(len, edges))
        table = torch.full((len(edges), widest), torch.inf, dtype=torch.float64)
        scores = torch.zeros(len(edges), widest - 1, dtype=torch.float64)
        for i, (edge, density) in enumerate(zip(edges, densities, strict=True)):
            table[i, : len(edge)] = edge
            scores[i, : len(density)] = -torch.log2(density + alpha)
            scores[i, len(density) :] = scores[i, : len(density)].max()
        self.register_buffer("edges", table)
        self.register_buffer("scores", scores)
        self.register_buffer("n_bins", torch.tensor([len(density) for density in densities]))

    def terms(self, x: Tensor) -> Tensor:
        columns = x.T.contiguous()
        bins = torch.searchsorted(self.edges, columns)  # edges[bin - 1] < x <= edges[bin]
        last = self.n_bins.unsqueeze(1)
        below, above = bins == 0, bins > last
        inside = (bins - 1).clamp(min=0).minimum(last - 1)
        first_edge, second_edge = self.edges[:, :1], self.edges[:, 1:2]
        last_edge, before_last = self.edges.gather(1, last), self.edges.gather(1, last - 1)
        far = below & (first_edge - columns > (second_edge - first_edge) * self.tol)
        far |= above & (columns - last_edge > (last_edge - before_last) * self.tol)
        rarest = self.scores.amax(1, keepdim=True)
        return torch.where(far, rarest, self.scores.gather(1, inside)).T


class TailTerms(Terms):
    """ECOD and COPOD (Li et al., TKDE 2022; ICDM 2020): negative log tail probabilities.

    With ``U_l = -log P(X <= x_i)`` and ``U_r = -log P(X >= x_i)``, empirical over the training rows
    *and the rows of the batch*, as PyOD does, and ``U_s`` the tail the column is skewed to (their
    sum without skew): ECOD ``O_i = max(U_l, U_r, U_s)``, COPOD ``O_i = max((U_l + U_r) / 2, U_s)``.

    Parameters
    ----------
    reference
        Training rows ``(m, d)``.
    copula
        COPOD's form instead of ECOD's.
    """

    reference: Tensor

    def __init__(self, reference: Tensor, copula: bool) -> None:
        super().__init__()
        self.copula = copula
        self.register_buffer("reference", reference)

    def terms(self, x: Tensor) -> Tensor:
        every = torch.cat([self.reference, x])
        columns, queries = every.T.contiguous().sort(1).values, x.T.contiguous()
        n = len(every)
        left = -torch.log(torch.searchsorted(columns, queries, right=True).double() / n).T
        right = -torch.log((n - torch.searchsorted(columns, queries)).double() / n).T
        side = self._skew_sign(every)
        skewed = torch.where(side > 0, right, torch.where(side < 0, left, left + right))
        other = (left + right) / 2 if self.copula else torch.maximum(left, right)
        return torch.maximum(other, skewed).to(x.dtype)

    @staticmethod
    def _skew_sign(every: Tensor) -> Tensor:
        # scipy, as in PyOD: a sign next to zero must not depend on how sums are rounded.
        values = torch.from_numpy(skew(every.cpu().numpy(), axis=0)).nan_to_num()
        return values.sign().to(every.device)
