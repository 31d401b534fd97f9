"""Residual adaptation of a pretrained network to anomaly detection (ADRA, ADIB).

Deecke, Ruff, Vandermeulen, Bilen, "Transfer-based semantic anomaly detection" (ICML 2021): beside
every 3 x 3 convolution ``W`` of a pretrained network runs a 1 x 1 adapter ``a``,

    ``y = BN(W * x + a * x)``.

``W`` is frozen; adapters, batch normalisations and dense layers are trained with binary
cross-entropy of normal rows (0) against outlier exposure (1). ADIB trains all weights ``theta``
instead, and keeps them near the pretrained ones: ``BCE + alpha ||theta - theta_0||``.

A 1 x 1 kernel is a 3 x 3 one that is zero around its centre, so that the adapter can be *folded*:
``W * x + a * x = (W + centre(a)) * x``, exactly. The folded network has the architecture of the
pretrained one. Score: the logit ``f``; relevance is that of the folded network, and biases and the
means of the normalisations absorb their share. What adaptation changed is seen in the network that
is not folded: the relevance of a sum ``W * x + a * x`` goes to its two parts as they make it up.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuralize.deep.adapters import AdaptedConv2d, adapt, adaptable, fold
from neuralize.deep.binary import FocalLoss, LogitScore
from neuralize.deep.outlier_exposure import ExposedDetector
from neuralize.deep.preprocessing import fit_preprocessing, preprocessing
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.training import Batches, Objective, Training, train
from neuralize.errors import InputError
from neuralize.lrp import LRP


@dataclass(frozen=True)
class AdaptationShares:
    """What of a score's relevance runs through adapters, and what through frozen kernels.

    Attributes
    ----------
    paths
        Of the adapted convolutions.
    adapter, frozen
        Relevance of the two parts ``(n, layers)``; together that of their sum.
    adapter_magnitude, frozen_magnitude
        The same by magnitude, ``sum |R|``.
    """

    paths: tuple[str, ...]
    adapter: Tensor
    frozen: Tensor
    adapter_magnitude: Tensor
    frozen_magnitude: Tensor

    @property
    def by_layer(self) -> Tensor:
        """Share of the adapters in the magnitude ``(n, layers)``; the rest is the frozen kernels'.

        NaN where no relevance arrives.
        """
        return self.adapter_magnitude / (self.adapter_magnitude + self.frozen_magnitude)

    @property
    def overall(self) -> Tensor:
        """The same of all layers together ``(n,)``."""
        changed = self.adapter_magnitude.sum(1)
        return changed / (changed + self.frozen_magnitude.sum(1))


class NearPretrained(Objective):
    """``BCE + alpha ||theta - theta_0||`` of the weights ``theta`` of ``network``."""

    def __init__(self, network: nn.Module, alpha: float) -> None:
        super().__init__()
        self.loss, self.alpha = FocalLoss(0.0), alpha
        # in a list, so that the optimizer and the criterion's state do not count them twice
        self.weights = [[p for p in network.parameters() if p.requires_grad]]
        self.start = [[p.detach().clone() for p in self.weights[0]]]

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss of a batch of logits ``(n, 1)``."""
        data: Tensor = self.loss(logits, y)
        if not self.alpha:
            return data
        pairs = zip(self.weights[0], self.start[0], strict=True)
        square = torch.stack([((p - start.to(p)) ** 2).sum() for p, start in pairs]).sum()
        if not bool(square > 0):  # where training starts, the norm has no gradient
            return data
        return data + self.alpha * square.sqrt()


class ResidualAdaptation(ExposedDetector):
    """A pretrained network adapted to tell normal rows from outlier exposure.

    ``fit(X, y)`` takes one label per row: 0 normal, 1 exposed as an outlier.

    Parameters
    ----------
    network
        Pretrained, from rows to features ``(n, q)``; copied. A dense layer to the logit goes on
        top.
    method
        ``"adapters"`` (ADRA): adapters beside the 3 x 3 convolutions, whose kernels are frozen.
        ``"penalty"`` (ADIB): all weights are trained, and kept near where they were.
    alpha
        Weight of that penalty.
    paths
        Convolutions that get an adapter; all 3 x 3 ones when missing.
    preprocessing
        As in :class:`~neuralize.deep.hypersphere.HypersphereClassifier`; a pretrained network
        usually brings its own, so none when missing.
    training, contamination
        As in :class:`~neuralize.deep.hypersphere.HypersphereClassifier`.

    Raises
    ------
    InputError
        From ``fit``: a network without 3 x 3 convolutions, or without features ``(n, q)``.

    Examples
    --------
    >>> network = nn.Sequential(
    ...     nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    >>> x = torch.rand(40, 1, 5, 5)
    >>> x[30:, 0, 2] += 1.0
    >>> y = torch.arange(40) >= 30
    >>> detector = ResidualAdaptation(network, training=Training(epochs=3, batch_size=8)).fit(x, y)
    >>> detector.shares(x).by_layer.shape
    torch.Size([40, 1])
    """

    evidence_name = "logit of an outlier"

    def __init__(
        self,
        network: nn.Module,
        *,
        method: Literal["adapters", "penalty"] = "adapters",
        alpha: float = 1e-2,
        paths: list[str] | None = None,
        preprocessing: str | None = None,
        training: Training = Training(milestones=(30, 40)),  # noqa: B008 - frozen
        contamination: float = 0.1,
    ) -> None:
        self.network = network
        self.method = method
        self.alpha = alpha
        self.paths = paths
        self.preprocessing = preprocessing
        self.training = training
        self.contamination = contamination

    def fold(self) -> nn.Module:
        """The decision without adapters, ``(n, ...)`` to scores ``(n,)``: the same function."""
        self._require_fitted()
        return fold(self.module_)

    def neuralized(self) -> ScoreNetwork:
        self._require_fitted()
        module = copy.deepcopy(self.module_)
        for part in module.modules():
            if isinstance(part, AdaptedConv2d):
                part.merged = True  # folded in the precision it is asked in
        return ScoreNetwork(
            module,
            input_shape=self.input_shape_,
            evidence_name=self.evidence_name,
            threshold=self.threshold_,
            model_name=type(self).__name__,
            composite=self._composite(self.module_),
        )

    def shares(self, X: Any, composite: Any = None) -> AdaptationShares:
        """What of the relevance of rows ``X`` runs through the adapters: what adaptation changed.

        Raises
        ------
        InputError
            A detector without adapters (ADIB).
        """
        self._require_fitted()
        module = copy.deepcopy(self.module_).eval()
        convs = {n: m for n, m in module.named_modules() if isinstance(m, AdaptedConv2d)}
        if not convs:
            raise InputError("method='penalty' has no adapters: there is nothing to tell apart.")
        lrp = LRP(module, composite or self._composite(module))
        rows = max(1, 2**18 // torch.Size(self.input_shape_).numel())
        parts = self._known_rows(X).split(rows)
        found = torch.cat([_shares(lrp, convs, part) for part in parts], 2)
        return AdaptationShares(
            tuple(name.removeprefix("network.encoder.") for name in convs), *found.flatten(0, 1)
        )

    # -- inside ----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.method not in ("adapters", "penalty"):
            raise InputError(f"Expected method 'adapters' or 'penalty', got {self.method!r}.")
        if not isinstance(self.network, nn.Module):
            raise InputError(
                "Expected a pretrained nn.Module as network, got "
                f"{type(self.network).__name__}; there is nothing to adapt without one."
            )
        if not 0 <= self.alpha < float("inf"):
            raise InputError(f"Expected a finite alpha of at least 0, got {self.alpha}.")

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        assert y is not None
        self._check()
        steps = preprocessing(self.preprocessing, tuple(x.shape[1:]))
        fit_preprocessing(steps, x[y == 0])
        with torch.no_grad():
            inner = steps(x)
        self._warn_of_overlap(inner, y == 1)
        assert isinstance(self.network, nn.Module)
        self._require_outputs(self.network, inner[:1])
        with torch.no_grad():
            width = int(copy.deepcopy(self.network).eval()(inner[:1]).shape[1])
        config = {
            "preprocessing": self.preprocessing, "features": width,
            "paths": None if self.method == "penalty" else self.paths or adaptable(self.network),
        }  # fmt: skip
        network = _with_head(self.network, config)
        alpha = self.alpha if self.method == "penalty" else 0.0
        data = Batches(inner, y, outliers=y == 1)
        losses = train(network, NearPretrained(network, alpha), data, self.training,
                       what=f"training {type(self).__name__}")  # fmt: skip
        self.history_[type(self).__name__] = losses
        return LogitScore(steps, network), config

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        if network is None:
            raise InputError(
                "The detector was fitted on a network of the user's own; pass it as network=."
            )
        steps = preprocessing(config["preprocessing"], self.input_shape_)
        return LogitScore(steps, _with_head(network, config))

    def _probability(self, score: Tensor) -> Tensor:
        return torch.sigmoid(score)


def _shares(lrp: LRP, convs: dict[str, AdaptedConv2d], x: Tensor) -> Tensor:
    """Relevance of adapters and frozen kernels, net and by magnitude ``(2, 2, n, layers)``."""
    for conv in convs.values():
        conv.parts = []
    trace = lrp.trace(x)
    outputs = [trace.run.resolve(t) for conv in convs.values() for t in conv.parts or ()]
    shares = iter(torch.autograd.grad(trace.result, outputs, trace.output, allow_unused=True))
    found = torch.zeros(2, 2, len(x), len(convs), dtype=trace.output.dtype)
    for i, conv in enumerate(convs.values()):
        for k in range(len(conv.parts or ())):
            r = next(shares)
            if r is not None:  # 0 the adapter's, 1 the frozen kernel's
                found[0, 1 - k % 2, :, i] += r.flatten(1).sum(1)
                found[1, 1 - k % 2, :, i] += r.flatten(1).abs().sum(1)
    return found


def _with_head(network: nn.Module, config: dict[str, Any]) -> nn.Module:
    """The network, adapted if there are ``paths``, below a dense layer to the logit."""
    if config["paths"] is None:
        encoder = copy.deepcopy(network).requires_grad_(True)
    else:
        encoder = adapt(network, config["paths"])
    return nn.Sequential(OrderedDict(encoder=encoder, head=nn.Linear(config["features"], 1)))
