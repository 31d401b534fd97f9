"""Distances to a bank of support points, and the distance rule that explains them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuralize.propagate import Layer
from neuralize.rules.base import ratio
from neuralize.rules.distance import (
    BLOCK_BYTES,
    l2_distance,
    lp_distance,
    mahalanobis_distance,
    metric_distance,
)
from neuralize.rules.linear import wsquare

COINCIDENT = "coincident support points"
"""Absorbed: a distance of exactly zero has no direction to hand its relevance to."""

# Below this share of |x|^2 + |u|^2 a squared distance by matrix product has lost too many digits,
# and the pair is computed from the difference itself. Of 784 pixels, the relevance of a share of s
# adds up to about 10 eps / s: these keep to 1e-9 and 1e-5.
_CANCELLATION = {torch.float64: 1e-5, torch.float32: 0.2}

KEPT_BYTES = 128 * 2**20
"""Squares of a bank up to this size are kept between calls; larger ones are made in blocks."""

# A distance below this many units of rounding of the points themselves is zero: what is left of it
# is noise of the preprocessing, and so would be its direction.
_NOISE = 32.0

Pairs = tuple[Tensor, Tensor]


class Fold(nn.Module):
    """A projection ``z = B x + b`` folded into a distance layer, ``(n, d) -> (n, q)``.

    Parameters
    ----------
    matrix, offset
        ``B`` ``(q, d)`` and ``b`` ``(q,)``.
    """

    matrix: Tensor
    offset: Tensor
    inverse: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("offset", offset)
        self.register_buffer("inverse", torch.linalg.pinv(matrix))

    def forward(self, x: Tensor) -> Tensor:
        """``B x + b``."""
        return x @ self.matrix.T + self.offset

    def pull_back(self, way: Tensor, force: Tensor) -> Tensor:
        """The bilinear form ``sum_m way_m force_m``, given per ``z``, as one term per input."""
        return (way @ self.inverse.T) * (force @ self.matrix)


class SquaredDistances(Layer):
    """``h_j = ||x - u_j||^2`` to every support point, ``(n, d) -> (n, m)``.

    The rule is the distance rule, ``R_i = sum_j (x_i - u_ij)^2 R_j / h_j``, by matrix products on
    centred data; pairs too close for them are computed from their difference. A pair that coincides
    up to rounding has distance zero and no direction: its relevance is absorbed.

    Parameters
    ----------
    support
        ``u`` ``(m, d)``.
    refine
        Whether to recompute close pairs. Differences of distances (clusterings) gain nothing from
        it.

    Examples
    --------
    >>> layer = SquaredDistances(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    >>> layer(torch.tensor([[2.0, 2.0]])).tolist()
    [[5.0, 8.0]]
    """

    center: Tensor
    support: Tensor

    def __init__(self, support: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", support.mean(0))
        self.register_buffer("support", support - self.center)
        self.fold: Fold | None = None
        self.magnitude = 0.0
        self._derived: tuple[Tensor, int, Tensor, Tensor | None] | None = None

    def fold_projection(self, matrix: Tensor, offset: Tensor) -> bool:
        """Put ``z = B x + b`` before the layer, keeping relevance exact in the units of ``x``."""
        self.fold = Fold(matrix, offset)
        return True

    def point(self, x: Tensor) -> Tensor:
        """``x`` as the layer sees it: projected where a projection was folded in, and centred."""
        return (x if self.fold is None else self.fold(x)) - self.center

    def compute(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Pairs | None]]:
        z, u, u_norm = self.point(x), self.support, self._norms()
        z_norm = (z**2).sum(1, keepdim=True)
        h = torch.addmm(u_norm, z, u.T, alpha=-2).add_(z_norm).clamp_(min=0)
        limit = _CANCELLATION[h.dtype]
        norms = z_norm.detach()
        suspects = h.detach().amin(1) <= limit * (norms[:, 0] + u_norm.max())
        if not bool(suspects.any()):
            return h, (z, None)
        some = suspects.nonzero()[:, 0]
        close = h.detach()[some] <= limit * (norms[some] + u_norm)
        near, cols = close.nonzero(as_tuple=True)
        rows = some[near]
        exact = torch.cat([((z[i] - u[j]) ** 2).sum(1) for i, j in self._blocks(rows, cols)])
        scale = norms[rows, 0] + u_norm[cols] + (self.center**2).sum() + self.magnitude**2
        noise = (_NOISE * torch.finfo(h.dtype).eps) ** 2 * scale
        exact = torch.where(exact.detach() <= noise, 0 * exact, exact)
        return h.index_put((rows, cols), exact), (z, (rows, cols))

    def relative(self, point: Tensor) -> Tensor:
        """``h_j - ||point||^2``: enough where only differences count, and exact closer to zero."""
        return torch.addmm(self._norms(), point, self.support.T, alpha=-2)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": None}

    def _norms(self) -> Tensor:
        """``||u_j||^2``, kept while the support is the same, with ``u^2`` unless it is large."""
        u, kept = self.support, self._derived
        version = 0 if u.is_inference() else u._version
        if kept is None or kept[0] is not u or kept[1] != version:
            small = u.numel() * u.element_size() <= KEPT_BYTES
            squares = u**2 if small else None
            norms = torch.linalg.vector_norm(u, dim=1) ** 2 if squares is None else squares.sum(1)
            kept = self._derived = (u, version, norms, squares)
        return kept[2]

    def _blocks(self, rows: Tensor, cols: Tensor) -> list[Pairs]:
        """The pairs, cut so that their differences stay within the block size."""
        size = max(1, BLOCK_BYTES // max(1, self.support.shape[1] * self.support.element_size()))
        return list(zip(rows.split(size), cols.split(size), strict=True))

    def split(
        self, x: Tensor, z: Tensor, saved: Any, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        point, pairs = saved
        if pairs is None:  # no distance is anywhere near zero
            return self.products(point, relevance / z), {}
        zero = z == 0
        w = (relevance / z.masked_fill(zero, 1)).masked_fill_(zero, 0)
        absorbed = {}
        if bool(zero.any()):
            absorbed[COINCIDENT] = torch.where(zero, relevance, torch.zeros_like(z)).sum(1)
        near_w = w[pairs]
        r = self.products(point, w.index_put_(pairs, torch.zeros_like(near_w)))
        blocks = self._blocks(*pairs)
        for (rows, cols), weight in zip(blocks, near_w.split(len(blocks[0][0])), strict=True):
            way = point[rows] - self.support[cols]
            terms = way**2 if self.fold is None else self.fold.pull_back(way, way)
            r.index_add_(0, rows, weight.unsqueeze(1) * terms)
        return r, absorbed

    def products(self, point: Tensor, w: Tensor, *, balanced: bool = False) -> Tensor:
        """The distance rule by matrix products, from ``w = R / h`` ``(n, m)`` (see the rule)."""
        if self.fold is not None:
            return metric_distance(point, self.support, w, self.fold.matrix, self.fold.inverse)
        self._norms()
        assert self._derived is not None
        return l2_distance(point, self.support, w, self._derived[-1], balanced=balanced)


class SquareRoot(Layer):
    """Squared distances to distances, element by element; relevance passes unchanged.

    Examples
    --------
    >>> SquareRoot()(torch.tensor([[4.0, 9.0]])).tolist()
    [[2.0, 3.0]]
    """

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        # The root has no slope at zero; its gradient is taken to be zero there.
        zero = x == 0
        return x.masked_fill(zero, 1).sqrt().masked_fill(zero, 0), None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return relevance, {}


class MinkowskiDistances(Layer):
    """``h_j = ||x - u_j||_p``, ``(n, d) -> (n, m)``, for finite ``p >= 1`` (``p = 1``: city block).

    Rule: ``R_i = sum_j |x_i - u_ij|^p / ||x - u_j||_p^p R_j``.

    Examples
    --------
    >>> MinkowskiDistances(torch.tensor([[1.0, 0.0]]), 1)(torch.tensor([[2.0, 2.0]])).tolist()
    [[3.0]]
    """

    support: Tensor

    def __init__(self, support: Tensor, p: float) -> None:
        super().__init__()
        self.p = float(p)
        self.magnitude = 0.0
        self.register_buffer("support", support)

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        # Matrix products cannot serve p != 2, and for p = 2 they would cancel.
        mode = "donot_use_mm_for_euclid_dist"
        h = torch.cdist(x, self.support, self.p, compute_mode=mode)
        size = x.detach().abs().amax(1, keepdim=True) + self.support.abs().amax(1)
        size = size + self.magnitude
        noise = _NOISE * torch.finfo(h.dtype).eps * size
        return torch.where(h.detach() <= noise, 0 * h, h), None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        zero = z == 0
        w = (relevance / z.masked_fill(zero, 1) ** self.p).masked_fill_(zero, 0)
        r = lp_distance(x, self.support, w, self.p)
        if not bool(zero.any()):
            return r, {}
        return r, {COINCIDENT: torch.where(zero, relevance, torch.zeros_like(z)).sum(1)}


class QuadraticForms(Layer):
    """``Q_k = scale ||F_k (x - mu_k)||^2`` with a metric of its own each, ``(n, d) -> (n, K)``.

    Rule: ``R_i = sum_k (x - mu_k)_i [F_k^T F_k (x - mu_k)]_i scale R_k / Q_k`` (signed), or, with
    ``nonnegative``, by the squared entries of ``F_k``'s rows (scaled eigenvectors).

    Parameters
    ----------
    means
        ``mu`` ``(K, d)``.
    factors
        ``F`` ``(K, q, d)``, or ``(1, q, d)`` shared by all; diagonal metrics as ``(K, 1, d)`` with
        ``diagonal=True``.

    Examples
    --------
    >>> layer = QuadraticForms(torch.zeros(1, 2), torch.tensor([[[1.0, 1.0]]]))
    >>> layer(torch.tensor([[1.0, 2.0]])).tolist()
    [[9.0]]
    """

    means: Tensor
    factors: Tensor

    def __init__(
        self,
        means: Tensor,
        factors: Tensor,
        *,
        scale: float = 1.0,
        diagonal: bool = False,
        nonnegative: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.register_buffer("factors", factors)
        self.scale, self.diagonal, self.nonnegative = scale, diagonal, nonnegative
        self.fold: Fold | None = None

    def fold_projection(self, matrix: Tensor, offset: Tensor) -> bool:
        """Put ``z = B x + b`` before the layer, keeping relevance exact in the units of ``x``."""
        self.fold = Fold(matrix, offset)
        return True

    def _factor(self, k: int) -> Tensor:
        return self.factors[k if len(self.factors) > 1 else 0]

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        x = x if self.fold is None else self.fold(x)
        columns = []
        for k, mean in enumerate(self.means):
            delta, f = x - mean, self._factor(k)
            y = delta * f[0] if self.diagonal else delta @ f.T
            columns.append((y**2).sum(1))
        return self.scale * torch.stack(columns, 1), None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        w = self.scale * ratio(relevance, z)
        r = torch.zeros_like(x)
        x = x if self.fold is None else self.fold(x)
        for k, mean in enumerate(self.means):
            delta, f, share = x - mean, self._factor(k), w[:, k : k + 1]
            if self.nonnegative:
                part = mahalanobis_distance(delta, f, w[:, k], nonnegative=True)
                r += part if self.fold is None else wsquare(self.fold.matrix, part)
                continue
            force = delta * f[0] ** 2 if self.diagonal else (delta @ f.T) @ f
            terms = delta * force if self.fold is None else self.fold.pull_back(delta, force)
            r += share * terms
        lost = (z == 0) & (relevance != 0)
        if not bool(lost.any()):
            return r, {}
        return r, {COINCIDENT: torch.where(lost, relevance, torch.zeros_like(z)).sum(1)}
