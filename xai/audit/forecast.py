"""What a condition will do to the decisions, foreseen by relevance and measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, spearmanr

from xai.audit.context import AuditContext, Rescored
from xai.audit.inputs import anomalies
from xai.audit.trial import CHANGED
from xai.relevance import Array

CHANCE = 0.05
"""Decisions that change go both ways, unless fewer than one coin toss in twenty is as one-sided."""


@dataclass(frozen=True)
class Rate:
    """Share of rows of one kind that are called something: as things are, foreseen, measured.

    Attributes
    ----------
    name
        ``"share called abnormal"``, ``"share of anomalies missed"``, ...
    before, foreseen, after
        As things are; by the forecast; under the condition.
    one_sided
        Whether at least 5 % of the rows changed on balance, more to one side than by chance.
    """

    name: str
    before: float
    foreseen: float
    after: float
    one_sided: bool

    @property
    def sentence(self) -> str:
        """The three numbers, in words."""
        return (
            f"{self.name} {self.after:.1%} instead of {self.before:.1%} (foreseen "
            f"{self.foreseen:.1%})"
        )


@dataclass(frozen=True)
class Forecast:
    """A forecast of the scores, held against what was measured.

    Attributes
    ----------
    correlation
        Rank correlation, over rows, of foreseen and measured shift; 0 where one does not vary.
    changed
        Foreseen share of decisions that change.
    rates
        Of a detector: rows called abnormal; where labels are 0 and 1, also anomalies that are
        missed and normal rows called abnormal.
    """

    correlation: float
    changed: float
    rates: tuple[Rate, ...]

    @property
    def one_sided(self) -> bool:
        """Whether a rate rises or falls, by more than chance."""
        return any(rate.one_sided for rate in self.rates)


def held_against(audit: AuditContext, rows: Array, foreseen: Array, measured: Rescored) -> Forecast:
    """Compare foreseen shifts of the evidence ``(k,)`` with what the model answered."""
    varies = np.ptp(foreseen) > 0 and np.ptp(measured.shift) > 0
    correlation = float(spearmanr(foreseen, measured.shift).statistic) if varies else 0.0
    evidence = audit.evidence[rows] + foreseen
    before = audit.decision[rows]
    if audit.net.kind != "outlier":
        return Forecast(correlation, float((evidence < 0).mean()), ())
    expected = evidence > audit.threshold
    after = before ^ measured.changed
    everyone = np.ones(len(rows), dtype=bool)
    rates = [_rate("share called abnormal", everyone, before, expected, after)]
    anomalous = anomalies(audit.labels)
    if anomalous is not None:
        bad = anomalous[rows]
        rates += [
            _rate("share of anomalies missed", bad, ~before, ~expected, ~after),
            _rate("share of normal rows called abnormal", ~bad, before, expected, after),
        ]
    return Forecast(correlation, float((expected != before).mean()), tuple(rates))


def _rate(name: str, among: Array, before: Array, expected: Array, after: Array) -> Rate:
    shares = (
        float(called[among].mean()) if among.any() else 0.0 for called in (before, expected, after)
    )
    up, down = int((after & ~before & among).sum()), int((before & ~after & among).sum())
    enough = among.any() and abs(up - down) >= CHANGED * among.sum()
    one_sided = bool(enough and binomtest(min(up, down), up + down).pvalue < CHANCE)
    was, foreseen, became = shares
    return Rate(name, was, foreseen, became, one_sided)
