"""Cases from patches: a detector for slides (Dippel et al., arXiv 2406.14866).

A detector scores the embedding of every patch of a case, and a rule turns the scores of its
patches into one of the case, see :mod:`neuralize.deep.case_patches`. The paper's are detectors on
the features of a network trained with outlier exposure, and on nearest neighbours and Mahalanobis
distances; the rule is a high quantile or the mean of the top patches. Any detector and any rule of
these can be put together here.

Relevance adds up on three levels: patches of the case, dimensions of their embeddings, and, with
an encoder, pixels.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from torch import Tensor, nn

from neuralize.attribution import Attribution, through_encoder
from neuralize.convert import neuralize
from neuralize.deep.case_patches import Aggregation, Patches, case_weights, check_rule
from neuralize.deep.case_relevance import CaseRelevance
from neuralize.deep.deep_sad import DeepSAD
from neuralize.deep.detector import DeepDetector
from neuralize.deep.embedding import embed
from neuralize.deep.ensemble import Ensemble
from neuralize.deep.outlier_exposure import ExposedDetector
from neuralize.errors import InputError, UnfittedModelError, UnsupportedModelError
from neuralize.lrp import LRP
from neuralize.network import Neuralized, Output

Array = NDArray[Any]

PICTURES_AT_ONCE = 16
"""Patches whose relevance goes through the encoder together."""


class CaseDetector(BaseEstimator):
    """A detector of patches that decides about cases. Higher is more abnormal, outliers are 1.

    Parameters
    ----------
    detector
        Any detector: this package's, scikit-learn's, PyOD's, a pipeline, an ensemble.
    aggregation
        ``"top"`` (mean of the highest), ``"max"``, ``"quantile"`` or ``"mean"``.
    share
        Share of a case's patches that count as the highest, at least one.
    quantile
        Which quantile, between two patches by linear interpolation.
    features
        Encoder of the patches, frozen; without one the patches are embeddings.
    prefit
        Take the detector as it is, fitted; otherwise :meth:`fit` fits a copy.
    contamination
        Share of the training cases above the threshold.

    Attributes
    ----------
    detector_, network_
        The fitted detector, and the network equal to it.
    threshold_
        Outlier iff the case's score is larger: the ``1 - contamination`` quantile of
        ``decision_scores_``, the scores of the training cases.
    input_shape_, feature_names_
        Of one patch; columns of its embedding, where they have names.

    Examples
    --------
    >>> from sklearn.covariance import EmpiricalCovariance
    >>> rng = np.random.default_rng(0)
    >>> slides = [rng.normal(size=(20, 3)) for _ in range(30)]
    >>> slides[7][4] += 9  # one abnormal patch
    >>> detector = CaseDetector(EmpiricalCovariance(), aggregation="max").fit(slides)
    >>> int(detector.decision_function(slides).argmax())
    7
    >>> found = detector.explain(slides)
    >>> int(found.patches.query("case == 7").relevance.to_numpy().argmax())
    4
    >>> found.relative_conservation_error < 1e-12
    True
    """

    detector_: Any
    network_: Neuralized
    threshold_: float
    decision_scores_: Array
    input_shape_: tuple[int, ...]
    feature_names_: tuple[str, ...] | None

    def __init__(
        self,
        detector: Any,
        *,
        aggregation: Aggregation = "top",
        share: float = 0.1,
        quantile: float = 0.9,
        features: nn.Module | None = None,
        prefit: bool = False,
        contamination: float = 0.1,
    ) -> None:
        self.detector = detector
        self.aggregation = aggregation
        self.share = share
        self.quantile = quantile
        self.features = features
        self.prefit = prefit
        self.contamination = contamination

    def fit(self, X: Any, cases: Any = None, *, outliers: Any = None) -> Self:
        """Fit the detector to the patches of cases that are presumed normal.

        Parameters
        ----------
        X, cases
            Patches ``(N, ...)`` and the case of each ``(N,)``; or a list with the patches of each
            case, and names of the cases or nothing.
        outliers
            Patches of something else ``(M, ...)``, for detectors that learn from some (HSC, BCE,
            Deep SAD).

        Raises
        ------
        InputError
            Patches and cases that do not fit, options that cannot be, NaN, outliers for a detector
            that takes none.
        """
        check_rule(self.aggregation, self.share, self.quantile)
        if not 0 < self.contamination < 1:
            raise InputError(f"Expected contamination between 0 and 1, got {self.contamination}.")
        patches = Patches.of(X, cases)
        self.input_shape_ = tuple(patches.x.shape[1:])
        phi = embed(self.features, patches.x)
        if self.prefit:
            self.detector_ = self.detector
        else:
            theirs = None
            if outliers is not None:
                theirs = embed(self.features, self._same_shape(Patches.of([outliers]).x))
            self.detector_ = _fitted(self.detector, phi, theirs)
        net = neuralize(self.detector_)
        if net.kind != "outlier":
            raise UnsupportedModelError(
                f"Expected an outlier score, but {net.model_name} is a {net.kind}: nothing says "
                "how abnormal a patch is."
            )
        self.network_ = net
        columns = getattr(X, "columns", None) if self.features is None else None
        self.feature_names_ = net.feature_names if columns is None else tuple(map(str, columns))
        return self._calibrate(patches, phi)

    def calibrate(self, X: Any, cases: Any = None) -> Self:
        """Set the threshold by other cases, presumed normal, than those it was fitted to.

        Neighbours and densities score rows they were fitted on too low.
        """
        patches = self._patches(X, cases)
        return self._calibrate(patches, embed(self.features, patches.x))

    def decision_function(self, X: Any, cases: Any = None) -> Array:
        """Score of every case ``(C,)``, in the order in which they come first."""
        patches = self._patches(X, cases)
        return self._scores(patches, embed(self.features, patches.x))

    def predict(self, X: Any, cases: Any = None) -> Array:
        """1 for outliers, 0 for others, for every case ``(C,)``."""
        return (self.decision_function(X, cases) > self.threshold_).astype(np.int64)

    def explain(
        self,
        X: Any,
        cases: Any = None,
        *,
        positions: Any = None,
        output: Output = "score",
        composite: Any = None,
    ) -> CaseRelevance:
        """Relevance of patches, dimensions and pixels for the score of every case.

        Parameters
        ----------
        X, cases
            As in :meth:`fit`.
        positions
            Row and column of every patch ``(N, 2)``, whole numbers, for :meth:`CaseRelevance.grid`.
        output
            ``"score"``, or ``"margin"``: the threshold is then absorbed by the case.
        composite
            Rules of the encoder; chosen by its family when missing.

        Raises
        ------
        InputError
            Patches and cases that do not fit, NaN, a composite without an encoder.
        """
        if output not in ("score", "margin"):
            raise InputError(f"Expected output 'score' or 'margin', got {output!r}.")
        if composite is not None and self.features is None:
            raise InputError(
                "A composite assigns rules to an encoder's modules, and there is no encoder; leave "
                "composite=None."
            )
        patches = self._patches(X, cases)
        phi = embed(self.features, patches.x)
        evidence = self._evidence(phi)
        weights = self._weights(evidence, patches)
        explained = np.flatnonzero(weights)
        found = self._dimensions(phi[explained], torch.from_numpy(weights[explained]))
        dimensions = found.values.flatten(1).double().numpy()
        if self.features is not None:
            found = self._pixels(patches.x[explained], found, composite)
        values = found.values.reshape(len(explained), *self.input_shape_)
        scores = patches.sums(weights * evidence)
        threshold = {"threshold": np.full_like(scores, -self.threshold_)}
        return CaseRelevance(
            names=patches.names,
            scores=scores if output == "score" else scores - self.threshold_,
            threshold=self.threshold_,
            case_absorbed={} if output == "score" else threshold,
            case=patches.case,
            evidence=evidence,
            weights=weights,
            explained=explained,
            dimensions=dimensions,
            values=values.double().numpy(),
            absorbed={n: part.double().numpy() for n, part in found.absorbed.items()},
            positions=_places(positions, len(patches)),
            feature_names=self.feature_names_,
        )

    # -- inside ----------------------------------------------------------------------------------

    def _patches(self, X: Any, cases: Any) -> Patches:
        if not hasattr(self, "network_"):
            raise UnfittedModelError("CaseDetector is not fitted yet. Call .fit(data) first.")
        patches = Patches.of(X, cases)
        self._same_shape(patches.x)
        return patches

    def _same_shape(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.input_shape_:
            raise InputError(
                f"Expected patches of shape {self.input_shape_}, which CaseDetector was fitted on, "
                f"got {tuple(x.shape[1:])}."
            )
        return x

    def _calibrate(self, patches: Patches, phi: Tensor) -> Self:
        self.decision_scores_ = self._scores(patches, phi)
        self.threshold_ = float(np.quantile(self.decision_scores_, 1 - self.contamination))
        return self

    def _evidence(self, phi: Tensor) -> Array:
        with torch.no_grad():
            evidence: Array = self.network_(self._inner(phi)).double().numpy()
        return evidence

    def _inner(self, phi: Tensor) -> Tensor:
        """Patches as the network takes them: flat where it was fitted on rows."""
        return phi if self.network_.n_features is None else phi.flatten(1)

    def _weights(self, evidence: Array, patches: Patches) -> Array:
        return case_weights(
            evidence, patches.case, self.aggregation, share=self.share, quantile=self.quantile
        )

    def _scores(self, patches: Patches, phi: Tensor) -> Array:
        evidence = self._evidence(phi)
        return patches.sums(self._weights(evidence, patches) * evidence)

    def _dimensions(self, phi: Tensor, weights: Tensor) -> Attribution:
        """Relevance of the embeddings, in the case's unit."""
        found = self.network_.relevance(self._inner(phi))
        w = weights.to(found.values)
        wide = w.reshape(-1, *(1,) * (found.values.ndim - 1))
        absorbed = {name: w * part for name, part in found.absorbed.items()}
        return Attribution(wide * found.values, w * found.evidence, absorbed)

    def _pixels(self, x: Tensor, found: Attribution, composite: Any) -> Attribution:
        """Relevance of the embeddings sent on through the encoder."""
        assert self.features is not None
        lrp = LRP(self.features, composite)
        weight = next((p for p in self.features.parameters() if p.is_floating_point()), x)
        values, shares = [], []
        for start in range(0, len(x), PICTURES_AT_ONCE):
            rows = slice(start, start + PICTURES_AT_ONCE)
            part = x[rows].to(weight.dtype)
            trace = lrp.trace(part)
            own = Attribution(found.values[rows], found.evidence[rows])
            (below,) = through_encoder(lrp, trace, part, [own])
            values.append(below.values)
            shares.append(below.absorbed)
        names = sorted({name for part in shares for name in part})
        counts = [len(part) for part in values]
        zeros = [torch.zeros(n, dtype=found.evidence.dtype) for n in counts]
        absorbed = {
            name: torch.cat([p.get(name, z) for p, z in zip(shares, zeros, strict=True)])
            for name in names
        }
        return Attribution(torch.cat(values), found.evidence, found.absorbed | absorbed)


def _fitted(detector: Any, phi: Tensor, outliers: Tensor | None) -> Any:
    """A copy, fitted to embeddings, with labels where there are outliers."""
    detector = clone(detector)
    label = 1 if isinstance(detector, ExposedDetector) else -1
    if outliers is None:
        if isinstance(detector, DeepDetector | Ensemble):
            return detector.fit(phi)
        return detector.fit(phi.flatten(1).numpy())
    if not isinstance(detector, ExposedDetector | DeepSAD):
        raise InputError(
            f"Expected a detector that learns from outliers (HSC, BCE, Deep SAD), but "
            f"{type(detector).__name__} takes none; leave outliers=None."
        )
    y = np.concatenate([np.zeros(len(phi)), np.full(len(outliers), label)]).astype(np.int64)
    return detector.fit(torch.cat([phi, outliers.to(phi.dtype)]), y)


def _places(positions: Any, n: int) -> Array | None:
    if positions is None:
        return None
    places = np.asarray(positions)
    if places.shape != (n, 2) or not np.issubdtype(places.dtype, np.integer):
        raise InputError(
            f"Expected row and column of every patch, whole numbers ({n}, 2), got {places.dtype} "
            f"of shape {places.shape}."
        )
    return places
