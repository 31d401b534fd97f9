"""Deep semi-supervised anomaly detection (Ruff et al., ICLR 2020, arXiv 1906.02694).

With ``n`` unlabelled rows, and ``m`` labelled ones ``(x_j, y_j)``, ``y = +1`` normal, ``-1``
anomalous,

    ``min 1/(n+m) sum_i ||phi(x_i) - c||^2 + eta/(n+m) sum_j (||phi(x_j) - c||^2 + eps)^(y_j)``:

labelled anomalies are pushed away from the centre by the inverse of their distance. Network, centre
and score are those of Deep SVDD, and so is the relevance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralize.deep.deep_svdd import CenterRule, OneClassDetector, OneClassLoss, SphereScore
from neuralize.deep.networks import Architecture
from neuralize.deep.training import Objective, Training
from neuralize.errors import InputError

EPS = 1e-6
"""Added to distances before they are inverted."""


class SemiSupervisedLoss(OneClassLoss):
    """Distances of unlabelled rows, and ``eta (d + eps)^y`` of labelled ones; mean over a batch."""

    def __init__(self, center: Tensor, eta: float) -> None:
        super().__init__(center)
        self.eta = eta

    def data_term(self, phi: Tensor, y: Tensor) -> Tensor:
        d = self.distances(phi)
        labelled = self.eta * (d + EPS) ** y.to(d.dtype)
        return torch.where(y == 0, d, labelled).mean()


class DeepSAD(OneClassDetector):
    """Deep SAD: Deep SVDD with some rows labelled.

    ``fit(X, y)`` takes one label per row: 0 unlabelled, +1 known to be normal, -1 anomalous.

    Parameters
    ----------
    eta
        Weight of the labelled rows.
    network, rep_dim, bias, preprocessing, center, pretraining, training, contamination
        As in :class:`~neuralize.deep.deep_svdd.DeepSVDD`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(size=(60, 4)), rng.normal(3.0, 1.0, (6, 4))])
    >>> y = np.repeat([0, -1], [60, 6])
    >>> detector = DeepSAD(training=Training(epochs=5, batch_size=16)).fit(x, y)
    >>> detector.decision_function(x).shape
    (66,)
    """

    def __init__(
        self,
        *,
        eta: float = 1.0,
        network: str | Architecture | nn.Module = "auto",
        rep_dim: int | None = None,
        bias: bool = False,
        preprocessing: str | None = "standardize",
        center: CenterRule = "mean",
        pretraining: Training | None = None,
        training: Training = Training(milestones=(40,)),  # noqa: B008 - frozen
        contamination: float = 0.1,
    ) -> None:
        self.eta = eta
        self.network = network
        self.rep_dim = rep_dim
        self.bias = bias
        self.preprocessing = preprocessing
        self.center = center
        self.pretraining = pretraining
        self.training = training
        self.contamination = contamination

    def _labels(self, y: Any, n: int) -> Tensor | None:
        if y is None:
            raise InputError(
                "Expected labels y, one per row: 0 unlabelled, +1 normal, -1 anomalous. Without "
                "any use DeepSVDD."
            )
        labels = np.asarray(y)
        if labels.shape != (n,) or not np.isin(labels, (-1, 0, 1)).all():
            raise InputError(
                f"Expected {n} labels among 0 (unlabelled), +1 (normal) and -1 (anomalous), got "
                f"shape {labels.shape} with values {sorted(set(labels.ravel().tolist()))[:6]}."
            )
        if (labels == -1).all():
            raise InputError(
                "Expected some rows that are unlabelled or normal, got only anomalies."
            )
        return torch.from_numpy(labels.astype(np.float32))

    def _presumed_normal(self, y: Tensor | None, n: int) -> Tensor:
        assert y is not None
        return y >= 0

    def _objective(self, module: SphereScore, y: Tensor | None) -> Objective:
        if not self.eta > 0:
            raise InputError(f"Expected eta above 0, got {self.eta}.")
        return SemiSupervisedLoss(module.center.clone(), self.eta)
