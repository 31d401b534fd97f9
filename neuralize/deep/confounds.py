"""Confounds of case scores: whether a detector sees the abnormal, or the scanner.

Sites differ in scanners and stains, and an embedding knows. Two questions, without and with
explanations. Does the score tell sites apart, about as well as it tells abnormal cases from normal
ones (areas under the ROC curve)? And how much of the relevance lies in dimensions of the embedding
that tell sites apart by themselves?

Where sites have different scores, the difference of their means is itself a sum over dimensions,
because every score is: ``mean_B o - mean_A o = sum_i (mean_B R_i - mean_A R_i)`` and what was
absorbed. So the scanner's dimensions answer for an exact part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from neuralize.deep.case_detector import CaseDetector
from neuralize.deep.case_patches import Patches
from neuralize.deep.case_relevance import CaseRelevance
from neuralize.deep.embedding import embed
from neuralize.errors import InputError

Array = NDArray[Any]

BY_CHANCE = 0.01
"""Probability that chance makes any dimension a scanner's."""


@dataclass(frozen=True, eq=False)
class Confounds:
    """What :func:`audit_confounds` finds.

    Attributes
    ----------
    site_auc
        How well the score tells each site from the others, by site: 0.5 not at all, 1 perfectly,
        in whichever direction; among normal cases where labels say which are.
    anomaly_auc
        How well it tells abnormal from normal cases; None without labels.
    dimension_auc
        How well the mean embedding of a case tells the sites apart, per dimension ``(d,)``, for
        the site that it tells best.
    relevance_share
        Share of the absolute relevance in each dimension ``(d,)``.
    scanner_dimensions
        Dimensions that tell sites apart.
    site
        The site that the score tells best.
    score_gap
        Its mean score minus that of the other sites; among normal cases where labels say.
    dimension_gap
        What each dimension adds to that ``(d,)``: the difference of its mean relevance.
    relevance
        The explanation itself.
    """

    site_auc: Mapping[Any, float]
    anomaly_auc: float | None
    dimension_auc: Array
    relevance_share: Array
    scanner_dimensions: Array
    site: Any
    score_gap: float
    dimension_gap: Array
    relevance: CaseRelevance

    @property
    def scanner_share(self) -> float:
        """Share of the relevance in the scanner's dimensions."""
        return float(self.relevance_share[self.scanner_dimensions].sum())

    @property
    def expected_share(self) -> float:
        """What they would have if all dimensions had the same."""
        return len(self.scanner_dimensions) / len(self.relevance_share)

    @property
    def scanner_gap(self) -> float:
        """What the scanner's dimensions add to ``score_gap``."""
        return float(self.dimension_gap[self.scanner_dimensions].sum())

    @property
    def dimensions(self) -> pd.DataFrame:
        """One row per dimension, those with most relevance first."""
        frame = pd.DataFrame(
            {
                "relevance share": self.relevance_share,
                "gap": self.dimension_gap,
                "site AUC": self.dimension_auc,
                "scanner": np.isin(np.arange(len(self.dimension_auc)), self.scanner_dimensions),
            },
            index=pd.Index(
                self.relevance.feature_names or range(len(self.dimension_auc)), name="dimension"
            ),
        )
        return frame.sort_values("relevance share", ascending=False)

    def __str__(self) -> str:
        anomaly = "unknown" if self.anomaly_auc is None else f"{self.anomaly_auc:.3f}"
        return (
            f"anomaly AUC {anomaly}, site AUC {self.site_auc[self.site]:.3f} (site {self.site}, "
            f"scores {self.score_gap:+.3g}); "
            f"{len(self.scanner_dimensions)} of {len(self.relevance_share)} dimensions tell sites "
            f"apart and have {self.scanner_share:.1%} of the relevance (evenly spread: "
            f"{self.expected_share:.1%}) and {self.scanner_gap:+.3g} of the difference in score"
        )


def audit_confounds(
    detector: CaseDetector,
    X: Any,
    cases: Any = None,
    *,
    sites: Any,
    labels: Any = None,
    limit: float = 0.8,
) -> Confounds:
    """Ask a detector of cases whether it sees sites.

    Parameters
    ----------
    detector
        Fitted.
    X, cases
        Patches of cases from several sites, as in :meth:`CaseDetector.fit`.
    sites
        Site, scanner or stain of every case ``(C,)``, in the order in which cases come first.
    labels
        0 normal, 1 abnormal, for every case ``(C,)``. Without them, abnormal cases that one site
        has more of look like the site.
    limit
        A dimension is the scanner's if it tells a site apart with a larger area than this, and than
        chance allows in that many dimensions.

    Raises
    ------
    InputError
        Fewer than two sites, sites or labels that do not fit the cases, labels of one kind.

    Examples
    --------
    >>> from sklearn.covariance import EmpiricalCovariance
    >>> rng, sites = np.random.default_rng(0), np.arange(60) % 2
    >>> slides = rng.normal(size=(60, 10, 3))
    >>> detector = CaseDetector(EmpiricalCovariance()).fit(list(slides))
    >>> slides[sites == 1, :, 2] += 5  # another scanner
    >>> found = audit_confounds(detector, list(slides), sites=sites)
    >>> found.scanner_dimensions.tolist(), found.scanner_share > 2 * found.expected_share
    ([2], True)
    """
    relevance = detector.explain(X, cases)
    patches = Patches.of(X, cases)
    count = len(patches.names)
    where = _of_cases(sites, count, "site")
    known = np.unique(where)
    if len(known) < 2:
        raise InputError(f"Expected cases of at least two sites, got {known.tolist()}.")
    usual, anomaly_auc = np.ones(count, dtype=bool), None
    if labels is not None:
        y = _of_cases(labels, count, "label")
        if set(np.unique(y).tolist()) != {0, 1}:
            raise InputError(f"Expected labels 0 and 1, both of them, got {np.unique(y).tolist()}.")
        usual = y == 0
        anomaly_auc = float(_auc(relevance.scores[:, None], y == 1)[0])
    missing = sorted(set(known.tolist()) - set(where[usual].tolist()), key=str)
    if missing or len(set(where[usual].tolist())) < 2:
        raise InputError(f"Expected normal cases of every site, got none of {missing}.")
    phi = embed(detector.features, patches.x).flatten(1).double().numpy()
    means = np.stack([patches.sums(column) for column in phi.T], 1)
    means /= patches.sums(np.ones(len(patches)))[:, None]
    site_auc, best, clear = {}, np.zeros(phi.shape[1]), np.zeros(phi.shape[1], dtype=bool)
    for one in known:
        own = where[usual] == one
        site_auc[one.item()] = float(_either_way(relevance.scores[usual][:, None], own)[0])
        auc = _either_way(means[usual], own)
        tests = phi.shape[1] * len(known)
        clear |= auc > max(limit, _chance(own, BY_CHANCE / tests))
        best = np.maximum(best, auc)
    site = max(site_auc, key=lambda name: site_auc[name])
    inside, outside = usual & (where == site), usual & (where != site)

    def gap(parts: Array) -> Array:
        difference: Array = parts[inside].mean(0) - parts[outside].mean(0)
        return difference

    return Confounds(
        site_auc=site_auc,
        anomaly_auc=anomaly_auc,
        dimension_auc=best,
        relevance_share=relevance.dimension_shares,
        scanner_dimensions=np.flatnonzero(clear),
        site=site,
        score_gap=float(gap(relevance.scores)),
        dimension_gap=gap(relevance.case_dimensions),
        relevance=relevance,
    )


def _auc(columns: Array, positive: Array) -> Array:
    """Area under the ROC curve of every column ``(C, d)``, by ranks; ties count half."""
    n, m = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(columns, axis=0)
    found: Array = (ranks[positive].sum(0) - n * (n + 1) / 2) / (n * m)
    return found


def _either_way(columns: Array, positive: Array) -> Array:
    auc = _auc(columns, positive)
    found: Array = np.maximum(auc, 1 - auc)
    return found


def _chance(positive: Array, p: float) -> float:
    """Area that a column without any information exceeds with probability ``p``, either way."""
    n, m = int(positive.sum()), int((~positive).sum())
    deviation = np.sqrt((n + m + 1) / (12 * n * m))
    return float(0.5 + norm.isf(p / 2) * deviation)


def _of_cases(values: Any, count: int, what: str) -> Array:
    found = np.asarray(values)
    if found.shape != (count,):
        raise InputError(
            f"Expected a {what} for each of {count} cases, in the order in which they come first, "
            f"got shape {found.shape}."
        )
    return found
