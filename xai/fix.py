"""Repair what an audit found: choose and apply repairs, fit the head again, and audit once more.

Rows are dealt into three parts at random. On the first, repairs are made and the head is fitted
again (a detector on its normal rows, any model on rows that are given for it); on the second, the
repair that frees the decisions most is chosen among those that keep the task; the third is held out
for the audits before and after, and for the numbers of the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, roc_auc_score
from torch import nn

from neuralize import Neuralized, neuralize
from neuralize.deep import DeepDetector
from xai.audit import Audit
from xai.audit.inputs import anomalies, column_of, rows_of
from xai.errors import InputError, UnsupportedModelError
from xai.fitting_rows import evidence_of, rows_to_fit, threshold_of
from xai.mitigate import encoded, refit
from xai.relevance import Array
from xai.repaired import Repaired, frozen_backbone
from xai.repairs import Repair, Rows, candidates, moved
from xai.report import Finding, Report, Section, Suspect, Table

PARTS = (0.5, 0.2, 0.3)
"""Shares of the rows to repair on, to choose on, and held out."""

MIN_ROWS = 60

KEPT = 0.02
"""A repair keeps the task if its measure is at most this much below the best repair's."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """A repaired model and what became of the findings.

    Attributes
    ----------
    repaired
        The model behind its repairs.
    before, after
        Audits of the old and the new model on the same held-out rows.
    table
        One line per repair: how many decisions change with what was suspected, and the task, before
        and after, on the held-out rows.
    skipped
        Findings for which there is no repair, and why.
    fitted_on
        Which rows the head was fitted on again, in words.
    """

    repaired: Repaired
    before: Report
    after: Report
    table: pd.DataFrame
    skipped: Mapping[str, str]
    fitted_on: str

    @property
    def left(self) -> tuple[Finding, ...]:
        """Warnings or worse of the second audit."""
        return tuple(f for f in self.after.findings if f.severity != "info")

    @property
    def exit_code(self) -> int:
        """0 if the second audit has no objection, else 1."""
        return self.after.exit_code

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence."""
        old = sum(f.severity != "info" for f in self.before.findings)
        if not self.left and not old:
            return (
                "Repaired; on the held-out rows the audit objects to neither model, so they are "
                "too few to show it, and the table is the evidence."
            )
        if not self.left:
            return f"Repaired: no objection is left of {old} on held-out rows."
        return f"Not repaired: {len(self.left)} objection(s) are left on held-out rows (of {old})."

    @property
    def section(self) -> Section:
        """What was done and what came of it, for a report."""
        lines = [self.verdict, f"Fitted again on {self.fitted_on}."]
        lines += [f"Left: {finding.title}" for finding in self.left]
        lines += [f"No repair for: {title} {reason}" for title, reason in self.skipped.items()]
        return Section("Repairs", "\n\n".join(lines), tables=[Table(self.table, CAPTION)])

    @property
    def report(self) -> Report:
        """The second audit's report with a section on the repairs."""
        return replace(self.after, sections=(self.section, *self.after.sections))


CAPTION = (
    "Decisions that change: share of held-out rows that are decided otherwise with what was "
    "suspected than without. Task: adjusted mutual information (clusters) or AUROC (outliers) "
    "with the labels; without labels, agreement with the old model on rows free of it."
)


def fix(
    model: Any,
    data: Any,
    labels: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    features: nn.Module | None = None,
    report: Report | None = None,
    fit_on: Any = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Fixed:
    """Repair a model by what an audit of it found.

    Parameters
    ----------
    model
        An estimator of scikit-learn or PyOD, centroids ``(K, q)``, or a detector of
        :mod:`neuralize.deep`; left as it is.
    data
        Rows ``(n, ...)``, as for :class:`xai.Audit`, at least 60.
    labels, groups
        Class of every row, and where it comes from ``(n,)``.
    features
        Encoder below the model; left as it is.
    report
        An audit of the model on *all* of these rows; made first when missing.
    fit_on
        Rows ``(m, ...)`` like those the model was fitted on, to fit it on again. When missing, half
        of ``data``; of a detector only its normal rows, see
        :func:`xai.fitting_rows.rows_to_fit`.
    seed, progress, options
        As of :class:`xai.Audit`.

    Raises
    ------
    InputError
        Too few rows, too few normal ones for a detector, or a report without a warning that says
        what it suspects.
    UnsupportedModelError
        No suspect has a repair, or the model cannot be fitted again.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> rng = np.random.default_rng(0)
    >>> x = np.c_[rng.normal(size=(300, 2)), 30.0 * (np.arange(300) % 25 == 0)]
    >>> fixed = fix(KMeans(2, n_init=3, random_state=0).fit(x), x, progress=False)
    >>> [f.severity for f in fixed.before.findings], fixed.left
    (['warning'], ())
    """
    x, names, _ = rows_of(data)
    if len(x) < MIN_ROWS:
        raise InputError(f"Expected at least {MIN_ROWS} rows to repair a model on, got {len(x)}.")
    label, group = column_of(labels, len(x), "labels"), column_of(groups, len(x), "groups")
    shared: dict[str, Any] = {"seed": seed, "progress": progress, **options}
    if report is None:
        report = Audit(neuralize(model, features), data, label, group, **shared).run()
    suspects = _suspects(report)
    own = Repaired(model, (), tuple(x.shape[1:]), features, names)
    job = _Job(own, x, label, seed, fit_on)
    repairs, skipped, lines = job.run(suspects)
    fixed = job.fitted(repairs)

    def audit(subject: Repaired) -> Report:
        held = job.parts[2]
        rows = pd.DataFrame(x[held], columns=list(names)) if names and x.ndim == 2 else x[held]
        known, sites = (None if c is None else c[held] for c in (label, group))
        return Audit(subject.network(), rows, known, sites, **shared).run()

    table = job.table(lines, fixed)
    return Fixed(fixed, audit(own), audit(fixed), table, skipped, job.to_fit.words)


def _suspects(report: Report) -> list[tuple[str, Suspect]]:
    """Suspects of warnings and worse, with their findings' titles; each place once."""
    found: list[tuple[str, Suspect]] = []
    for finding in report.findings:
        suspect = finding.suspect
        if suspect is None or finding.severity == "info":
            continue
        if not any(_alike(suspect, other) for _, other in found):
            found.append((finding.title, suspect))
    if not found:
        raise InputError(
            "Nothing to repair: no finding of severity warning or worse says what it suspects. "
            + report.verdict
        )
    return found


def _alike(a: Suspect, b: Suspect) -> bool:
    if a.kind != b.kind:
        return False
    return all(
        name in b.arrays and np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays
    )


class _Job:
    """The three parts of the rows, and what is tried on them."""

    def __init__(
        self, own: Repaired, x: Array, labels: Array | None, seed: int, fit_on: Any = None
    ) -> None:
        self.own, self.x, self.labels = own, x, labels
        order = np.random.default_rng(seed).permutation(len(x))
        cuts = (np.cumsum(PARTS[:2]) * len(x)).astype(int)
        self.parts = [np.sort(part) for part in np.split(order, cuts)]
        self.old = own.network()
        first = self.parts[0]
        known = None if labels is None else labels[first]
        self.to_fit = rows_to_fit(self.old, x[first], known, fit_on)

    def run(
        self, suspects: Sequence[tuple[str, Suspect]]
    ) -> tuple[list[Repair], dict[str, str], list[tuple[Suspect, Repair]]]:
        """The best repair for each suspect, on top of those before."""
        chosen: list[Repair] = []
        skipped: dict[str, str] = {}
        lines: list[tuple[Suspect, Repair]] = []
        for title, suspect in suspects:
            try:
                tried = candidates(suspect, self._rows(0))
            except (UnsupportedModelError, InputError) as error:
                skipped[title] = str(error)
                continue
            best = tried[0] if len(tried) == 1 else self._best(tried, chosen, suspect)
            chosen.append(best)
            lines.append((suspect, best))
        if not chosen:
            reasons = " ".join(f"{title} {reason}" for title, reason in skipped.items())
            raise UnsupportedModelError(f"No finding has a repair. {reasons}")
        return chosen, skipped, lines

    def fitted(self, repairs: Sequence[Repair]) -> Repaired:
        """The head behind the repairs, fitted again."""
        rows = self.to_fit.x
        for repair in repairs:
            if repair.where == "rows":
                rows = encoded(repair.module, rows)
        model, features = self.own.model, self.own.features
        if isinstance(model, DeepDetector):
            return replace(self.own, model=_detector(model, rows), repairs=tuple(repairs))
        h = rows.reshape(len(rows), -1) if features is None else encoded(features, rows)
        for repair in repairs:
            if repair.where == "features":
                h = encoded(repair.module, h)
        return replace(self.own, model=_head(model, h), repairs=tuple(repairs))

    def table(self, lines: Sequence[tuple[Suspect, Repair]], fixed: Repaired) -> pd.DataFrame:
        """Numbers of the old and the new model on the held-out rows."""
        new = fixed.network()
        rows = [
            {
                "suspect": suspect.summary,
                "repair": repair.name,
                "decisions that change before": self._reliance(self.old, suspect, 2),
                "after": self._reliance(new, suspect, 2),
                "task before": self._task(self.old, suspect, 2),
                "task after": self._task(new, suspect, 2),
            }
            for suspect, repair in lines
        ]
        return pd.DataFrame(rows).set_index("suspect")

    def _rows(self, part: int) -> Rows:
        at = self.parts[part]
        return Rows(self.x[at], at, self.own.features)

    def _best(self, tried: Sequence[Repair], before: Sequence[Repair], suspect: Suspect) -> Repair:
        nets = [self.fitted([*before, repair]).network() for repair in tried]
        task = [self._task(net, suspect, 1) for net in nets]
        reliance = [self._reliance(net, suspect, 1) for net in nets]
        good = [i for i in range(len(tried)) if not task[i] < max(task) - KEPT]
        return tried[min(good, key=lambda i: reliance[i])]

    def _reliance(self, net: Neuralized, suspect: Suspect, part: int) -> float:
        """Share of rows that are decided otherwise with what is suspected than without."""
        pair = moved(self._rows(part), suspect)
        if pair is None:
            return float("nan")
        with_it, without = (evidence_of(net, rows) for rows in pair)
        if net.kind != "outlier":
            return float((with_it.argmax(1) != without.argmax(1)).mean())
        bar = threshold_of(net, without)
        return float(((with_it > bar) != (without > bar)).mean())

    def _task(self, net: Neuralized, suspect: Suspect, part: int) -> float:
        at = self.parts[part]
        x, labels = self.x[at], None if self.labels is None else self.labels[at]
        found = evidence_of(net, x)
        if labels is not None and net.kind != "outlier":
            return float(adjusted_mutual_info_score(labels, found.argmax(1)))
        anomalous = anomalies(labels)
        if anomalous is not None:
            return float(roc_auc_score(anomalous, found))
        pair = moved(self._rows(part), suspect)
        bare = x if pair is None else pair[1]
        old, new = evidence_of(self.old, bare), evidence_of(net, bare)
        if net.kind != "outlier":
            return float(adjusted_mutual_info_score(old.argmax(1), new.argmax(1)))
        return float(((old > threshold_of(self.old, old)) == (new > threshold_of(net, new))).mean())


def _head(model: Any, h: Array) -> Any:
    """A head like the old one, fitted to features; centroids by k-means."""
    if isinstance(model, BaseEstimator) or hasattr(model, "get_params"):
        return refit(model, h)
    centroids = np.asarray(model)
    if centroids.ndim != 2:
        raise UnsupportedModelError(
            f"Expected a head that can be fitted again (an estimator, centroids, a detector), got "
            f"{type(model).__name__}."
        )
    found = KMeans(len(centroids), n_init=10, random_state=0).fit(h.astype(np.float64))
    centres: Array = found.cluster_centers_
    return centres


def _detector(model: DeepDetector, rows: Array) -> DeepDetector:
    """The detector fitted again; one from a file gets back the backbone that lies inside it."""
    backbone = frozen_backbone(model)
    if backbone is not None and not isinstance(getattr(model, "backbone", None), nn.Module):
        model = type(model)(**{**model.get_params(deep=False), "backbone": backbone})
    again = refit(model, rows)
    assert isinstance(again, DeepDetector)
    return again
