"""Fully convolutional data description (Liznerski et al., ICLR 2021, arXiv 2007.01760).

A fully convolutional network ``phi`` turns a picture into one number per place; the pseudo-Huber
function makes the anomaly map of it, and the mean of the map is the score:

    ``A(x) = sqrt(phi(x)^2 + 1) - 1``, ``o(x) = mean A(x)``.

With labels ``y`` (0 normal, 1 anomalous) training minimises

    ``1/n sum_i (1 - y_i) mean A(x_i) - y_i log(1 - exp(-mean A(x_i)))``,

and with ground truth maps ``Y``, ``A'`` being ``A`` at the size of the picture,

    ``1/n sum_i mean((1 - Y_i) A'(x_i)) - [Y_i has a 1] log(1 - exp(-mean(Y_i A'(x_i))))``.

Anomalies may be pictures of other things (outlier exposure) or synthetic (confetti).

Two explanations, which are not the same. ``anomaly_map`` is ``A'``, the network's own map spread by
a Gaussian over what each unit *can* see; it does not add up to the score. Relevance starts at the
score, of which unit ``d`` has the share ``A_d / uv``, and goes through ``phi`` to the pixels that a
unit *did* use; with what biases absorb it adds up. ``sqrt(z + 1) - 1 = z / (sqrt(z + 1) + 1)``, so
the share passes to ``phi`` whole, with the denominator held constant.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from neuralize.deep.confetti import Confetti
from neuralize.deep.detector import Array, DeepDetector
from neuralize.deep.fully_convolutional import (
    Backbone,
    FullyConvolutional,
    fully_convolutional,
    map_width,
)
from neuralize.deep.preprocessing import fit_preprocessing, inner_shape, preprocessing
from neuralize.deep.receptive_field import receptive_field
from neuralize.deep.training import Batches, Objective, Training, train
from neuralize.deep.upsampling import GaussianUpsampling
from neuralize.errors import InputError, TrainingWarning

EPS = 1e-31
"""Added to the probability of being anomalous before its logarithm, as in the authors' code."""

CONFETTI = 0.5
"""Share of normal pictures that get confetti where no anomalies are known."""


def pseudo_huber(phi: Tensor) -> Tensor:
    """``sqrt(phi^2 + 1) - 1``, without cancellation near zero.

    Examples
    --------
    >>> [f"{a:.3g}" for a in pseudo_huber(torch.tensor([0.0, 1e-4, 3.0])).tolist()]
    ['0', '5e-09', '2.16']
    """
    z = phi**2
    return z / (torch.sqrt(z + 1) + 1)


class MapScore(nn.Module):
    """``mean A(x)``, ``(n, ...) -> (n,)``."""

    def __init__(self, steps: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing = steps
        self.network = network

    def response(self, x: Tensor) -> Tensor:
        """``phi(x)`` ``(n, u, v)``."""
        phi: Tensor = self.network(self.preprocessing(x))
        return phi[:, 0]

    def native_map(self, x: Tensor) -> Tensor:
        """``A(x)`` ``(n, u, v)``."""
        return pseudo_huber(self.response(x))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        score: Tensor = self.native_map(x).mean((1, 2))
        return score


class MapLoss(Objective):
    """The loss by labels, of responses ``phi`` ``(n, u, v)`` and ``y`` ``(n,)``."""

    def forward(self, phi: Tensor, y: Tensor) -> Tensor:
        """Loss of a batch."""
        score = pseudo_huber(phi).mean((1, 2))
        return torch.where(y > 0, surprise(score), score).mean()


class PixelLoss(Objective):
    """The loss by ground truth maps, of ``phi`` ``(n, u, v)`` and ``y`` ``(n, h, w)``."""

    def __init__(self, upsampling: GaussianUpsampling) -> None:
        super().__init__()
        self.upsampling = upsampling

    def forward(self, phi: Tensor, y: Tensor) -> Tensor:
        """Loss of a batch."""
        heat = self.upsampling(pseudo_huber(phi))
        normal = ((1 - y) * heat).mean((1, 2))
        found = surprise((y * heat).mean((1, 2)))
        loss: Tensor = (normal + torch.where(y.amax((1, 2)) > 0, found, 0.0)).mean()
        return loss


def surprise(score: Tensor) -> Tensor:
    """``-log(1 - exp(-score))``: what an anomaly costs that scores low."""
    return -torch.log(-torch.expm1(-score) + EPS)


class FCDD(DeepDetector):
    """FCDD: a detector whose score is the mean of an anomaly map.

    ``fit(X, y, masks=None)`` takes 0 for normal and 1 for anomalous pictures; without any of these
    it trains on confetti. Ground truth ``masks`` ``(m, h, w)`` belong to the ``m`` anomalous
    pictures in their order, or ``(n, h, w)`` to all; a few are enough.

    Parameters
    ----------
    network
        ``"light"``, ``"cnn28"`` or ``"cnn32"`` (the authors' for 28 and 32 pixels), or an
        ``nn.Module`` from pictures to maps ``(n, c, u, v)``: it is copied, and gets a 1 x 1
        convolution to one map if ``c`` is not 1.
    bias
        Whether named networks have biases and affine normalisations; not, by the authors' default.
    frozen
        How many children of a network of your own keep their weights (a pretrained stem).
    preprocessing
        ``"standardize"``, ``"contrast"`` or None.
    confetti
        Share of normal pictures that become synthetic anomalies in each batch; 0.5 when missing
        and no anomalies are given, else 0.
    sigma
        Of the Gaussian by which maps are brought to the size of the picture, in pixels; by their
        size when missing.
    training
        How the network is trained.
    contamination
        Share of training rows above the threshold.

    References
    ----------
    .. [1] Liznerski, Ruff, Vandermeulen, Franks, Kloft, Mueller. Explainable Deep One-Class
       Classification. ICLR 2021 (arXiv 2007.01760).

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(20, 12, 12)).astype("float32")
    >>> detector = FCDD(training=Training(epochs=2)).fit(x)
    >>> detector.decision_function(x[:2]).shape, detector.anomaly_map(x[:2]).shape
    ((2,), (2, 12, 12))
    """

    evidence_name = "mean of the anomaly map"

    def __init__(
        self,
        *,
        network: str | nn.Module = "light",
        bias: bool = False,
        frozen: int = 0,
        preprocessing: str | None = "standardize",
        confetti: float | None = None,
        sigma: float | None = None,
        training: Training = Training(epochs=10, milestones=(7,)),  # noqa: B008 - frozen
        contamination: float = 0.1,
    ) -> None:
        self.network = network
        self.bias = bias
        self.frozen = frozen
        self.preprocessing = preprocessing
        self.confetti = confetti
        self.sigma = sigma
        self.training = training
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None, *, masks: Any = None) -> Self:
        """Fit to pictures ``(n, h, w)`` or ``(n, c, h, w)``; see the class for ``y`` and ``masks``.

        Raises
        ------
        InputError
            Pictures, labels or masks that do not fit each other; no normal picture.
        TrainingError
            A loss that is not finite from the start.

        Warns
        -----
        TrainingWarning
            Anomalous pictures that are copies of normal ones.
        """
        self._masks = None if masks is None else np.asarray(masks)
        try:
            return super().fit(X, y)
        finally:
            del self._masks

    def native_map(self, X: Any) -> Array:
        """``A`` ``(n, u, v)``, one number per unit."""
        self._require_fitted()
        module = self.module_
        assert isinstance(module, MapScore)
        return self._mapped(X, module.native_map)

    def anomaly_map(self, X: Any, sigma: float | None = None) -> Array:
        """``A'`` ``(n, h, w)``: the map at the size of the pictures.

        ``sigma`` of the Gaussian in pixels is the detector's own when missing. Non-negative, in the
        unit of the score. It says where the network responds, not which pixels made it respond (for
        that explain the detector), and does not add up to the score.

        Raises
        ------
        InputError
            The detector was fitted on rows that are no pictures.
        """
        self._require_fitted()
        module = self.module_
        assert isinstance(module, MapScore)
        up = self._upsampling(module, sigma)
        return self._mapped(X, lambda x: up(module.native_map(x)))

    def _upsampling(self, module: MapScore, sigma: float | None = None) -> GaussianUpsampling:
        shape = inner_shape(self.input_shape_)
        field = receptive_field(module.network, shape)
        return GaussianUpsampling(
            field, (shape[1], shape[2]), self.sigma if sigma is None else sigma
        )

    def _labels(self, y: Any, n: int) -> Tensor | None:
        masks = self._masks
        if masks is not None and masks.ndim != 3:
            raise InputError(f"Expected masks (m, h, w), got shape {masks.shape}.")
        if y is None:
            if masks is not None and len(masks) != n:
                raise InputError(
                    f"Expected a mask for each of {n} pictures, or labels y that say whose the "
                    f"{len(masks)} masks are."
                )
            y = np.zeros(n) if masks is None else masks.any((1, 2))
        labels = np.asarray(y)
        if labels.shape != (n,) or not np.isin(labels, (0, 1)).all():
            raise InputError(
                f"Expected {n} labels among 0 (normal) and 1 (anomalous), got shape "
                f"{labels.shape} with values {sorted(set(labels.ravel().tolist()))[:6]}."
            )
        if (labels == 1).all():
            raise InputError("Expected some normal pictures, got only anomalies.")
        return torch.from_numpy(labels.astype(np.float32))

    def _presumed_normal(self, y: Tensor | None, n: int) -> Tensor:
        assert y is not None
        return y == 0

    def _truth(self, x: Tensor, y: Tensor) -> Tensor:
        """Ground truth maps of all pictures ``(n, h, w)``."""
        masks = self._masks
        assert masks is not None
        anomalous = (y == 1).nonzero()[:, 0]
        size = tuple(inner_shape(x.shape[1:])[1:])
        counts = {len(x), len(anomalous)}
        if masks.shape[1:] != size or len(masks) not in counts:
            raise InputError(
                f"Expected masks of size {size}, one for each of {len(anomalous)} anomalous "
                f"pictures or of all {len(x)}, got shape {masks.shape}."
            )
        found = torch.from_numpy((masks != 0).astype(np.float32))
        truth = torch.zeros(len(x), *size)
        truth[anomalous] = found if len(found) == len(anomalous) else found[anomalous]
        if not bool(truth[anomalous].amax((1, 2)).all()):
            raise InputError("A mask of an anomalous picture is empty. Leave the picture out.")
        if len(found) == len(x) and bool(found[y == 0].any()):
            raise InputError("A picture labelled normal has a mask that is not empty.")
        return truth

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        assert y is not None
        steps = preprocessing(self.preprocessing, tuple(x.shape[1:]))
        inner = fit_preprocessing(steps, x[y == 0])
        network, config = self._network(inner)
        module = MapScore(steps, network)
        if self._masks is None:
            _warn_of_copies(x, y)
        objective: Objective = MapLoss()
        target = y
        if self._masks is not None:
            objective, target = PixelLoss(self._upsampling(module)), self._truth(x, y)
        share = self.confetti
        if share is None:
            share = 0.0 if bool(y.any()) else CONFETTI
        if not share and not bool(y.any()):
            raise InputError(
                "Nothing to train against: no anomalies given, and confetti=0. Pass some with "
                "label 1, or leave confetti away."
            )
        augment = self._confetti(x[y == 0], share) if share else None
        data = Batches(x, target, outliers=y > 0 if bool(y.any()) else None, augment=augment)
        if isinstance(network, Backbone):
            network.freeze()
        self.history_["FCDD"] = train(
            Responses(module), objective, data, self.training, what="training FCDD"
        )
        if isinstance(network, Backbone):
            network.freeze(False)
        return module, config

    def _confetti(self, x: Tensor, share: float) -> Confetti:
        if x.ndim < 3:
            raise InputError(
                f"Confetti is for pictures, got rows of shape {tuple(x.shape[1:])}. Pass anomalies "
                "of your own with label 1."
            )
        return Confetti(low=float(x.min()), high=float(x.max()), probability=share)

    def _network(self, x: Tensor) -> tuple[nn.Module, dict[str, Any]]:
        config: dict[str, Any] = {"preprocessing": self.preprocessing, "network": "custom"}
        if isinstance(self.network, str):
            if self.frozen:
                raise InputError(
                    f"Expected frozen=0 with the network {self.network!r}, whose weights are "
                    f"random, got {self.frozen}."
                )
            plan = fully_convolutional(self.network, tuple(x.shape[1:]), bias=self.bias)
            config["network"] = plan.model_dump(mode="json")
            return plan.build(), config
        config["width"] = width = map_width(self.network, x)
        return Backbone(self.network, self.frozen, width), config

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        steps = preprocessing(config["preprocessing"], self.input_shape_)
        if config["network"] != "custom":
            return MapScore(steps, FullyConvolutional(**config["network"]).build())
        if network is None:
            raise InputError(
                "The detector was fitted on a network of the user's own; pass it as network=."
            )
        return MapScore(steps, Backbone(network, self.frozen, config["width"]))


def _warn_of_copies(x: Tensor, y: Tensor) -> None:
    """Warn if pictures are both normal and anomalous."""
    normal = {row.tobytes() for row in x[y == 0].numpy()}
    copies = sum(row.tobytes() in normal for row in x[y == 1].numpy())
    if copies:
        warnings.warn(
            f"{copies} of {int((y == 1).sum())} anomalous pictures are copies of normal ones: FCDD "
            "is told that they are both. Leave them out.",
            TrainingWarning,
            stacklevel=5,
        )


class Responses(nn.Module):
    """A scoring module up to its responses: what is trained."""

    def __init__(self, module: MapScore) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """``phi(x)`` ``(n, u, v)``."""
        return self.module.response(x)
