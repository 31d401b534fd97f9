"""Gaussian mixture on features: the negative log likelihood of what an encoder sees.

Features ``phi(x)`` of a fixed encoder, or the codes of an autoencoder, get a Gaussian mixture by
expectation maximisation (scikit-learn's), and the score is, in nats,

    ``o(x) = -log sum_k pi_k N(phi(x); mu_k, S_k)``.

Two stages, unlike DAGMM (Zong et al., ICLR 2018), which trains autoencoder and mixture together.

Relevance: the mixture's own head (:mod:`neuralize.gaussian_mixture`),
``R_j = sum_k r_k 1/2 d_kj [S_k^-1 d_k]_j`` with responsibilities ``r`` and ``d_k = phi - mu_k``, at
the features, and from there through the encoder. Priors, log-determinants and the entropy of ``r``
are absorbed by name.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from neuralize.deep.autoencoder import Autoencoder
from neuralize.deep.detector import Array, DeepDetector
from neuralize.deep.embedding import embed
from neuralize.deep.features import (
    Features,
    build_features,
    encoder_rules,
    fit_features,
)
from neuralize.deep.score_network import ScoreNetwork
from neuralize.deep.traced import layers_with_rules
from neuralize.errors import InputError
from neuralize.gaussian_mixture import CONSTANTS, ENTROPY, MixtureEnergy, mixture_layers
from neuralize.layers import QuadraticForms
from neuralize.layers.distances import COINCIDENT
from neuralize.network import Neuralized

ABSORBED = (CONSTANTS, ENTROPY, COINCIDENT)


class MixtureScore(nn.Module):
    """Negative log likelihood of an encoder's features, ``(n, ...) -> (n,)``.

    The mixture keeps its float64, in which the densities of many features need it.
    """

    def __init__(self, features: nn.Module, forms: QuadraticForms, energy: MixtureEnergy) -> None:
        super().__init__()
        self.features = features
        self.forms = forms
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        phi = self.features(x)
        layers = (self.forms, self.energy)
        score = layers_with_rules(phi.to(self.forms.means.dtype), layers, ABSORBED)
        return score.to(phi.dtype)


class DeepGMM(DeepDetector):
    """Gaussian mixture on an encoder's features.

    Parameters
    ----------
    features
        An ``nn.Module`` from rows to ``(n, q)``, held fixed, or an
        :class:`~neuralize.deep.autoencoder.Autoencoder`, whose codes are taken (one that is not
        fitted yet is cloned and fitted first). A new autoencoder when missing.
    n_components, covariance_type, reg_covar, n_init
        As in :class:`sklearn.mixture.GaussianMixture`.
    seed
        Of the mixture's starting point.
    contamination
        Share of training rows above the threshold.

    Attributes
    ----------
    mixture_
        The fitted mixture; not stored in checkpoints, which hold its network.

    Examples
    --------
    >>> x = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
    >>> detector = DeepGMM(nn.Linear(6, 3), n_components=2).fit(x)
    >>> difference = detector.decision_function(x) + detector.mixture_.score_samples(
    ...     detector.encode(x))
    >>> bool(abs(difference).max() < 1e-5)
    True
    """

    evidence_name = "negative log likelihood of the features in nats"

    module_: MixtureScore

    def __init__(
        self,
        features: Features | None = None,
        *,
        n_components: int = 4,
        covariance_type: Literal["full", "tied", "diag", "spherical"] = "full",
        reg_covar: float = 1e-6,
        n_init: int = 1,
        seed: int = 0,
        contamination: float = 0.1,
    ) -> None:
        self.features = features
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.n_init = n_init
        self.seed = seed
        self.contamination = contamination

    def encode(self, X: Any) -> Array:
        """Features ``(n, q)`` of rows, in float64."""
        x = self._known_rows(X)
        features: Array = embed(self.module_.features, x).double().numpy()
        return features

    def neuralized(self) -> Neuralized:
        net = super().neuralized()
        assert isinstance(net, ScoreNetwork)
        net.offsets = (CONSTANTS, ENTROPY)
        return net

    def _composite(self, module: nn.Module) -> Any:
        assert isinstance(module, MixtureScore)
        return encoder_rules(module.features)

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        if self.covariance_type not in ("full", "tied", "diag", "spherical"):
            raise InputError(
                "Expected covariance_type 'full', 'tied', 'diag' or 'spherical', got "
                f"{self.covariance_type!r}."
            )
        if not 1 <= self.n_components <= len(x):
            raise InputError(
                f"Expected from 1 to {len(x)} components, as many as there are rows, got "
                f"{self.n_components}."
            )
        encoder, config = fit_features(
            Autoencoder() if self.features is None else self.features, x, self.history_
        )
        phi = embed(encoder, x).double().numpy()
        self.mixture_ = GaussianMixture(
            self.n_components, covariance_type=self.covariance_type, reg_covar=self.reg_covar,
            n_init=self.n_init, random_state=self.seed,
        ).fit(phi)  # fmt: skip
        forms, constants = mixture_layers(self.mixture_)
        shapes = {"means": list(forms.means.shape), "factors": list(forms.factors.shape)}
        return MixtureScore(encoder, forms, MixtureEnergy(constants)), {
            "features": config, "diagonal": forms.diagonal, **shapes,
        }  # fmt: skip

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        means, factors = (torch.zeros(config[name]).double() for name in ("means", "factors"))
        forms = QuadraticForms(means, factors, scale=0.5, diagonal=config["diagonal"])
        encoder = build_features(config["features"], self.input_shape_, network)
        return MixtureScore(encoder, forms, MixtureEnergy(means.new_zeros(len(means))))
