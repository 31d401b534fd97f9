"""Deep support vector data description (Ruff et al., Deep One-Class Classification, ICML 2018).

A network ``phi`` is trained to map the data close to a fixed centre ``c``,

- one-class: ``min 1/n sum_i ||phi(x_i) - c||^2 + decay``,
- soft boundary: ``min R^2 + 1/(nu n) sum_i max(0, ||phi(x_i) - c||^2 - R^2) + decay``, where after
  a warm-up ``R`` is the ``1 - nu`` quantile of the distances of each epoch.

``c`` is the mean representation of a first pass, with entries closer to zero than 0.1 pushed out to
+-0.1. Score: ``o(x) = ||phi(x) - c||^2`` (minus ``R^2`` with the soft boundary).

Relevance: ``o = sum_k z_k^2`` with ``z = phi - c``, so ``R_k = z_k^2`` at the centred
representation, of which ``phi_k z_k`` goes on into the network and ``-c_k z_k`` is the centre's.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.deep.collapse import CONTRAST, SHARE, response, trivial_solutions
from neuralize.deep.detector import DeepDetector
from neuralize.deep.networks import Architecture, as_json, planned, rebuilt
from neuralize.deep.preprocessing import fit_preprocessing, preprocessing
from neuralize.deep.regularizers import AdaptiveWeight, FixedWeight, Regularizer, regularizer
from neuralize.deep.training import Batches, Objective, Training, train
from neuralize.errors import CollapseWarning, InputError

NEAR_ZERO = 0.1
"""Entries of the centre closer to zero could be matched by zero weights."""

WARM_UP = 10
"""Epochs before the soft boundary's radius is set."""

CenterRule = Literal["mean", "zero"]


class SphereScore(nn.Module):
    """``||phi(x) - c||^2 - R^2``, ``(n, ...) -> (n,)``; ``R`` is zero without a soft boundary."""

    center: Tensor
    radius_squared: Tensor

    def __init__(self, steps: nn.Module, network: nn.Module, rep_dim: int) -> None:
        super().__init__()
        self.preprocessing = steps
        self.network = network
        self.register_buffer("center", torch.zeros(rep_dim))
        self.register_buffer("radius_squared", torch.zeros(()))

    def represent(self, x: Tensor) -> Tensor:
        """``phi(x)`` ``(n, rep_dim)``."""
        phi: Tensor = self.network(self.preprocessing(x))
        return phi

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows."""
        score = ((self.represent(x) - self.center) ** 2).sum(1)
        return score if not bool(self.radius_squared) else score - self.radius_squared


class OneClassLoss(Objective):
    """Mean squared distance to the centre, with a regulariser against collapse if there is one."""

    center: Tensor

    def __init__(
        self, center: Tensor, against: nn.Module | None = None, weight: float | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.against = against
        self.weight = AdaptiveWeight() if weight is None else FixedWeight(weight)

    def distances(self, phi: Tensor) -> Tensor:
        """Squared distances ``(n,)``."""
        return ((phi - self.center) ** 2).sum(1)

    def data_term(self, phi: Tensor, y: Tensor) -> Tensor:
        """The loss without regulariser."""
        return self.distances(phi).mean()

    def forward(self, phi: Tensor, y: Tensor) -> Tensor:
        """Loss of a batch of representations."""
        loss = self.data_term(phi, y)
        if self.against is None:
            return loss
        combined: Tensor = self.weight(loss, self.against(phi))
        return combined

    def end_of_epoch(self, epoch: int) -> None:
        if self.against is not None:
            self.against.end_of_epoch(epoch)  # type: ignore[operator]


class SoftBoundaryLoss(OneClassLoss):
    """``R^2 + 1/nu mean max(0, d - R^2)``; ``R`` follows the distances after the warm-up."""

    radius_squared: Tensor

    def __init__(
        self, center: Tensor, nu: float, against: nn.Module | None, warm_up: int,
        weight: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(center, against, weight)
        self.nu, self.warm_up = nu, warm_up
        self.register_buffer("radius_squared", torch.zeros(()))
        self._seen: list[Tensor] = []

    def data_term(self, phi: Tensor, y: Tensor) -> Tensor:
        d = self.distances(phi)
        self._seen.append(d.detach())
        return self.radius_squared + F.relu(d - self.radius_squared).mean() / self.nu

    def end_of_epoch(self, epoch: int) -> None:
        super().end_of_epoch(epoch)
        if epoch + 1 >= self.warm_up:
            self.radius_squared.copy_(torch.quantile(torch.cat(self._seen), 1 - self.nu))
        self._seen = []


class ReconstructionLoss(Objective):
    """Mean squared error of an autoencoder, summed over a row's entries."""

    def forward(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        """Loss of a batch."""
        return ((reconstruction - x) ** 2).flatten(1).sum(1).mean()


class OneClassDetector(DeepDetector):
    """What Deep SVDD and Deep SAD share: network, preprocessing, pretraining, centre."""

    evidence_name = "squared distance to the centre in the representation"

    network: str | Architecture | nn.Module
    preprocessing: str | None
    rep_dim: int | None
    bias: bool
    center: CenterRule
    pretraining: Training | None
    training: Training

    @abstractmethod
    def _objective(self, module: SphereScore, y: Tensor | None) -> Objective:
        """What is minimised, around the module's centre."""

    def _finish(self, module: SphereScore, objective: Objective) -> None:
        """Take over what the objective learned besides weights."""

    def _train(self, x: Tensor, y: Tensor | None) -> tuple[nn.Module, dict[str, Any]]:
        if self.center not in ("mean", "zero"):
            raise InputError(f"Expected center 'mean' or 'zero', got {self.center!r}.")
        steps = preprocessing(self.preprocessing, tuple(x.shape[1:]))
        inner = fit_preprocessing(steps, x)
        width = {} if self.rep_dim is None else {"rep_dim": self.rep_dim}
        network, plan = planned(self.network, tuple(inner.shape[1:]), bias=self.bias, **width)
        if self.pretraining is not None:
            self._pretrain(network, plan, inner)
        rep_dim = _width(network, inner)
        config = {
            "preprocessing": self.preprocessing, "network": as_json(plan), "rep_dim": rep_dim,
        }  # fmt: skip
        module = SphereScore(steps, network, rep_dim)
        if self.center == "mean":
            module.center.copy_(initial_center(network, inner))
        self._warn_of(trivial_solutions(network, module.center))
        objective = self._objective(module, y)
        labels = torch.zeros(len(x)) if y is None else y
        losses = train(network, objective, Batches(inner, labels), self.training,
                       what=f"training {type(self).__name__}")  # fmt: skip
        self.history_[type(self).__name__] = losses
        self._finish(module, objective)
        return module, config

    def _pretrain(self, network: nn.Module, plan: Architecture | None, x: Tensor) -> None:
        """Train an autoencoder on top, and keep its encoder."""
        if plan is None:
            raise InputError(
                "Pretraining needs a decoder, which a network of your own does not come with. "
                "Pretrain it yourself and pass pretraining=None, or name a network: "
                "network='auto'."
            )
        assert self.pretraining is not None
        bounded = bool(x.min() >= 0) and bool(x.max() <= 1)  # else no sigmoid can reach it
        pair = nn.Sequential(network, plan.model_copy(update={"squash": bounded}).decoder())
        data = Batches(x, x)
        losses = train(pair, ReconstructionLoss(), data, self.pretraining, what="pretraining")
        self.history_["pretraining"] = losses

    def _build(self, config: dict[str, Any], network: nn.Module | None) -> nn.Module:
        steps = preprocessing(config["preprocessing"], self.input_shape_)
        return SphereScore(steps, rebuilt(config["network"], network), config["rep_dim"])

    def _warn_of(self, problems: list[str]) -> None:
        if problems:
            warnings.warn(
                f"{type(self).__name__} can collapse, because a constant map is within reach of "
                f"its network: {'; '.join(problems)}. Use bias=False, unbounded activations and "
                "center='mean'.",
                CollapseWarning,
                stacklevel=5,
            )

    def _after(self, x: Tensor, y: Tensor | None) -> None:
        module = self.module_
        assert isinstance(module, SphereScore)
        found = self.response_ = response(module, x)
        self.variance_share_ = found.variance_share
        if found.collapsed:
            causes = trivial_solutions(module.network, module.center)
            warnings.warn(
                f"{type(self).__name__} collapsed: rows with scrambled entries move its "
                f"representation by {found.share:.1e} of what they do with fresh weights (limit "
                f"{SHARE:g}), and are {found.contrast:.2g} times as far from the centre as the "
                f"data (limit {CONTRAST:g}). AUROC may hide it. "
                f"{'Causes: ' + '; '.join(causes) + '. ' if causes else ''}Use bias=False, "
                "unbounded activations and center='mean', less weight decay, or fewer epochs.",
                CollapseWarning,
                stacklevel=4,
            )


class DeepSVDD(OneClassDetector):
    """Deep SVDD, one-class or with a soft boundary.

    Parameters
    ----------
    objective
        ``"one-class"`` or ``"soft-boundary"``.
    nu
        Share of training rows the soft boundary leaves outside.
    network
        ``"auto"`` (by the shape of the rows), ``"mnist_lenet"``, ``"fmnist_lenet"``,
        ``"cifar10_lenet"``, ``"mlp"``, an :class:`~neuralize.deep.networks.Architecture`, or an
        ``nn.Module`` from rows to ``(n, q)``, trained in place.
    rep_dim, bias
        Width of the representation, and whether named networks have biases, which invites collapse.
    preprocessing
        ``"standardize"``, ``"contrast"`` (the authors') or None.
    center
        ``"mean"`` of a first pass, or ``"zero"``, which invites collapse.
    pretraining
        How an autoencoder is trained first; not when missing.
    training
        How the network is trained.
    regularizer
        ``"noise"`` or ``"variance"``, see :mod:`neuralize.deep.regularizers`; none when missing.
    regularizer_weight
        Its weight; when missing, one that keeps it at a tenth of the loss.
    warm_up
        Epochs before the soft boundary's radius follows the data.
    contamination
        Share of training rows above the threshold.

    Attributes
    ----------
    response_
        How the network answers its data and rows that are certainly different, a
        :class:`~neuralize.deep.collapse.Response`: whether it collapsed.
    variance_share_
        Variance of the representation as a share of a fresh network's: small once it has learned.

    Warns
    -----
    CollapseWarning
        Before training, if a constant map is within reach; after it, if it was reached.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    >>> detector = DeepSVDD(training=Training(epochs=3)).fit(x)
    >>> detector.decision_function(x[:2]).shape, sorted(set(detector.predict(x).tolist()))
    ((2,), [0, 1])
    """

    def __init__(
        self,
        *,
        objective: Literal["one-class", "soft-boundary"] = "one-class",
        nu: float = 0.1,
        network: str | Architecture | nn.Module = "auto",
        rep_dim: int | None = None,
        bias: bool = False,
        preprocessing: str | None = "standardize",
        center: CenterRule = "mean",
        pretraining: Training | None = None,
        training: Training = Training(milestones=(40,)),  # noqa: B008 - frozen
        regularizer: Regularizer | None = None,
        regularizer_weight: float | None = None,
        warm_up: int = WARM_UP,
        contamination: float = 0.1,
    ) -> None:
        self.objective = objective
        self.nu = nu
        self.network = network
        self.rep_dim = rep_dim
        self.bias = bias
        self.preprocessing = preprocessing
        self.center = center
        self.pretraining = pretraining
        self.training = training
        self.regularizer = regularizer
        self.regularizer_weight = regularizer_weight
        self.warm_up = warm_up
        self.contamination = contamination

    def _objective(self, module: SphereScore, y: Tensor | None) -> Objective:
        if self.objective not in ("one-class", "soft-boundary"):
            raise InputError(
                f"Expected objective 'one-class' or 'soft-boundary', got {self.objective!r}."
            )
        if not 0 < self.nu <= 1:
            raise InputError(f"Expected nu above 0 and at most 1, got {self.nu}.")
        if self.regularizer not in (None, "noise", "variance"):
            raise InputError(
                f"Expected regularizer 'noise', 'variance' or None, got {self.regularizer!r}."
            )
        if self.regularizer_weight is not None and not self.regularizer_weight >= 0:
            raise InputError(
                f"Expected regularizer_weight of at least 0, got {self.regularizer_weight}."
            )
        against = None
        if self.regularizer is not None:
            against = regularizer(self.regularizer, len(module.center))
        if self.objective == "soft-boundary":
            return SoftBoundaryLoss(
                module.center.clone(), self.nu, against, self.warm_up, self.regularizer_weight
            )
        return OneClassLoss(module.center.clone(), against, self.regularizer_weight)

    def _finish(self, module: SphereScore, objective: Objective) -> None:
        if isinstance(objective, SoftBoundaryLoss):
            module.radius_squared.copy_(objective.radius_squared)


def initial_center(network: nn.Module, x: Tensor, rows: int = 512) -> Tensor:
    """Mean representation of a first pass, entries near zero pushed out to +-0.1; exact zeros stay.

    Examples
    --------
    >>> initial_center(nn.Identity(), torch.tensor([[0.05, -0.02, 2.0, 0.0]])).tolist()
    [0.10000000149011612, -0.10000000149011612, 2.0, 0.0]
    """
    was = network.training
    network.eval()
    with torch.no_grad():
        center = torch.cat([network(part) for part in x.split(rows)]).mean(0)
    network.train(was)
    near = (center.abs() < NEAR_ZERO) & (center != 0)
    return torch.where(near, NEAR_ZERO * center.sign(), center)


def _width(network: nn.Module, x: Tensor) -> int:
    was = network.training
    network.eval()
    with torch.no_grad():
        phi = network(x[:1])
    network.train(was)
    if phi.ndim != 2:
        raise InputError(
            f"Expected a representation (n, q) from the network, got {tuple(phi.shape)}; end it "
            "with nn.Flatten()."
        )
    return int(phi.shape[1])
