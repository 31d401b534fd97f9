"""Normalizing flow: RealNVP (Dinh, Sohl-Dickstein, Bengio, ICLR 2017, arXiv 1605.08803).

An invertible network ``z = f(x)`` maps rows to a standard normal, by maximum likelihood. Every
coupling leaves half of the columns, ``a``, and moves the others, ``b``, by what it sees in ``a``,

    ``y_a = x_a``,  ``y_b = x_b * exp(s(x_a)) + t(x_a)``,  ``s = limit * tanh(u(x_a))``,

so that its Jacobian is triangular with ``log |det| = sum s``. Score: the negative log likelihood in
nats,

    ``o(x) = 1/2 ||z||^2 + C - log |det|``,  ``C = d/2 log 2 pi + sum_i log sd_i - sum_i c_i``,

where ``sd`` are the standard deviations that rows are divided by first, and ``c`` the log scales of
activation normalisations (actnorm; Kingma and Dhariwal, NeurIPS 2018).

Relevance: with the gates ``exp(s)`` held constant, as gates are everywhere in LRP, a flow is an
affine map in pieces, ``z = A x + b``, so the score is the energy of a Gaussian with precision
``A^T A`` around ``-A^{-1} b``, and ``-log |det A|`` its normaliser. What is explained is therefore
``1/2 ||z||^2``, operation by operation; ``C`` (``normalization``) and the ``log-determinant`` are
absorbed by name, as in a Gaussian mixture. ``log_determinant="explained"`` sends the latter on
through ``u`` as well.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuralize.deep.detector import DeepDetector
from neuralize.deep.embedding import embed
from neuralize.deep.features import (
    Features,
    build_features,
    encoder_rules,
    fit_features,
)
from neuralize.deep.preprocessing import Standardize
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.traced import held_constant
from neuralize.deep.training import Batches, Objective, Training, train
from neuralize.errors import InputError
from neuralize.network import Neuralized

LOG_DETERMINANT = "log-determinant"


class Coupling(nn.Module):
    """Affine coupling, ``(n, d) -> (n, d)``; starts as the identity.

    Parameters
    ----------
    kept
        Which columns stay as they are and move the others ``(d,)``, boolean.
    hidden
        Widths of the hidden layers.
    limit
        Bound of the log scales.
    """

    stay: Tensor
    move: Tensor
    order: Tensor

    def __init__(self, kept: Tensor, hidden: tuple[int, ...], limit: float) -> None:
        super().__init__()
        stay, move = kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]
        self.register_buffer("stay", stay)
        self.register_buffer("move", move)
        self.register_buffer("order", torch.cat([stay, move]).argsort())
        self.limit = limit
        widths = (len(stay), *hidden)
        layers = [
            layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())
        ]
        last = nn.Linear(widths[-1], 2 * len(move))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*layers, last)

    def scale_and_shift(self, x_a: Tensor) -> tuple[Tensor, Tensor]:
        """``s`` and ``t`` ``(n, |b|)``."""
        u, t = self.network(x_a).chunk(2, 1)
        return self.limit * torch.tanh(u), t

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y``, and ``log |det|`` ``(n,)``."""
        x_a, x_b = x[:, self.stay], x[:, self.move]
        s, t = self.scale_and_shift(x_a)
        y_b = x_b * s.exp() + t
        return torch.cat([x_a, y_b], 1)[:, self.order], s.sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """``x``."""
        y_a, y_b = y[:, self.stay], y[:, self.move]
        s, t = self.scale_and_shift(y_a)
        return torch.cat([y_a, (y_b - t) * (-s).exp()], 1)[:, self.order]


class ActNorm(nn.Module):
    """``y = x * exp(c) + m``, with learned ``c`` and ``m`` ``(d,)``; starts as the identity."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(d))
        self.shift = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        """``y``; its ``log |det|`` is ``log_scale.sum()`` for every row."""
        return x * self.log_scale.exp() + self.shift

    def inverse(self, y: Tensor) -> Tensor:
        """``x``."""
        return (y - self.shift) * (-self.log_scale).exp()


class Flow(nn.Module):
    """Couplings with alternating masks, ``(n, d) -> (n, d)``, with an actnorm before each or none.

    Examples
    --------
    >>> z, log_det = Flow(3, couplings=2, hidden=(4,))(torch.ones(1, 3))
    >>> z.tolist(), log_det.tolist()
    ([[1.0, 1.0, 1.0]], [0.0])
    """

    def __init__(
        self, d: int, couplings: int, hidden: tuple[int, ...], limit: float = 1.0,
        actnorm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        even = torch.arange(d) % 2 == 0
        self.couplings = nn.ModuleList(
            Coupling(even if i % 2 == 0 else ~even, hidden, limit) for i in range(couplings)
        )
        self.norms = nn.ModuleList(
            ActNorm(d) if actnorm else nn.Identity() for _ in range(couplings)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``z``, and ``log |det|`` ``(n,)`` without the actnorms' constant part."""
        parts = []
        for norm, coupling in zip(self.norms, self.couplings, strict=True):
            x, log_det = coupling(norm(x))
            parts.append(log_det)
        return x, torch.stack(parts, 1).sum(1)

    def log_scales(self) -> Tensor:
        """``log |det|`` of the actnorms, the same for every row."""
        found = [norm.log_scale.double().sum() for norm in self.norms if isinstance(norm, ActNorm)]
        return sum(found, torch.zeros((), dtype=torch.float64))

    def inverse(self, z: Tensor) -> Tensor:
        """``x``."""
        for norm, coupling in reversed(list(zip(self.norms, self.couplings, strict=True))):
            assert isinstance(coupling, Coupling)
            z = coupling.inverse(z)
            z = norm.inverse(z) if isinstance(norm, ActNorm) else z
        return z


class FlowScore(nn.Module):
    """Negative log likelihood in nats of rows or features, ``(n, ...) -> (n,)``."""

    normalization: Tensor

    def __init__(self, features: nn.Module, flow: Flow, d: int, absorb: bool) -> None:
        super().__init__()
        self.features = features
        self.preprocessing = Standardize((d,))
        self.flow = flow
        self.absorb = absorb
        self.register_buffer("normalization", torch.zeros((), dtype=torch.float64))

    def settle(self) -> None:
        """Compute the part of the likelihood that is the same for every row."""
        std = self.preprocessing.std.double()
        constant = len(std) / 2 * math.log(2 * math.pi) + std.log().sum()
        self.normalization.copy_(constant - self.flow.log_scales().detach())

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        z, log_det = self.flow(self.preprocessing(self.features(x)))
        energy = (z**2).sum(1) / 2
        gates = held_constant(log_det, LOG_DETERMINANT) if self.absorb else log_det
        score: Tensor = energy - gates + self.normalization
        return score


class NegativeLogLikelihood(Objective):
    """Mean negative log likelihood of standardised rows, in nats."""

    def forward(self, outputs: tuple[Tensor, Tensor, Tensor], y: Tensor) -> Tensor:
        """Loss of a batch."""
        z, log_det, log_scales = outputs
        d = z.shape[1]
        nats = (z**2).sum(1) / 2 - log_det - log_scales + d / 2 * math.log(2 * math.pi)
        return nats.mean()


class _Trained(nn.Module):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (*self.flow(x), self.flow.log_scales())


class RealNVP(DeepDetector):
    """Normalizing flow on rows of a table, or on an encoder's features.

    Parameters
    ----------
    features
        An encoder below the flow: an ``nn.Module`` from rows to ``(n, q)``, held fixed, or an
        :class:`~neuralize.deep.autoencoder.Autoencoder`, whose codes are taken (one that is not
        fitted yet is cloned and fitted first). None for rows ``(n, d)`` as they are.
    couplings, hidden
        Number of couplings, and widths of the hidden layers in each.
    limit
        Bound of the log scales of a coupling: the smaller, the slower densities fall off the data.
    actnorm
        Whether every coupling has a learned scale and shift of all columns before it.
    noise
        Standard deviation of Gaussian noise added to standardised rows in training, which keeps the
        density of few or discrete rows from growing without bound.
    log_determinant
        ``"absorbed"``: gates are held constant, and the log-determinant with them. ``"explained"``:
        it is sent on to the inputs of the gates.
    training
        How it is trained.
    contamination
        Share of training rows above the threshold.

    Examples
    --------
    >>> x = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    >>> detector = RealNVP(hidden=(8,), training=Training(epochs=2)).fit(x)
    >>> detector.decision_function(x[:2]).shape
    (2,)
    """

    evidence_name = "negative log likelihood in nats"

    def __init__(
        self,
        *,
        features: Features | None = None,
        couplings: int = 6,
        hidden: tuple[int, ...] = (64, 64),
        limit: float = 1.0,
        actnorm: bool = True,
        noise: float = 0.2,
        log_determinant: Literal["absorbed", "explained"] = "absorbed",
        training: Training = Training(epochs=100, decay=0.98),  # noqa: B008 - frozen
        contamination: float = 0.1,
    ) -> None:
        self.features = features
        self.couplings = couplings
        self.hidden = hidden
        self.limit = limit
        self.actnorm = actnorm
        self.noise = noise
        self.log_determinant = log_determinant
        self.training = training
        self.contamination = contamination

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        self._check()
        config: dict[str, Any] = {"features": None}
        encoder: nn.Module = nn.Identity()
        if self.features is not None:
            encoder, config["features"] = fit_features(self.features, x, self.history_)
            x = embed(encoder, x)
        elif x.ndim != 2:
            raise InputError(
                f"Expected rows (n, d), got {tuple(x.shape)}; for pictures give an encoder: "
                "features=Autoencoder()."
            )
        config["width"] = d = x.shape[1]
        if d < 2:
            raise InputError("Expected at least 2 columns: a coupling moves some by the others.")
        module = self._module(encoder, d)
        module.preprocessing.fit(x)
        with torch.no_grad():
            inner = module.preprocessing(x.to(module.preprocessing.mean))
        noise = self.noise
        data = Batches(inner, torch.zeros(len(x)), augment=lambda x, y, g: (
            x + noise * torch.randn(x.shape, generator=g, dtype=x.dtype), y))  # fmt: skip
        losses = train(_Trained(module.flow), NegativeLogLikelihood(), data, self.training,
                       what=f"training {type(self).__name__}")  # fmt: skip
        self.history_[type(self).__name__] = losses
        module.settle()
        return module, config

    def neuralized(self) -> Neuralized:
        net = super().neuralized()
        assert isinstance(net, ScoreNetwork)
        net.offsets = (LOG_DETERMINANT, "normalization")
        return net

    def _composite(self, module: nn.Module) -> Any:
        assert isinstance(module, FlowScore)
        return encoder_rules(module.features)

    def _check(self) -> None:
        if self.couplings < 2 or not self.hidden or min(self.hidden) < 1:
            raise InputError(
                "Expected at least 2 couplings, so that every column is moved, and hidden layers "
                f"of at least one unit, got couplings={self.couplings}, hidden={self.hidden}."
            )
        if not self.limit > 0 or not self.noise >= 0:
            raise InputError(
                f"Expected limit > 0 and noise >= 0, got limit={self.limit}, noise={self.noise}."
            )
        if self.log_determinant not in ("absorbed", "explained"):
            raise InputError(
                f"Expected log_determinant 'absorbed' or 'explained', got {self.log_determinant!r}."
            )

    def _module(self, encoder: nn.Module, d: int) -> FlowScore:
        flow = Flow(d, self.couplings, tuple(self.hidden), self.limit, self.actnorm)
        return FlowScore(encoder, flow, d, absorb=self.log_determinant == "absorbed")

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        encoder: nn.Module = nn.Identity()
        if config["features"] is not None:
            encoder = build_features(config["features"], self.input_shape_, network)
        return self._module(encoder, config["width"])
