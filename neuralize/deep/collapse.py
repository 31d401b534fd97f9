"""Collapse of one-class networks: what allows it, how it is measured, and regularisers against it.

A network trained to map everything close to a centre can reach it by mapping everything *onto* it.
Deep SVDD (Ruff et al., ICML 2018, Propositions 1 to 3) names three ways: a zero centre (all weights
zero), biases (a constant map), bounded activations (saturated units are constants). The measure
here is the variance of the representation, as a share of that of the same network with fresh
weights: it needs no labels, and sees what AUROC does not.

The regularisers follow the *idea* of Chong et al., "Simple and Effective Prevention of Mode
Collapse in Deep One-Class Classification" (arXiv 2001.08873), whose text was not available to the
authors of this package: random labels predicted from the representation through a cross-entropy,
and a penalty on small variance within a minibatch, with a weight that adapts to the loss. Numbers
(10 labels; margin 0.1, a tenth every 3 epochs) are one reading of it.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.deep.training import seeded

COLLAPSED = 1e-3
"""Below this share of a fresh network's variance, a representation has collapsed."""

BOUNDED = (
    nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.ReLU6, nn.Softsign, nn.Hardsigmoid, nn.Softmax,
    nn.Hardswish,
)  # fmt: skip
"""Activations with an upper bound on a side a trained unit can reach."""

Regularizer = Literal["noise", "variance"]


def trivial_solutions(network: nn.Module, center: Tensor | None = None) -> list[str]:
    """What in a network, or its centre, allows a constant map, by module path; empty if nothing.

    Examples
    --------
    >>> trivial_solutions(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), torch.zeros(2))
    ['0 (Linear) has a bias', '1 (Tanh) is bounded', 'the centre is zero']
    """
    found = []
    for name, module in network.named_modules():
        label = f"{name or 'the network'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm):
            if getattr(module, "bias", None) is not None:
                found.append(f"{label} has an affine shift")
        elif isinstance(getattr(module, "bias", None), Tensor):
            found.append(f"{label} has a bias")
        if isinstance(module, BOUNDED):
            found.append(f"{label} is bounded")
    if center is not None and not bool(center.abs().max() > 0):
        found.append("the centre is zero")
    return found


def total_variance(phi: Tensor) -> float:
    """Sum over dimensions of the variance of ``phi`` ``(n, q)``."""
    return float(phi.double().flatten(1).var(0, unbiased=False).sum())


def variance_share(network: nn.Module, x: Tensor, *, seed: int = 0, rows: int = 512) -> float:
    """Variance of ``network(x)`` as a share of the same network's with fresh weights.

    Examples
    --------
    >>> dead = nn.Linear(3, 2)
    >>> _ = nn.init.zeros_(dead.weight)
    >>> variance_share(dead, torch.randn(20, 3))
    0.0
    """
    x = x[:rows]
    with torch.no_grad():
        trained = copy.deepcopy(network).eval()
        now = total_variance(trained(x))
        before = total_variance(_fresh(network, x, seed)(x))
    return now / before if before > 0 else float("nan")


def _fresh(network: nn.Module, x: Tensor, seed: int) -> nn.Module:
    """A copy with new weights, whose normalisations know the data."""
    fresh = copy.deepcopy(network)
    with seeded(seed):
        for module in fresh.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    norms = [m for m in fresh.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average of one batch: its statistics
    fresh.train()
    fresh(x)
    return fresh.eval()


class NoiseRegularizer(nn.Module):
    """Cross-entropy of random labels, drawn anew every step, predicted from the representation.

    The best constant answer costs ``log 2``; only a representation that varies allows less.
    """

    def __init__(self, rep_dim: int, labels: int = 10) -> None:
        super().__init__()
        self.head = nn.Linear(rep_dim, labels)
        self.labels = labels

    def forward(self, phi: Tensor) -> Tensor:
        """Mean binary cross-entropy."""
        noise = torch.randint(2, (len(phi), self.labels), device=phi.device).to(phi)
        return F.binary_cross_entropy_with_logits(self.head(phi), noise)

    def end_of_epoch(self, epoch: int) -> None:
        """Nothing to anneal."""


class VarianceRegularizer(nn.Module):
    """``max(0, d - V)``, ``V`` the total variance of the minibatch's representation.

    Parameters
    ----------
    margin, factor, every
        ``d``, and by what it is divided every so many epochs.
    """

    def __init__(self, margin: float = 0.1, factor: float = 10.0, every: int = 3) -> None:
        super().__init__()
        self.margin, self.factor, self.every = margin, factor, every

    def forward(self, phi: Tensor) -> Tensor:
        """The hinge."""
        return F.relu(self.margin - phi.var(0, unbiased=False).sum())

    def end_of_epoch(self, epoch: int) -> None:
        """Anneal the margin."""
        if (epoch + 1) % self.every == 0:
            self.margin /= self.factor


class AdaptiveWeight(nn.Module):
    """Weight that keeps a regulariser at a share of the loss: ``a = share * loss / regulariser``.

    Running averages of both, so that one batch does not decide.
    """

    def __init__(self, share: float = 0.1, memory: float = 0.9) -> None:
        super().__init__()
        self.share, self.memory = share, memory
        self.loss = self.penalty = float("nan")

    def forward(self, loss: Tensor, penalty: Tensor) -> Tensor:
        """The weighted sum."""
        now = (float(loss.detach()), float(penalty.detach()))
        if self.loss != self.loss:
            self.loss, self.penalty = now
        self.loss = self.memory * self.loss + (1 - self.memory) * now[0]
        self.penalty = self.memory * self.penalty + (1 - self.memory) * now[1]
        weight = self.share * self.loss / self.penalty if self.penalty > 0 else 0.0
        return loss + weight * penalty


def regularizer(name: str, rep_dim: int) -> NoiseRegularizer | VarianceRegularizer:
    """One of the regularisers by name."""
    return NoiseRegularizer(rep_dim) if name == "noise" else VarianceRegularizer()
