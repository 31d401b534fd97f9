"""Regularisers against collapse of one-class networks.

They follow the *idea* of Chong et al., "Simple and Effective Prevention of Mode Collapse in Deep
One-Class Classification" (arXiv 2001.08873), whose text was not available to the authors of this
package: random labels predicted from the representation through a cross-entropy, and a penalty on
small variance within a minibatch, with a weight that adapts to the loss. Numbers (10 labels; margin
0.1, a tenth every 3 epochs) are one reading of it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Regularizer = Literal["noise", "variance"]


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


class FixedWeight(nn.Module):
    """``loss + weight * regulariser``."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, loss: Tensor, penalty: Tensor) -> Tensor:
        """The weighted sum."""
        return loss + self.weight * penalty


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
