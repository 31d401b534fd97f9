"""Gaussian mixtures as networks: cluster membership, or outlier score.

With ``E_k = Q_k + C_k``, ``Q_k = 1/2 (x - mu_k)^T S_k^-1 (x - mu_k)`` and ``C_k`` what does not
depend on ``x``,

- cluster evidence ``f_c = log p_c / (1 - p_c) = -log sum_{k != c} exp(-(E_k - E_c))``, positive
  iff ``c`` has more than half of the probability. With ``p`` the soft-min weights of ``E_k`` over
  ``k != c`` and ``H`` their entropy, ``f_c = sum_k p_k E_k - H(p) - E_c``, so
  ``R_i = sum_k p_k q_ki - q_ci`` with ``q_ki = 1/2 d_ki [S_k^-1 d_k]_i``;
- outlier score ``o = -log sum_k exp(-E_k) = sum_k r_k E_k - H(r)`` with ``r`` the
  responsibilities, so ``R_i = sum_k r_k q_ki``.

The constants and the entropy are absorbed, by name. Cluster membership as a network: Kauffmann et
al., arXiv 1906.07633.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import digamma
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from torch import Tensor, nn

from neuralize.convert import as_tensor, register_converter, require_fitted
from neuralize.errors import InputError
from neuralize.layers import QuadraticForms
from neuralize.network import Kind, Neuralized
from neuralize.outlier import OutlierNetwork
from neuralize.propagate import Layer
from neuralize.rules import ratio
from neuralize.score_map import ScoreMap

CONSTANTS = "priors and log-determinants"
ENTROPY = "assignment entropy"


def _entropy(p: Tensor) -> Tensor:
    h: Tensor = torch.special.entr(p).sum(1)
    return h


class MixtureEnergy(Layer):
    """``o = -log sum_k exp(-(Q_k + C_k))``, ``(n, K) -> (n,)``; rule ``R_k = r_k Q_k R / o``.

    Examples
    --------
    >>> MixtureEnergy(torch.tensor([1.0]))(torch.tensor([[2.0]])).tolist()
    [3.0]
    """

    constants: Tensor

    def __init__(self, constants: Tensor) -> None:
        super().__init__()
        self.register_buffer("constants", constants)

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        return -torch.logsumexp(-(x + self.constants), 1), None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        r = torch.softmax(-(x + self.constants), 1)
        share = ratio(relevance, z)
        absorbed = {CONSTANTS: share * (r @ self.constants), ENTROPY: -share * _entropy(r)}
        return share.unsqueeze(1) * r * x, absorbed


class LogOdds(Layer):
    """``f_c = log p_c / (1 - p_c)`` of the target's component, ``(n, K) -> (n,)``.

    Rule: ``R_k = p_k Q_k R / f`` for the others, ``R_c = -Q_c R / f`` for the target. Without a
    target it is the most probable component.
    """

    def __init__(self, constants: Tensor, target: Tensor | None) -> None:
        super().__init__()
        self.constants = constants
        self.target = target

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        energy = x + self.constants
        if self.target is None:
            self.target = energy.detach().argmin(1)
        index = self.target.unsqueeze(1)
        others = energy.scatter(1, index, math.inf)
        return -torch.logsumexp(-others, 1) - energy.gather(1, index)[:, 0], None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.target is not None
        index = self.target.unsqueeze(1)
        p = torch.softmax(-(x + self.constants).scatter(1, index, math.inf), 1)
        share = ratio(relevance, z)
        w = share.unsqueeze(1) * p.scatter(1, index, -1.0)
        return w * x, {CONSTANTS: w @ self.constants, ENTROPY: -share * _entropy(p)}


class MixtureClusters(Neuralized):
    """Cluster membership in a mixture: evidence ``(n, K)`` is each component's log odds."""

    kind: ClassVar[Kind] = "cluster"
    constants: Tensor

    def __init__(self, forms: QuadraticForms, constants: Tensor, **common: Any) -> None:
        super().__init__(
            evidence_name="log odds of the component",
            score_map=ScoreMap("log odds of predict_proba"),
            threshold=0.0,
            **common,
        )
        self.forms = forms
        self.register_buffer("constants", constants)

    @property
    def n_clusters(self) -> int:
        """Number of components ``K``."""
        return len(self.constants)

    def chain(self, target: Tensor | None) -> Sequence[nn.Module]:
        return [self.forms, LogOdds(self.constants, target)]

    def all_evidence(self, z: Tensor) -> Tensor:
        energy = self.forms(z) + self.constants
        every = torch.arange(self.n_clusters, device=energy.device)
        others = energy.unsqueeze(1).expand(-1, self.n_clusters, -1).clone()
        others[:, every, every] = math.inf
        evidence: Tensor = -torch.logsumexp(-others, 2) - energy
        return evidence

    def fold_projection(self, matrix: Tensor, offset: Tensor) -> bool:
        return self.forms.fold_projection(matrix, offset)


def mixture_layers(model: Any) -> tuple[QuadraticForms, Tensor]:
    """Quadratic forms ``Q`` and constants ``C`` ``(K,)`` of a fitted scikit-learn mixture."""
    means = as_tensor(model.means_, "means")
    n_components, d = means.shape
    chol = as_tensor(model.precisions_cholesky_, "precisions")
    kind, diagonal = model.covariance_type, False
    if kind == "full":
        factors, log_det = chol.mT, torch.diagonal(chol, dim1=1, dim2=2).log().sum(1)
    elif kind == "tied":
        factors, log_det = chol.T[None], torch.diagonal(chol).log().sum().expand(n_components)
    else:
        scales = chol if kind == "diag" else chol[:, None].expand(-1, d)
        factors, log_det, diagonal = scales[:, None].contiguous(), scales.log().sum(1), True
    constants = d / 2 * math.log(2 * math.pi) - log_det - as_tensor(_log_weights(model))
    if isinstance(model, BayesianGaussianMixture):
        constants = constants - as_tensor(_posterior_constants(model))
    forms = QuadraticForms(means, factors.contiguous(), scale=0.5, diagonal=diagonal)
    return forms, constants


def _log_weights(model: Any) -> NDArray[Any]:
    """(Expected) log mixing weights ``(K,)``; a Bayesian mixture has two kinds of prior."""
    if not isinstance(model, BayesianGaussianMixture):
        return np.log(model.weights_)  # type: ignore[no-any-return]
    concentration = model.weight_concentration_
    if model.weight_concentration_prior_type == "dirichlet_process":
        a, b = concentration
        rest = np.cumsum(digamma(b) - digamma(a + b))
        return digamma(a) - digamma(a + b) + np.hstack((0, rest[:-1]))  # type: ignore[no-any-return]
    return digamma(concentration) - digamma(concentration.sum())  # type: ignore[no-any-return]


def _posterior_constants(model: BayesianGaussianMixture) -> NDArray[Any]:
    """What the Wishart posterior adds to every component's log density ``(K,)``."""
    d = model.means_.shape[1]
    nu = np.broadcast_to(model.degrees_of_freedom_, (len(model.means_),))
    log_lambda = d * math.log(2) + digamma(0.5 * (nu - np.arange(d)[:, None])).sum(0)
    constants: NDArray[Any] = 0.5 * (log_lambda - d / model.mean_precision_ - d * np.log(nu))
    return constants


@register_converter(GaussianMixture)
@register_converter(BayesianGaussianMixture)
def convert_mixture(
    model: Any, *, decision: Literal["cluster", "outlier"] = "cluster"
) -> Neuralized:
    """Mixtures with any covariance type; ``decision`` says which of their two uses is meant."""
    require_fitted(model)
    name = type(model).__name__
    if decision == "outlier":
        return mixture_outlier_network(model, ScoreMap("score_samples", scale=-1.0), None)
    if decision != "cluster":
        raise InputError(f"Expected decision 'cluster' or 'outlier', got {decision!r}.")
    forms, constants = mixture_layers(model)
    if len(constants) < 2:
        raise InputError(
            f"Expected at least two components, got 1 in {name}: with one there is no membership "
            "to explain. For its outlier score use decision='outlier'."
        )
    d = forms.means.shape[1]
    width = max(len(constants) ** 2, 4 * d)
    return MixtureClusters(forms, constants, n_features=d, width=width, model_name=name)


def mixture_outlier_network(
    model: Any, score_map: ScoreMap, threshold: float | None
) -> OutlierNetwork:
    """The negative log likelihood of a fitted mixture."""
    forms, constants = mixture_layers(model)
    d = forms.means.shape[1]
    return OutlierNetwork(
        [forms, MixtureEnergy(constants)],
        homogeneous=False,
        n_features=d,
        evidence_name="negative log likelihood",
        score_map=score_map,
        threshold=threshold,
        width=max(len(constants), 4 * d),
        model_name=type(model).__name__,
    )
