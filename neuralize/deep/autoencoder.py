"""Autoencoders and variational autoencoders as anomaly detectors.

An encoder ``f`` and a decoder ``g`` are trained to give back the (preprocessed) rows,
``r(x) = g(f(x))``; what they cannot give back is abnormal (Hawkins et al., DaWaK 2002; Sakurada and
Yairi, MLSDA 2014),

    ``o(x) = sum_i (x_i - r_i(x))^2``.

In a variational autoencoder (Kingma and Welling, ICLR 2014, arXiv 1312.6114) the encoder gives
mean ``mu`` and log variance ``v`` of ``q(z | x)``, and ``r`` is the reconstruction of the mean
code. With observation noise of variance ``s^2``, learned,

    ``-ELBO(x) = o(x) / 2 s^2 + d/2 log(2 pi s^2) + 1/2 sum_k (mu_k^2 + exp(v_k) - 1 - v_k)``,

where the expectation over codes is taken at their mean, so that a row always has the same score.

Two explanations, which say different things:

- the *residual map* ``(x_i - r_i)^2`` (:meth:`Autoencoder.residual_map`) says where input and
  reconstruction differ. It sums to ``o``, but it holds ``r`` constant, as if the reconstruction did
  not depend on the input: it is no attribution of the score to the input.
- relevance (:func:`neuralize.neuralize`) says which inputs the score came from, through both
  branches: with ``e = x - r``, ``x_i e_i`` goes to the input directly, and ``-r_i e_i`` goes on
  through decoder and encoder to those inputs that ``r_i`` was made of.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuralize.composites import LINEAR, Composite
from neuralize.deep.detector import Array, DeepDetector
from neuralize.deep.networks import Architecture, architecture, fitting
from neuralize.deep.preprocessing import fit_preprocessing, preprocessing
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.training import Batches, Objective, Training, train
from neuralize.encoder import evaluating
from neuralize.errors import InputError
from neuralize.network import Neuralized
from neuralize.rules.named import Gamma

AT_ONCE = 256
"""Rows that are mapped together."""

LOG_2PI = math.log(2 * math.pi)

RULES = Composite("GammaEverywhere", ((LINEAR, Gamma(0.25)),))
"""Gamma in all layers: behind ``x - r`` relevance has both signs, and LRP-0 divides it by units
near zero (measured: |relevance| some 40 times the score, and with gamma twice)."""


class AutoencoderScore(nn.Module):
    """``||x - g(f(x))||^2`` of preprocessed rows, ``(n, ...) -> (n,)``."""

    def __init__(self, steps: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.preprocessing = steps
        self.encoder = encoder
        self.decoder = decoder

    def code(self, inner: Tensor) -> Tensor:
        """Code ``(n, q)`` of preprocessed rows."""
        z: Tensor = self.encoder(inner)
        return z

    def residual(self, x: Tensor) -> Tensor:
        """``x - r(x)`` of preprocessed rows."""
        inner = self.preprocessing(x)
        difference: Tensor = inner - self.decoder(self.code(inner))
        return difference

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        score: Tensor = (self.residual(x) ** 2).flatten(1).sum(1)
        return score


class VariationalScore(AutoencoderScore):
    """``||x - g(mu(x))||^2``, or the negative ELBO with the code at its mean."""

    noise: Tensor
    normalization: Tensor

    def __init__(
        self, steps: nn.Module, encoder: nn.Module, decoder: nn.Module, elbo: bool
    ) -> None:
        super().__init__(steps, encoder, decoder)
        self.elbo = elbo
        self.register_buffer("noise", torch.ones(()))
        self.register_buffer("normalization", torch.zeros(()))

    def posterior(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        """``mu`` and ``v`` ``(n, q)`` of preprocessed rows."""
        mu, v = self.encoder(inner).chunk(2, 1)
        return mu, v.clamp(-10, 10)

    def code(self, inner: Tensor) -> Tensor:
        return self.posterior(inner)[0]

    def forward(self, x: Tensor) -> Tensor:
        if not self.elbo:
            return super().forward(x)
        inner = self.preprocessing(x)
        mu, v = self.posterior(inner)
        error = ((inner - self.decoder(mu)) ** 2).flatten(1).sum(1)
        nats: Tensor = error / (2 * self.noise) + divergence(mu, v) + self.normalization
        return nats


def divergence(mu: Tensor, v: Tensor) -> Tensor:
    """``KL(N(mu, exp v) || N(0, 1))`` ``(n,)``.

    ``exp(v) - 1`` is one term here: apart, both would be of order one where their sum vanishes, and
    so would their relevance.

    Examples
    --------
    >>> divergence(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)).tolist()
    [2.0]
    """
    return (mu**2 + (torch.expm1(v) - v)).sum(1) / 2


class _Sampling(nn.Module):
    """What is trained: reconstruction from a drawn code, and the posterior it was drawn from."""

    def __init__(self, score: VariationalScore) -> None:
        super().__init__()
        self.encoder, self.decoder = score.encoder, score.decoder
        self.score = [score]  # not a submodule

    def forward(self, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, v = self.score[0].posterior(inner)
        z = mu + torch.randn_like(mu) * (v / 2).exp() if self.training else mu
        return self.decoder(z), mu, v


class SquaredError(Objective):
    """Squared error of the reconstruction, summed over a row's entries; mean over a batch."""

    def forward(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        """Loss of a batch."""
        return ((reconstruction - x) ** 2).flatten(1).sum(1).mean()


class NegativeELBO(Objective):
    """Reconstruction under Gaussian noise of learned variance, plus ``beta`` times the divergence.

    One variance for all entries, as in sigma-VAE (Rybkin et al., ICML 2021, arXiv 2006.13202).
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.log_noise = nn.Parameter(torch.zeros(()))

    def forward(self, outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        """Loss of a batch, in nats."""
        reconstruction, mu, v = outputs
        error = ((reconstruction - x) ** 2).flatten(1).sum(1)
        nats = error / (2 * self.log_noise.exp()) + x[0].numel() / 2 * (LOG_2PI + self.log_noise)
        return (nats + self.beta * divergence(mu, v)).mean()


class Autoencoder(DeepDetector):
    """Autoencoder; the score is the sum of squared residuals.

    Parameters
    ----------
    network
        ``"auto"`` (by the shape of the rows), a name or an architecture as in
        :class:`~neuralize.deep.deep_svdd.DeepSVDD`, or an ``nn.Module`` with submodules ``encoder``
        and ``decoder``, trained in place.
    rep_dim
        Width of the code; that of the named network when missing, in tables at most half the
        number of columns.
    bias
        Whether layers of named networks have biases. They fit better, and absorb relevance.
    preprocessing
        ``"standardize"``, ``"contrast"`` or None; residuals are those of preprocessed rows. Without
        standardising, pictures are decoded into 0 to 1 by a sigmoid, and black gets no relevance
        on the direct branch.
    training
        How it is trained.
    contamination
        Share of training rows above the threshold.

    Examples
    --------
    >>> x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 6)
    >>> detector = Autoencoder(training=Training(epochs=5, batch_size=16)).fit(x)
    >>> detector.decision_function(x[:3]).shape, detector.residual_map(x[:3]).shape
    ((3,), (3, 6))
    """

    evidence_name = "sum of squared residuals"

    def __init__(
        self,
        *,
        network: str | Architecture | nn.Module = "auto",
        rep_dim: int | None = None,
        bias: bool = False,
        preprocessing: str | None = "standardize",
        training: Training = Training(),  # noqa: B008 - frozen
        contamination: float = 0.1,
    ) -> None:
        self.network = network
        self.rep_dim = rep_dim
        self.bias = bias
        self.preprocessing = preprocessing
        self.training = training
        self.contamination = contamination

    def residual_map(self, X: Any) -> Array:
        """Squared residuals ``(x_i - r_i)^2``, in the shape of the rows.

        They sum to the reconstruction score exactly, and hold the reconstruction constant: where it
        fails, not which inputs made it fail. That is what relevance is for.
        """
        self._require_fitted()
        module = self.module_
        assert isinstance(module, AutoencoderScore)
        residual = self._mapped(X, module.residual)
        return residual.reshape(len(residual), *self.input_shape_) ** 2

    def _composite(self, module: nn.Module) -> Any:
        return RULES

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        steps = preprocessing(self.preprocessing, tuple(x.shape[1:]))
        inner = fit_preprocessing(steps, x)
        config: dict[str, Any] = {"preprocessing": self.preprocessing, "network": "custom"}
        pair = self.network
        if isinstance(pair, str | Architecture):
            plan = self._plan(pair, inner)
            config["network"] = plan.model_dump(mode="json")
            pair = self._pair(plan)
        module = self._module(steps, pair)
        with torch.no_grad(), evaluating(module):
            self._check_shapes(module, inner[:2])
        self._fit(module, inner)
        return module, config

    def _plan(self, network: str | Architecture, inner: Tensor) -> Architecture:
        """The named network; ``rep_dim`` is the width of its code."""
        shape, squash = tuple(inner.shape[1:]), self.preprocessing != "standardize"
        changes: dict[str, Any] = {"bias": self.bias, "affine": self.bias, "squash": squash}
        if self.rep_dim is not None:
            changes["rep_dim"] = self.rep_dim
        if isinstance(network, Architecture):
            plan = fitting(network, shape).model_copy(update={"squash": squash})
        else:
            plan = architecture(network, shape, **changes)
        if plan.kind == "lenet" and squash and (inner.min() < 0 or inner.max() > 1):
            raise InputError(
                f"Expected pictures in 0 to 1, which the decoder's sigmoid can reach, got "
                f"{float(inner.min()):.4g} to {float(inner.max()):.4g}. Use "
                "preprocessing='standardize'."
            )
        if self.rep_dim is None and isinstance(network, str) and plan.kind == "mlp":
            plan = plan.model_copy(update={"rep_dim": min(plan.rep_dim, max(1, shape[0] // 2))})
        return plan

    def _pair(self, plan: Architecture) -> nn.Module:
        return nn.ModuleDict({"encoder": plan.build(), "decoder": plan.decoder()})

    def _module(self, steps: nn.Module, pair: nn.Module) -> AutoencoderScore:
        return AutoencoderScore(steps, *_halves(pair))

    def _fit(self, module: Any, inner: Tensor) -> None:
        pair = nn.Sequential(module.encoder, module.decoder)
        losses = train(pair, SquaredError(), Batches(inner, inner), self.training,
                       what=f"training {type(self).__name__}")  # fmt: skip
        self.history_[type(self).__name__] = losses

    def _check_shapes(self, module: AutoencoderScore, inner: Tensor) -> None:
        code = module.code(inner)
        if code.ndim != 2:
            raise InputError(
                f"Expected codes (n, q) from the encoder, got {tuple(code.shape)}; end it with "
                "nn.Flatten()."
            )
        found = module.decoder(code).shape
        if found != inner.shape:
            raise InputError(
                f"Expected reconstructions of the rows' shape {tuple(inner.shape[1:])} from the "
                f"decoder, got {tuple(found[1:])}."
            )

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        pair = network
        if config["network"] != "custom":
            pair = self._pair(Architecture(**config["network"]))
        elif pair is None:
            raise InputError(
                "The detector was fitted on a network of the user's own; pass it as network=."
            )
        return self._module(preprocessing(config["preprocessing"], self.input_shape_), pair)


class VariationalAutoencoder(Autoencoder):
    """Variational autoencoder; its score is deterministic.

    Parameters
    ----------
    score
        ``"reconstruction"``: squared residuals of the mean code. ``"elbo"``: the negative ELBO in
        nats, with the code at its mean.
    beta
        Weight of the divergence in training.
    network, rep_dim, bias, preprocessing, training, contamination
        As in :class:`Autoencoder`. An encoder of your own gives ``(n, 2 q)``: means, then log
        variances.

    Examples
    --------
    >>> x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 6)
    >>> training = Training(epochs=5, batch_size=16)
    >>> VariationalAutoencoder(score="elbo", training=training).fit(x).predict(x[:3]).shape
    (3,)
    """

    def __init__(
        self,
        *,
        score: Literal["reconstruction", "elbo"] = "reconstruction",
        beta: float = 1.0,
        network: str | Architecture | nn.Module = "auto",
        rep_dim: int | None = None,
        bias: bool = False,
        preprocessing: str | None = "standardize",
        training: Training = Training(),  # noqa: B008 - frozen
        contamination: float = 0.1,
    ) -> None:
        super().__init__(
            network=network, rep_dim=rep_dim, bias=bias, preprocessing=preprocessing,
            training=training, contamination=contamination,
        )  # fmt: skip
        self.score = score
        self.beta = beta

    def neuralized(self) -> Neuralized:
        net = super().neuralized()
        assert isinstance(net, ScoreNetwork)
        if self.score == "elbo":
            net.evidence_name = "negative ELBO in nats"
            net.offsets = ("normalization",)
        return net

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        if self.score not in ("reconstruction", "elbo"):
            raise InputError(f"Expected score 'reconstruction' or 'elbo', got {self.score!r}.")
        if not self.beta >= 0:
            raise InputError(f"Expected beta of at least 0, got {self.beta}.")
        return super()._train(x, y)

    def _pair(self, plan: Architecture) -> nn.Module:
        twice = plan.model_copy(update={"rep_dim": 2 * plan.rep_dim})
        return nn.ModuleDict({"encoder": twice.build(), "decoder": plan.decoder()})

    def _module(self, steps: nn.Module, pair: nn.Module) -> VariationalScore:
        return VariationalScore(steps, *_halves(pair), elbo=self.score == "elbo")

    def _fit(self, module: VariationalScore, inner: Tensor) -> None:
        objective = NegativeELBO(self.beta)
        losses = train(_Sampling(module), objective, Batches(inner, inner), self.training,
                       what=f"training {type(self).__name__}")  # fmt: skip
        self.history_[type(self).__name__] = losses
        log_noise = objective.log_noise.detach().cpu()
        module.noise.copy_(log_noise.exp())
        module.normalization.copy_(inner[0].numel() / 2 * (LOG_2PI + log_noise))


def _halves(pair: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of a network."""
    try:
        return pair.get_submodule("encoder"), pair.get_submodule("decoder")
    except AttributeError as error:
        raise InputError(
            "Expected a network with submodules 'encoder' and 'decoder', got "
            f"{type(pair).__name__}."
        ) from error
