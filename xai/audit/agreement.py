"""Agreement: models that score alike for other reasons; anomalies found and not located."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score
from torch import nn

from neuralize import Neuralized, neuralize
from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.localised import localised
from xai.audit.only_one import Only, only_one, only_one_picture
from xai.audit.patches import is_large
from xai.evaluate.localisation import cosines
from xai.plot.images import relevance_map
from xai.relevance import Array
from xai.report.finding import Answer, Counterfactual, Finding, Measure, NotAssessable, Passed

MAPS, FEWER_MAPS = 40, 16
"""Rows whose maps are compared; fewer of large pictures."""

FEWEST_ROWS = 20

ALIKE = 0.7
"""Rank correlation of scores, or adjusted Rand index of clusters, from which on models agree."""

ELSEWHERE = 0.3
"""Maps of one row with a smaller cosine (median) show different reasons."""


class Agreement(Check):
    """Compares with another model by score and by map, and detection with localisation.

    Parameters
    ----------
    other
        A second model for the same data: another detector, another checkpoint. Without one, only
        detection and localisation are compared, for which masks and labels (1: anomalous) are
        needed.
    other_name
        What the report calls it.
    features
        Encoder below it.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.mixture import GaussianMixture
    >>> from sklearn.neighbors import KernelDensity
    >>> from xai.audit import Audit
    >>> x = load_wine().data[:, :6]
    >>> one, two = (KernelDensity(bandwidth=h).fit(x[::2]) for h in (4.0, 5.0))
    >>> report = Audit(one, x[1::2], checks=[Agreement(two, "a wider kernel")]).run()
    >>> report.exit_code
    0
    """

    name = "agreement"
    question = "Do models that agree in score agree in their reasons?"
    needs = "masks"

    def __init__(
        self, other: Any = None, other_name: str = "the other model",
        features: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self.other = other
        self.other_name = other_name
        self.features = features

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        if self.other is not None:
            net = self.other
            if not isinstance(net, Neuralized):
                net = neuralize(net, self.features)
            yield self._compared(audit, replace(audit, net=net))
        yield from localised(audit)

    def _compared(self, audit: AuditContext, other: AuditContext) -> Answer:
        reason = _reason(audit, other)
        if reason:
            return NotAssessable(self.question, reason)
        alike = _alike(audit, other)
        if alike < ALIKE:
            return NotAssessable(
                self.question,
                f"{self.other_name} does not agree in score: {alike:.2f}, asked from {ALIKE:g} on "
                "(rank correlation of scores, or adjusted Rand index of clusters).",
            )
        rng = audit.rng
        most = FEWER_MAPS if is_large(audit) else MAPS
        rows = np.sort(rng.choice(len(audit), min(most, len(audit)), replace=False))
        one, two = (_maps(context, rows) for context in (audit, other))
        own = cosines(one, two)
        order = np.roll(np.arange(len(rows)), 1)
        crossed = float(np.median(cosines(one, two[order])))
        measure = Measure(
            f"cosine of maps with those of {self.other_name} (median)",
            float(np.median(own)), ">=", ELSEWHERE,
        )  # fmt: skip
        note = f"Scores agree to {alike:.2f}. Maps of different rows: {crossed:.2f}."
        if measure.holds:
            return Passed(measure, note)
        here = only_one(audit, other, rows)
        there = only_one(other, audit, rows)
        return self._finding(audit, measure, note, here, there, rows)

    def _finding(
        self, audit: AuditContext, measure: Measure, note: str, here: Only, there: Only, rows: Array
    ) -> Finding:
        decisive = here.decisive or there.decisive
        names = {"this model": here, self.other_name: there}
        numbers: dict[str, float] = {}
        for name, only in names.items():
            numbers |= {
                f"where only {name} looks: shift of its scores (median, in standard deviations)": (
                    only.moved
                ),
                f"where only {name} looks: shift of the other's scores": only.other_moved,
                f"where only {name} looks: share of its decisions that change": only.changed,
                f"where only {name} looks: share of the other's that change": only.other_changed,
                f"random places: share of decisions of {name} that change (mean)": float(
                    only.random_changed.mean()
                ),
            }
        where = "patches" if audit.is_image else "features"
        return Finding(
            "warning" if decisive else "info",
            f"{self.other_name} scores alike for other reasons.",
            measure,
            f"{note} At most one of the two can be right about what matters. Without the {where} "
            f"that only this model looks at, {here.changed:.1%} of its decisions change, and "
            f"{here.other_changed:.1%} of the other's; without those that only {self.other_name} "
            f"looks at, {there.changed:.1%} of its decisions, and {there.other_changed:.1%} of "
            "this model's.",
            "Look at what only one of them uses, and decide which of it is evidence. A mean of "
            "both rests on more than either.",
            Counterfactual(
                f"In {len(rows)} rows, the tenth of the {where} in which one model's share of "
                "relevance exceeds the other's most was replaced by the median of the data; so "
                f"were {len(here.random_changed)} random choices of as many. "
                f"{audit.decision_note}".strip(),
                numbers,
            ),
            [only_one_picture(audit, here, there, self.other_name, rows)],
            audit.names(rows),
        )


def _reason(audit: AuditContext, other: AuditContext) -> str:
    if (audit.net.kind == "outlier") != (other.net.kind == "outlier"):
        return "One of the two models scores abnormality, the other assigns clusters."
    if not (audit.net.row_independent and other.net.row_independent):
        return "One of the two models scores a row against the other rows of its batch."
    if len(audit) < FEWEST_ROWS:
        return f"Fewer than {FEWEST_ROWS} rows."
    return ""


def _alike(audit: AuditContext, other: AuditContext) -> float:
    if audit.net.kind == "outlier":
        return float(spearmanr(audit.evidence, other.evidence).statistic)
    return float(adjusted_rand_score(audit.decision, other.decision))


def _maps(audit: AuditContext, rows: Array) -> Array:
    values = audit.relevance_of(rows).values
    maps = relevance_map(values) if audit.is_image else values
    return maps.reshape(len(rows), -1)
