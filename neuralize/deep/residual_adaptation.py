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
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.deep.binary import FocalLoss, LogitScore
from neuralize.deep.outlier_exposure import ExposedDetector
from neuralize.deep.preprocessing import fit_preprocessing, preprocessing
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.training import Batches, Objective, Training, train
from neuralize.errors import InputError
from neuralize.lrp import LRP

TRAINED = (nn.Linear, nn.modules.batchnorm._BatchNorm)
"""What is trained of a frozen network, beside its adapters."""


class AdaptedConv2d(nn.Module):
    """``W * x + a * x``, a frozen 3 x 3 convolution beside a 1 x 1 one, which starts at zero.

    Attributes
    ----------
    frozen, adapter
        The two.
    parts
        Their outputs are added here, pass by pass, where somebody made it a list.
    merged
        Whether it runs as one convolution with the folded kernel.
    """

    parts: list[Tensor] | None = None
    merged: bool = False

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.frozen = conv.requires_grad_(False)
        stride = (conv.stride[0], conv.stride[1])
        self.adapter = nn.Conv2d(
            conv.in_channels, conv.out_channels, 1, stride, groups=conv.groups, bias=False
        ).to(conv.weight)
        nn.init.zeros_(self.adapter.weight)
        # output (i, j) of the convolution is centred on input (i, j) * stride - shift
        assert not isinstance(conv.padding, str)
        self.shift = [p - d for p, d in zip(conv.padding, conv.dilation, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution gives, and what the adapter adds."""
        if self.merged:
            conv = self.frozen
            return F.conv2d(
                x, self.kernel, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
            )
        a, b = self.frozen(x), self.adapter(self._centres(x))
        if self.parts is not None:
            self.parts += a, b
        z: Tensor = a + b
        return z

    def _centres(self, x: Tensor) -> Tensor:
        top, left = self.shift
        if top < 0 or left < 0:
            height, width = x.shape[-2:]
            rows = slice(max(0, -top), height - max(0, -top))
            x = x[..., rows, slice(max(0, -left), width - max(0, -left))]
        if top > 0 or left > 0:
            x = F.pad(x, (max(0, left),) * 2 + (max(0, top),) * 2)
        return x

    @property
    def kernel(self) -> Tensor:
        """The folded kernel."""
        return self.frozen.weight + F.pad(self.adapter.weight, (1, 1, 1, 1))

    def folded(self) -> nn.Conv2d:
        """The one convolution that does the same."""
        conv = copy.deepcopy(self.frozen)
        with torch.no_grad():
            conv.weight.copy_(self.kernel)
        return conv


def adaptable(network: nn.Module) -> list[str]:
    """Paths of the 3 x 3 convolutions, which can take an adapter.

    Examples
    --------
    >>> adaptable(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1)))
    ['0']
    """
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    ]


def adapt(network: nn.Module, paths: list[str] | None = None) -> nn.Module:
    """A copy with adapters beside the convolutions at ``paths``, and all else frozen but BN, dense.

    Raises
    ------
    InputError
        No 3 x 3 convolution, or a path that is not one.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
    >>> [name for name, p in adapt(network).named_parameters() if p.requires_grad]
    ['0.adapter.weight', '1.weight', '1.bias']
    """
    adapted = copy.deepcopy(network).requires_grad_(False)
    known = adaptable(adapted)
    chosen = known if paths is None else paths
    if not chosen or not set(chosen) <= set(known):
        raise InputError(
            "Expected paths of 3 x 3 convolutions (zero padding, given as a number) in the "
            f"network, got {chosen}; it has {known}."
        )
    for module in adapted.modules():
        if isinstance(module, TRAINED):
            module.requires_grad_(True)
    for path in chosen:
        conv = adapted.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)
        adapted = _replaced(adapted, path, AdaptedConv2d(conv))
    return adapted


def fold(network: nn.Module) -> nn.Module:
    """A copy whose adapters are added to the centres of the kernels beside them: the same function.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2))
    >>> adapted = adapt(network)
    >>> _ = nn.init.normal_(adapted[0].adapter.weight)
    >>> x = torch.randn(1, 1, 7, 7)
    >>> torch.allclose(fold(adapted)(x), adapted(x), atol=1e-6), type(fold(adapted)[0]).__name__
    (True, 'Conv2d')
    """
    folded = copy.deepcopy(network)
    for path, module in list(folded.named_modules()):
        if isinstance(module, AdaptedConv2d):
            folded = _replaced(folded, path, module.folded())
    return folded


def _replaced(network: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    above, _, name = path.rpartition(".")
    setattr(network.get_submodule(above), name, module)
    return network


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
        found = torch.cat([_shares(lrp, convs, part) for part in self._rows(X).split(rows)], 2)
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
