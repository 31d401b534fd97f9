"""Along which directions of an embedding a similarity is explained: all, random or leading ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from neuralize.inputs import require_finite
from xai.errors import InputError

Kind = Literal["dot", "cosine"]
Reduce = Literal["random", "leading"]


@dataclass(frozen=True)
class Directions:
    """Columns of ``P`` ``(d, K)``, along which the embedding is explained.

    A component ``z_m = sum_k P_km phi_k`` is one more linear layer, and LRP-0 through it starts the
    pass of direction ``m`` with ``P_km phi_k`` at component ``k``.
    """

    name: str
    count: int
    columns: Tensor | None = None
    """``P`` itself; None for single components."""
    components: Tensor | None = None
    """Numbers of single components ``(K,)``."""
    random: bool = False

    def seeds(self, phi: Tensor, start: int, stop: int) -> Tensor:
        """Relevance to start with ``(k, n, d)`` for directions ``start`` to ``stop``."""
        if self.columns is not None:
            return self.columns.T[start:stop, None] * phi
        assert self.components is not None
        chosen = self.components[start:stop]
        seeds = phi.new_zeros(len(chosen), *phi.shape)
        seeds[torch.arange(len(chosen)), :, chosen] = phi[:, chosen].T
        return seeds

    def standard_error(self, phi_a: Tensor, phi_b: Tensor) -> float | None:
        """Of ``(d / K) <Q^T phi(a), Q^T phi(b)>``, ``Q`` uniform among orthonormal ``(d, K)``.

        From the fourth moments of the Haar measure: with ``y`` the dot product, the variance is
        ``(d / K)^2 B (|a|^2 |b|^2 + (1 - 2 / d) y^2)``, ``B = K (d - K) / (d (d - 1) (d + 2))``.
        """
        if not self.random:
            return None
        d, k = len(phi_a), self.count
        if k == d:
            return 0.0
        scale = k * (d - k) / (d * (d - 1) * (d + 2)) * (d / k) ** 2
        y = float(phi_a @ phi_b)
        norms = float(phi_a @ phi_a) * float(phi_b @ phi_b)
        return math.sqrt(scale * (norms + (1 - 2 / d) * y**2))


@dataclass(frozen=True)
class Choice:
    """The options that decide which directions are explained."""

    kind: Kind
    reduce: Reduce | None
    n_directions: int | None
    reference: Any
    seed: int

    def directions(self, phi_a: Tensor, phi_b: Tensor) -> Directions:
        """Directions for embeddings ``(n, d)``, in float64."""
        d = phi_a.shape[1]
        joint = (phi_a * phi_b).abs().sum(0)
        if self.reduce is None:
            # where either is zero, so is its pass, and with it the product
            used = joint.nonzero()[:, 0]
            return Directions(f"all {d} components", len(used), components=used)
        k = self.n_directions
        assert k is not None
        most = d if self.reference is None else min(d, len(self.reference))
        if k > most:
            raise InputError(f"Expected at most {most} directions of a {d}-d embedding, got {k}.")
        if self.reduce == "random":
            draw = torch.Generator().manual_seed(self.seed)
            gauss = torch.randn(d, k, dtype=torch.float64, generator=draw)
            q, r = torch.linalg.qr(gauss)
            q = q * torch.sign(torch.diagonal(r))  # uniform, whatever signs QR settled on
            columns = (q * math.sqrt(d / k)).to(phi_a)
            return Directions(f"{k} random directions of {d}", k, columns, random=True)
        if self.reference is None:
            leading = joint.topk(k).indices.sort().values
            return Directions(f"{k} leading components of {d}", k, components=leading)
        rows = torch.as_tensor(self.reference).detach().to(phi_a)
        if rows.ndim != 2 or rows.shape[1] != d:
            raise InputError(
                f"Expected reference embeddings (r, {d}), got shape {tuple(rows.shape)}."
            )
        require_finite(rows)
        basis = torch.linalg.svd(rows, full_matrices=False)[2][:k].T
        return Directions(f"{k} leading directions of {d}, from {len(rows)} embeddings", k, basis)
