"""Binary cross-entropy and focal loss with outlier exposure (Ruff et al., arXiv 2006.00339).

A network with one output ``f`` tells normal rows (``y = 0``) from exposed outliers (``y = 1``).
With ``p = 1 / (1 + exp(-f))`` and ``p_t`` the probability of the true label, ``p`` or ``1 - p``,

- BCE: ``min 1/n sum_i -log p_t``;
- focal (Lin et al., ICCV 2017, arXiv 1708.02002): ``min 1/n sum_i -(1 - p_t)^gamma log p_t``, which
  counts rows that are easily told apart for less.

Nothing here keeps normal rows together: a plain classifier of what it was shown. Score: the logit
``f``, which orders rows as ``p`` does without saturating.

Relevance: that of the logit, down the network; negative where a row looks normal. Biases absorb
their share.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.deep.networks import Architecture
from neuralize.deep.outlier_exposure import ExposedDetector
from neuralize.deep.training import Objective, Training
from neuralize.errors import InputError


class LogitScore(nn.Module):
    """``f(x)``, ``(n, ...) -> (n,)``."""

    def __init__(self, steps: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing = steps
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits of rows."""
        return self.network(self.preprocessing(x)).squeeze(1)  # type: ignore[no-any-return]


class FocalLoss(Objective):
    """``-(1 - p_t)^gamma log p_t``, mean over a batch; BCE where ``gamma`` is 0.

    Examples
    --------
    >>> logits, y = torch.tensor([[0.0], [3.0]]), torch.tensor([0.0, 1.0])
    >>> round(FocalLoss(0.0)(logits, y).item(), 4), round(FocalLoss(2.0)(logits, y).item(), 4)
    (0.3709, 0.0867)
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss of a batch of logits ``(n, 1)``."""
        toward = torch.where(y == 1, logits[:, 0], -logits[:, 0])  # the logit of p_t
        loss = F.softplus(-toward)
        if self.gamma:
            loss = loss * torch.exp(self.gamma * F.logsigmoid(-toward))
        return loss.mean()


class BinaryClassifier(ExposedDetector):
    """Classifier of normal rows against outlier exposure, by cross-entropy or focal loss.

    ``fit(X, y)`` takes one label per row: 0 normal, 1 exposed as an outlier.

    Parameters
    ----------
    objective
        ``"bce"`` or ``"focal"``.
    gamma
        Of the focal loss: how much less rows count that are easily told apart.
    network
        ``"auto"`` (by the shape of the rows), a name of :mod:`neuralize.deep.networks`, or an
        ``nn.Module`` from rows to logits ``(n, 1)``, trained in place.
    bias
        Whether named networks have biases and affine normalisations.
    preprocessing, training, contamination
        As in :class:`~neuralize.deep.hypersphere.HypersphereClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(size=(60, 4)), rng.normal(4.0, 1.0, (20, 4))])
    >>> y = np.repeat([0, 1], [60, 20])
    >>> detector = BinaryClassifier(training=Training(epochs=20, batch_size=32)).fit(x, y)
    >>> bool((detector.decision_function(x)[y == 1] > 0).all())
    True
    """

    evidence_name = "logit of an outlier"
    outputs = 1

    def __init__(
        self,
        *,
        objective: Literal["bce", "focal"] = "bce",
        gamma: float = 2.0,
        network: str | Architecture | nn.Module = "auto",
        bias: bool = True,
        preprocessing: str | None = "standardize",
        training: Training = Training(milestones=(40,)),  # noqa: B008 - frozen
        contamination: float = 0.1,
    ) -> None:
        self.objective = objective
        self.gamma = gamma
        self.network = network
        self.bias = bias
        self.preprocessing = preprocessing
        self.training = training
        self.contamination = contamination

    def _check(self) -> None:
        if self.objective not in ("bce", "focal"):
            raise InputError(f"Expected objective 'bce' or 'focal', got {self.objective!r}.")
        if not 0 <= self.gamma < float("inf"):
            raise InputError(f"Expected a finite gamma of at least 0, got {self.gamma}.")

    def _width(self) -> int | None:
        return 1

    def _module(self, steps: nn.Module, network: nn.Module) -> nn.Module:
        return LogitScore(steps, network)

    def _objective(self) -> Objective:
        return FocalLoss(self.gamma if self.objective == "focal" else 0.0)

    def _probability(self, score: Any) -> Tensor:
        return torch.sigmoid(score)
