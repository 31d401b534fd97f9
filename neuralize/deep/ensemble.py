"""Ensembles of detectors: standardised scores, averaged ("bagging" in arXiv 2006.10609).

Kauffmann, Ruff, Montavon, Mueller, "The Clever Hans effect in anomaly detection", find that single
detectors are right for wrong reasons, each with its own blind spots, and that a bag of a density
(KDE), a reconstruction (autoencoder) and a boundary (Deep SVDD) cancels some of them. The score is

    ``o(x) = sum_m w_m (o_m(x) - mu_m) / s_m``,

with mean ``mu_m`` and standard deviation ``s_m`` of the member's evidence on reference rows. A
member's evidence is that of its network, so a member that prints a log-density counts like one
that prints distances. Relevance is the same average, see :mod:`neuralize.deep.ensemble_network`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from torch import Tensor, nn

from neuralize.convert import neuralize, register_converter
from neuralize.deep.checkpoint import digest
from neuralize.deep.detector import DeepDetector
from neuralize.deep.ensemble_network import EnsembleNetwork
from neuralize.errors import InputError, UnfittedModelError
from neuralize.inputs import as_rows
from neuralize.network import Neuralized

Array = NDArray[Any]


class Ensemble(BaseEstimator):
    """Average of the standardised scores of any detectors. Higher is more abnormal, outliers are 1.

    Parameters
    ----------
    members
        Detectors by name: this package's, scikit-learn's, PyOD's, pipelines; fitted ones may also
        be networks from :func:`neuralize.neuralize`, which is how one gets an encoder below it.
    weights
        Weight of each member by name, scaled to sum to one; all the same when missing.
    prefit
        Take the members as they are, fitted; otherwise :meth:`fit` fits copies.
    contamination
        Share of the reference rows above the threshold.

    Attributes
    ----------
    members_
        Fitted members by name.
    weights_, means_, scales_
        ``w_m``, and mean and standard deviation of the member's evidence, by name.
    threshold_
        Outlier iff the score is larger: the ``1 - contamination`` quantile of
        ``decision_scores_``, those of the reference rows.
    input_shape_, feature_names_in_, data_sha256_
        Of one row; columns of a DataFrame; digest of the training rows.

    Examples
    --------
    >>> from sklearn.neighbors import KernelDensity
    >>> from sklearn.covariance import EmpiricalCovariance
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> bag = Ensemble({"density": KernelDensity(), "ellipsoid": EmpiricalCovariance()}).fit(x)
    >>> found = neuralize(bag).relevance(torch.tensor([[3.0, 0.0]]))
    >>> sorted(found.absorbed)
    ['density: offset', 'ellipsoid: offset']
    >>> total = found.values.sum() + sum(found.absorbed.values())
    >>> bool(torch.isclose(total, found.evidence))
    True
    """

    members_: dict[str, Any]
    network_: EnsembleNetwork
    weights_: dict[str, float]
    means_: dict[str, float]
    scales_: dict[str, float]
    threshold_: float
    decision_scores_: Array
    input_shape_: tuple[int, ...]
    feature_names_in_: Array
    data_sha256_: str

    def __init__(
        self,
        members: Mapping[str, Any],
        *,
        weights: Mapping[str, float] | None = None,
        prefit: bool = False,
        contamination: float = 0.1,
    ) -> None:
        self.members = members
        self.weights = weights
        self.prefit = prefit
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None, *, reference: Any = None) -> Self:
        """Fit the members to ``X`` ``(n, ...)`` and standardise their scores.

        Parameters
        ----------
        X
            Rows ``(n, d)`` or pictures ``(n, h, w)``, ``(n, c, h, w)``. This package's detectors
            get pictures as they are, the others flat.
        y
            Labels for those of this package's detectors that take some.
        reference
            Rows, presumed normal, for means, standard deviations and threshold; ``X`` when
            missing. Neighbours and densities score rows they were fitted on too low, so rows of
            their own are better where there are enough.

        Raises
        ------
        InputError
            No members, weights that do not fit, a member whose score is the same for all rows.
        """
        names = self._checked_names()
        if not 0 < self.contamination < 1:
            raise InputError(
                f"Expected contamination between 0 and 1, got {self.contamination}: it is the "
                "share of the reference rows that lies above the threshold."
            )
        x = self._rows(X)
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        columns = getattr(X, "columns", None)
        if columns is not None:
            self.feature_names_in_ = np.array([str(name) for name in columns], dtype=object)
        self.input_shape_ = tuple(x.shape[1:])
        self.data_sha256_ = digest(x)
        self.weights_ = self._checked_weights(names)
        self.members_ = {name: self._fitted(self.members[name], x, y) for name in names}
        networks = {name: network_of(member) for name, member in self.members_.items()}
        known = x if reference is None else self._rows(reference, self.input_shape_)
        self._standardize(networks, known)
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores ``(n,)``, in standard deviations of the members; higher is more abnormal."""
        self._require_fitted()
        return self._scores(self._rows(X, self.input_shape_))

    def predict(self, X: Any) -> Array:
        """1 for outliers, 0 for others ``(n,)``, as in PyOD."""
        return (self.decision_function(X) > self.threshold_).astype(np.int64)

    def member_scores(self, X: Any) -> dict[str, Array]:
        """Standardised scores ``(n,)`` of each member by name, not weighted."""
        self._require_fitted()
        rows = self._rows(X, self.input_shape_)
        with torch.no_grad():
            parts = self.network_.standardized(rows)
        return {name: part.double().numpy() for name, part in parts.items()}

    def neuralized(self) -> EnsembleNetwork:
        """The network equal to the score; :func:`neuralize.neuralize` calls this."""
        self._require_fitted()
        return copy.deepcopy(self.network_)

    def save(self, path: Path | str) -> Path:
        """Write a new folder: a manifest, and a file for every member.

        This package's detectors are written by their own ``save``, others by ``skops``.
        """
        from neuralize.deep.ensemble_files import save_ensemble

        self._require_fitted()
        return save_ensemble(self, Path(path))

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        networks: Mapping[str, nn.Module] | None = None,
        trusted: tuple[str, ...] = (),
    ) -> Ensemble:
        """Read what :meth:`save` wrote, without running code from the files.

        Parameters
        ----------
        path
            The folder.
        networks
            Architectures, by the member's name, of detectors that were fitted on a module of the
            user's own.
        trusted
            Names of types in ``.skops`` files to restore beside those known to be harmless.

        Raises
        ------
        CheckpointError
            Files that are missing, damaged, of another ensemble, or hold types that are not known.
        """
        from neuralize.deep.ensemble_files import load_ensemble

        return load_ensemble(Path(path), networks or {}, trusted)

    # -- inside ----------------------------------------------------------------------------------

    def _checked_names(self) -> list[str]:
        if not isinstance(self.members, Mapping) or not self.members:
            raise InputError(
                "Expected at least one member, as a dict of detectors by name, got "
                f"{self.members!r}."
            )
        if not all(isinstance(name, str) and name for name in self.members):
            raise InputError(f"Expected names as keys of members, got {list(self.members)}.")
        return list(self.members)

    def _checked_weights(self, names: list[str]) -> dict[str, float]:
        given = dict.fromkeys(names, 1.0) if self.weights is None else dict(self.weights)
        if set(given) != set(names):
            raise InputError(f"Expected a weight for each of {names}, got {sorted(given)}.")
        total = sum(given.values())
        if not all(0 <= w < math.inf for w in given.values()) or total <= 0:
            raise InputError(f"Expected weights >= 0 that are not all zero, got {given}.")
        return {name: float(given[name]) / total for name in names}

    def _fitted(self, member: Any, x: Tensor, y: Any) -> Any:
        if self.prefit or isinstance(member, Neuralized):
            return member
        member = clone(member)
        if isinstance(member, DeepDetector | Ensemble):
            return member.fit(x, y)
        return member.fit(x.flatten(1).numpy())

    def _standardize(self, networks: Mapping[str, Neuralized], x: Tensor) -> None:
        """Means, scales and threshold from reference rows."""
        ones, zeros = dict.fromkeys(networks, 1.0), dict.fromkeys(networks, 0.0)
        raw = EnsembleNetwork(
            networks, weights=ones, means=zeros, scales=ones, input_shape=self.input_shape_
        )
        with torch.no_grad():
            evidence = {n: e.double().numpy() for n, e in raw.standardized(x).items()}
        self.means_, self.scales_ = {}, {}
        for name, e in evidence.items():
            self.means_[name], self.scales_[name] = float(e.mean()), float(e.std())
            if not self.scales_[name] > 1e-6 * abs(self.means_[name]):
                raise InputError(
                    f"Member {name!r} gives all {len(e)} reference rows (nearly) the same score, "
                    f"{self.means_[name]:.6g}, so it cannot be standardised. Is it collapsed, or "
                    "are there too few rows?"
                )
        self.connect(networks, None)
        self.decision_scores_ = self._scores(x)
        self.threshold_ = float(np.quantile(self.decision_scores_, 1 - self.contamination))
        self.network_.threshold = self.threshold_

    def connect(self, networks: Mapping[str, Neuralized], threshold: float | None) -> None:
        """Make the network of the members' networks and of what was fitted."""
        self.network_ = EnsembleNetwork(
            networks, weights=self.weights_, means=self.means_, scales=self.scales_,
            input_shape=self.input_shape_, threshold=threshold, model_name=type(self).__name__,
        )  # fmt: skip

    def _scores(self, x: Tensor) -> Array:
        with torch.no_grad():
            scores: Array = self.network_(x).double().numpy()
        return scores

    def _require_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise UnfittedModelError("Ensemble is not fitted yet. Call .fit(data) first.")

    def _rows(self, X: Any, shape: tuple[int, ...] | None = None) -> Tensor:
        """Rows in their own precision, checked against what the ensemble was fitted on."""
        x = as_rows(X)
        if shape is not None and tuple(x.shape[1:]) != shape:
            raise InputError(
                f"Expected rows of shape {shape}, which Ensemble was fitted on, got "
                f"{tuple(x.shape[1:])}."
            )
        return x


def network_of(member: Any) -> Neuralized:
    """A member's network; one that is a network already is copied."""
    return copy.deepcopy(member) if isinstance(member, Neuralized) else neuralize(member)


@register_converter(Ensemble)
def convert_ensemble(model: Ensemble) -> Neuralized:
    """The members' networks, standardised and averaged."""
    return model.neuralized()
