r"""ComBat: location and scale of every group's features, estimated by empirical Bayes.

Johnson, Li, Rabinovic, Adjusting batch effects in microarray expression data using empirical Bayes
methods, Biostatistics 8, 2007. With group ``i``, row ``j``, feature ``g`` and covariates ``X``
(here: labels, as indicators),

    ``Y_ijg = alpha_g + X beta_g + gamma_ig + delta_ig eps_ijg``.

Features are standardised, ``Z = (Y - alpha - X beta) / sigma``; ``gamma_i`` is shrunk towards its
mean over features by a normal prior, ``delta_i^2`` by an inverse gamma one, and

    ``Y* = sigma / delta_i (Z - gamma_i) + alpha + X beta``.

For a given group and label this is affine in ``Y``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from xai.errors import InputError
from xai.mitigate.given import Array, as_columns, as_features

TOLERANCE = 1e-6
"""Estimates are final when none changes by more than this share of itself."""

MAX_STEPS = 1000


class GroupAdjustment(nn.Module):
    """``h' = scale h + shift``: what ComBat does to the rows of one group."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Array, shift: Array) -> None:
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(np.asarray(scale)).float())
        self.register_buffer("shift", torch.from_numpy(np.asarray(shift)).float())

    def forward(self, h: Tensor) -> Tensor:
        """Adjusted features ``(n, q)``."""
        return h * self.scale + self.shift


class ComBat:
    """Groups made alike in mean and variance, feature by feature.

    New rows need their group: :meth:`adjusted` takes groups beside rows, :meth:`for_group` gives
    the module for one of them, to go between an encoder and the model on it. Where new rows come
    without a group, :func:`~xai.mitigate.without_groups` is the repair.

    Parameters
    ----------
    features
        ``(n, q)``.
    groups
        Group of every row ``(n,)``.
    labels
        Label of every row ``(n,)``: differences between labels are kept. New rows rarely have one;
        they are adjusted as a row of average label would be, which differs only where groups differ
        in scale.
    scale
        Adjust variances too, not only means.
    shrink
        Empirical Bayes; otherwise every feature by its own estimates.

    Attributes
    ----------
    groups_
        Names of the groups, sorted.
    gamma_, delta_
        Shift and scale ``(k, q)`` of every group, in standard deviations ``sigma_``.

    Raises
    ------
    InputError
        Fewer than two groups, a group of a single row, groups and labels that cannot be told apart.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> h, site = rng.normal(size=(200, 3)), np.repeat(["north", "south"], 100)
    >>> h[100:] = 4 * h[100:] + 5
    >>> out = ComBat(h, site, shrink=False).adjusted(h, site)
    >>> bool(np.allclose(out[:100].mean(0), out[100:].mean(0)))
    True
    >>> bool(np.allclose(out[:100].std(0), out[100:].std(0)))
    True
    """

    def __init__(
        self,
        features: ArrayLike,
        groups: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        scale: bool = True,
        shrink: bool = True,
    ) -> None:
        y = as_features(features)
        group, label = as_columns(groups, labels, len(y))
        self.groups_, code, size = np.unique(group, return_inverse=True, return_counts=True)
        self.labels_ = np.unique(label)
        if len(self.groups_) < 2 or size.min() < 2:
            raise InputError(
                "Expected at least two groups, each of at least two rows, got "
                + ", ".join(f"{g}: {n}" for g, n in zip(self.groups_, size, strict=True))
                + "."
            )
        batch = np.eye(len(size))[code]
        x = self._covariates(label)
        design = np.hstack([batch, x])
        if np.linalg.matrix_rank(design) < design.shape[1]:
            raise InputError(
                "Expected groups that share labels, but groups and labels cannot be told apart: "
                "some label occurs in groups of its own only."
            )
        fitted = np.linalg.lstsq(design, y, rcond=None)[0]
        self.alpha_ = size @ fitted[: len(size)] / len(y)
        self.beta_ = fitted[len(size) :]
        self.covariates_ = x.mean(0)
        self.sigma_ = np.sqrt(((y - design @ fitted) ** 2).mean(0))
        still = self.sigma_ <= 1e-12 * np.abs(y).max(0) + np.finfo(float).tiny
        self.sigma_[still] = 1.0
        z = (y - self.alpha_ - x @ self.beta_) / self.sigma_
        gamma = np.stack([z[code == i].mean(0) for i in range(len(size))])
        delta2 = np.stack([z[code == i].var(0, ddof=1) for i in range(len(size))])
        if not scale:
            delta2 = np.ones_like(delta2)
        if shrink:
            moving = ~still
            for i in range(len(size)):
                rows = z[code == i][:, moving]
                gamma[i, moving], delta2[i, moving] = _shrunk(
                    rows, gamma[i, moving], delta2[i, moving], scale=scale
                )
        delta2[:, still] = 1.0
        # A feature that does not vary in a group has no scale there to be adjusted.
        self.gamma_, self.delta_ = gamma, np.sqrt(np.where(delta2 > 0, delta2, 1.0))

    def _covariates(self, label: Array) -> Array:
        """Indicators of all labels but the first ``(n, l - 1)``."""
        indicators: Array = (label[:, None] == self.labels_[1:]).astype(float)
        return indicators

    def for_group(self, group: object, label: object = None) -> GroupAdjustment:
        """The affine map for rows of one group, and of a label where that is known.

        Raises
        ------
        InputError
            A group or label that was not among those it was fitted to.
        """
        scale, shift = self._affine(self._code(group), self._of_label(label))
        return GroupAdjustment(scale, shift)

    def adjusted(
        self, features: ArrayLike, groups: ArrayLike, labels: ArrayLike | None = None
    ) -> Array:
        """Adjusted features ``(n, q)``, in float64.

        Raises
        ------
        InputError
            A group or label that was not among those it was fitted to.
        """
        y = np.asarray(features, np.float64)
        group, label = as_columns(groups, labels, len(y))
        out = np.empty_like(y)
        for g in np.unique(group):
            for one in np.unique(label):
                rows = (group == g) & (label == one)
                if rows.any():
                    known = None if labels is None else one
                    scale, shift = self._affine(self._code(g), self._of_label(known))
                    out[rows] = y[rows] * scale + shift
        return out

    def _affine(self, i: int, x: Array) -> tuple[Array, Array]:
        scale = 1 / self.delta_[i]
        middle = self.alpha_ + x @ self.beta_
        return scale, middle - scale * (middle + self.sigma_ * self.gamma_[i])

    def _code(self, group: object) -> int:
        found = np.flatnonzero(self.groups_ == group)
        if not len(found):
            raise InputError(
                f"Expected one of the groups {', '.join(map(str, self.groups_))}, got {group!r}: "
                "nothing is known of others."
            )
        return int(found[0])

    def _of_label(self, label: object) -> Array:
        if label is None:
            average: Array = self.covariates_
            return average
        if label not in self.labels_:
            raise InputError(
                f"Expected one of the labels {', '.join(map(str, self.labels_))}, got {label!r}."
            )
        own: Array = self._covariates(np.array([label]))[0]
        return own


def _shrunk(z: Array, gamma: Array, delta2: Array, *, scale: bool) -> tuple[Array, Array]:
    """Posterior means of shift and variance of one group, by the paper's iteration."""
    n = len(z)
    middle, tau2 = gamma.mean(), _variance(gamma)
    if not tau2 > 0:
        return gamma, delta2  # one feature, or all alike: nothing to shrink towards
    m, s2 = delta2.mean(), _variance(delta2)
    scale = scale and s2 > 0
    prior_a = (2 * s2 + m**2) / s2 if scale else 0.0
    prior_b = (m * s2 + m**3) / s2 if scale else 0.0
    shift, variance = gamma, delta2
    for _ in range(MAX_STEPS):
        new = (n * tau2 * gamma + variance * middle) / (n * tau2 + variance)
        wide = variance
        if scale:
            wide = (((z - new) ** 2).sum(0) / 2 + prior_b) / (n / 2 + prior_a - 1)
        change = max(_change(new, shift), _change(wide, variance))
        shift, variance = new, wide
        if change < TOLERANCE:
            break
    return shift, variance


def _variance(values: Array) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _change(new: Array, old: Array) -> float:
    return float((np.abs(new - old) / np.maximum(np.abs(old), TOLERANCE)).max())
