"""Hypersphere classifier (Ruff et al., Rethinking Assumptions in Deep AD, arXiv 2006.00339).

A network ``phi`` is trained on normal rows (``y = 0``) and exposed outliers (``y = 1``) with a
cross-entropy whose probability of an outlier is ``1 - exp(-h)``, ``h`` a norm of ``phi``:

    ``min 1/n sum_i (1 - y_i) h(phi(x_i)) - y_i log(1 - exp(-h(phi(x_i))) + eps)``, ``eps = 1e-9``.

Unlike Deep SVDD the centre is zero and biases are allowed: outliers forbid a constant map. Norms,
with ``s = ||phi||^2 = sum_k phi_k^2``:

- ``"pseudo_huber"``: ``h = sqrt(s + 1) - 1``, the authors' choice, quadratic near the centre and
  linear far away;
- ``"l1"``: ``h = sum_k |phi_k|``; ``"l2"``: ``h = sqrt(s)``; ``"l2_squared"``: ``h = s``.

Score: ``h`` itself. It orders rows as the probability ``1 - exp(-h)`` does, which float32 rounds to
1 where ``h > 17``; ``probability`` returns that one.

Relevance: every ``h`` vanishes at the centre and grows along every ray from it, so it is shared out
whole, ``R_k = h phi_k^2 / s`` (``|phi_k|`` for ``"l1"``); then on into the network. Nothing is
absorbed but by biases.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from neuralize.deep.networks import Architecture
from neuralize.deep.outlier_exposure import ExposedDetector
from neuralize.deep.training import Objective, Training
from neuralize.errors import InputError

EPS = 1e-9
"""Inside the logarithm: an outlier at the centre costs 21 and not infinity."""

TINY = 1e-30
"""Below it a squared norm counts as zero, where the root has no derivative."""

SphereNorm = Literal["pseudo_huber", "l1", "l2", "l2_squared"]


def sphere_norm(phi: Tensor, norm: SphereNorm) -> Tensor:
    """``h`` of representations ``(n, q)``, ``(n,)``.

    Written such that relevance passes through it whole: ``sqrt(s + 1) - 1`` is
    ``s / (sqrt(s + 1) + 1)``, without a constant that would take a share.

    Examples
    --------
    >>> phi = torch.tensor([[3.0, -4.0]])
    >>> [round(sphere_norm(phi, name).item(), 3) for name in ("l1", "l2", "l2_squared")]
    [7.0, 5.0, 25.0]
    >>> round(sphere_norm(phi, "pseudo_huber").item(), 3)
    4.099
    """
    if norm == "l1":
        return phi.abs().sum(1)
    s = (phi**2).sum(1)
    if norm == "l2":
        return s.clamp_min(TINY).sqrt()
    return s if norm == "l2_squared" else s / ((s + 1).sqrt() + 1)


class NormScore(nn.Module):
    """``h(phi(x))``, ``(n, ...) -> (n,)``."""

    def __init__(self, steps: nn.Module, network: nn.Module, norm: SphereNorm) -> None:
        super().__init__()
        self.preprocessing = steps
        self.network = network
        self.norm: SphereNorm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        return sphere_norm(self.network(self.preprocessing(x)), self.norm)


class HypersphereLoss(Objective):
    """``h`` for normal rows, ``-log(1 - exp(-h) + eps)`` for outliers; mean over a batch.

    Examples
    --------
    >>> loss = HypersphereLoss("l2_squared")
    >>> round(loss(torch.tensor([[1.0], [1.0]]), torch.tensor([0.0, 1.0])).item(), 3)
    0.729
    """

    def __init__(self, norm: SphereNorm) -> None:
        super().__init__()
        self.norm: SphereNorm = norm

    def forward(self, phi: Tensor, y: Tensor) -> Tensor:
        """Loss of a batch of representations ``(n, q)``."""
        h = sphere_norm(phi, self.norm)
        return torch.where(y == 1, -torch.log(-torch.expm1(-h) + EPS), h).mean()


class HypersphereClassifier(ExposedDetector):
    """Hypersphere classifier (HSC) with outlier exposure.

    ``fit(X, y)`` takes one label per row: 0 normal, 1 exposed as an outlier.

    Parameters
    ----------
    norm
        ``"pseudo_huber"``, ``"l1"``, ``"l2"`` or ``"l2_squared"``.
    network
        ``"auto"`` (by the shape of the rows), a name of :mod:`neuralize.deep.networks`, or an
        ``nn.Module`` from rows to ``(n, q)``, trained in place.
    rep_dim, bias
        Width of the representation, and whether named networks have biases and affine
        normalisations.
    preprocessing
        ``"standardize"``, ``"contrast"`` or None; fitted on the normal rows.
    training
        How the network is trained; half of a batch are outliers.
    contamination
        Share of the normal training rows above the threshold.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(size=(60, 4)), rng.normal(4.0, 1.0, (20, 4))])
    >>> y = np.repeat([0, 1], [60, 20])
    >>> detector = HypersphereClassifier(training=Training(epochs=20, batch_size=32)).fit(x, y)
    >>> bool((detector.probability(x[y == 1]) > detector.probability(x[y == 0]).mean()).all())
    True
    """

    evidence_name = "norm of the representation"

    def __init__(
        self,
        *,
        norm: SphereNorm = "pseudo_huber",
        network: str | Architecture | nn.Module = "auto",
        rep_dim: int | None = None,
        bias: bool = True,
        preprocessing: str | None = "standardize",
        training: Training = Training(milestones=(40,)),  # noqa: B008 - frozen
        contamination: float = 0.1,
    ) -> None:
        self.norm = norm
        self.network = network
        self.rep_dim = rep_dim
        self.bias = bias
        self.preprocessing = preprocessing
        self.training = training
        self.contamination = contamination

    def _check(self) -> None:
        if self.norm not in get_args(SphereNorm):
            known = ", ".join(map(repr, get_args(SphereNorm)))
            raise InputError(f"Expected norm {known}, got {self.norm!r}.")

    def _width(self) -> int | None:
        return self.rep_dim

    def _module(self, steps: nn.Module, network: nn.Module) -> nn.Module:
        return NormScore(steps, network, self.norm)

    def _objective(self) -> Objective:
        return HypersphereLoss(self.norm)

    def _probability(self, score: Any) -> Tensor:
        return -torch.expm1(-score)
