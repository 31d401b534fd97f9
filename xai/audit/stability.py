"""Stability: decisions and maps under changes that change nothing, and between old and new rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.harmless import Change, changes
from xai.audit.new_rows import compared
from xai.audit.patches import is_large
from xai.evaluate.localisation import cosines
from xai.explainer import explain
from xai.relevance import Array
from xai.report.finding import Answer, Counterfactual, Finding, Measure, NotAssessable, Passed
from xai.rows import to_rows

ROWS, FEWER_ROWS = 150, 60
"""Rows that are changed and scored again; fewer of large pictures."""

MAPS, FEWER_MAPS = 40, 16
"""... and explained again."""

FLIPS = 0.05
"""A change that changes nothing should change at most this share of the decisions."""

MANY = 0.2
"""Beyond this share it is a warning where a model may notice, but should not decide by it."""

OWN = 0.75
"""Share of rows whose map should stay closer to what it was than to that of another row."""


class Stability(Check):
    """Shifts, brightens and perturbs rows as little as nobody would notice, and asks again.

    Parameters
    ----------
    fitted_on
        Rows the model was fitted on, in the shape of the audited ones: their evidence and maps are
        then compared with those of the audited rows.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_wine
    >>> from xai.audit import Audit
    >>> x = load_wine().data
    >>> model = KMeans(3, n_init=1, random_state=0).fit(x[::2])
    >>> report = Audit(model, x[1::2], checks=[Stability(fitted_on=x[::2])]).run()
    >>> report.exit_code
    0
    """

    name = "stability"
    question = "Do decisions and maps survive changes that change nothing?"

    def __init__(self, fitted_on: Any = None) -> None:
        self.fitted_on = fitted_on

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        for change in changes(audit):
            yield from _stable(audit, change)
        if self.fitted_on is not None:
            yield from compared(audit, to_rows(self.fitted_on)[0].numpy())


@dataclass(frozen=True)
class _Maps:
    """Cosine of every row's map with itself before the change, and with another row's."""

    own: Array
    other: Array


def _stable(audit: AuditContext, change: Change) -> Iterator[Answer]:
    rng = audit.rng
    most = FEWER_ROWS if is_large(audit) else ROWS
    rows = np.sort(rng.choice(len(audit), min(most, len(audit)), replace=False))
    answer = audit.rescore(rows, change.altered(rows, rng).reshape(len(rows), -1))
    flips = float(answer.changed.mean())
    moved = float(np.median(np.abs(answer.shift)) / (audit.spread or 1.0))
    measure = Measure(
        f"share of {audit.decision_name} that change with rows {change.name}", flips, "<=", FLIPS
    )
    note = (
        f"{len(rows)} rows were {change.name}; scores move by {moved:.2g} standard deviations "
        f"(median). {audit.decision_note}".strip()
    )
    if measure.holds:
        yield Passed(measure, note)
    else:
        bar = FLIPS if change.below_noise else MANY
        yield Finding(
            "warning" if change.harmless and flips > bar else "info",
            f"{flips:.0%} of the {audit.decision_name} change when rows are {change.name}.",
            measure,
            f"{note} " + ("Nobody would see or measure the difference." if change.harmless else
            "In pictures this small, models that compare pixel by pixel notice it."),
            "Train with such changes, smooth the input (a blur layer), or report how near rows lie "
            "to the boundary beside the decision.",
            Counterfactual(
                f"{len(rows)} rows were {change.name}.",
                {
                    f"share of {audit.decision_name} that change": flips,
                    "size of the shift of the scores (median, in standard deviations)": moved,
                },
            ),
            samples=audit.names(rows[answer.changed]),
        )  # fmt: skip
    if audit.net.row_independent:
        yield _maps_answer(audit, change, rows)
    else:
        yield NotAssessable(
            f"Do maps stay when rows are {change.name}?",
            "The model scores a row against the other rows of its batch.",
        )


def _maps_answer(audit: AuditContext, change: Change, rows: Array) -> Answer:
    rng = audit.rng
    most = FEWER_MAPS if is_large(audit) else MAPS
    chosen = np.sort(rng.choice(rows, min(most, len(rows)), replace=False))
    maps = _maps(audit, change, chosen, rng)
    kept = float((maps.own > maps.other).mean())
    measure = Measure(
        "share of maps that stay closer to what they were than to that of another row with the "
        f"same decision, with rows {change.name}",
        kept,
        ">=",
        OWN,
    )
    note = (
        f"Cosine of a map with itself before: {np.median(maps.own):.2f}; with the map of another "
        f"row: {np.median(maps.other):.2f} (medians over {len(chosen)} rows)."
    )
    if measure.holds:
        return Passed(measure, note)
    return Finding(
        "info",
        f"Maps change when rows are {change.name}.",
        measure,
        f"{note} A single map says as much about the change as about the row.",
        "Average maps over such changes before reading them, or read means over many rows only.",
        samples=audit.names(chosen[maps.own <= maps.other]),
    )


def _maps(audit: AuditContext, change: Change, rows: Array, rng: np.random.Generator) -> _Maps:
    before = audit.relevance_of(rows).values
    # the decision as it was: another target has another map for good reason
    target = None if audit.net.kind == "outlier" else audit.decision[rows]
    altered = change.altered(rows, rng).astype(audit.data.dtype, copy=False)
    after = explain(audit.net, altered, target, audit.composite, progress=audit.progress).values
    before, after = (m.reshape(len(rows), -1) for m in change.aligned(before, after, rows))
    other = _others(audit.decision[rows], rng)
    return _Maps(cosines(after, before), cosines(after, before[other]))


def _others(decision: Array, rng: np.random.Generator) -> Array:
    """Another row for every row, with the same decision where there is one."""
    found = np.empty(len(decision), int)
    for i, own in enumerate(decision):
        rest = np.flatnonzero(decision == own)
        rest = rest[rest != i]
        if not len(rest):
            rest = np.setdiff1d(np.arange(len(decision)), [i])
        found[i] = rng.choice(rest) if len(rest) else i
    return found
