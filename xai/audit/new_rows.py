"""Old and new: whether evidence and maps differ between the rows fitted on and the audited ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from neuralize import InputError
from xai.audit.context import AuditContext, shares
from xai.explainer import explain
from xai.plot.images import relevance_map
from xai.relevance import Array, Relevance
from xai.report.finding import Answer, Finding, Measure, NotAssessable, Passed

ROWS = 500
"""Rows of either kind whose evidence is compared."""

MAPS = 60
"""... and whose maps are."""

FEWEST = 20

PERMUTATIONS = 199
"""Of old and new: the largest of 199 is exceeded by chance in one audit of two hundred."""

DIFFERENCE = 0.5
"""Means that differ by less, in standard deviations, differ little."""

CALLED = 0.1
"""A detector should call about as many old rows abnormal as new ones."""

GRID = 4


def compared(audit: AuditContext, old: Array) -> Iterator[Answer]:
    """Mean evidence, and mean share of relevance by place, of old rows ``(n, *shape)`` and new."""
    if old.shape[1:] != audit.data.shape[1:]:
        raise InputError(
            f"Expected rows the model was fitted on of shape {audit.data.shape[1:]}, as the "
            f"audited ones, got {old.shape[1:]}."
        )
    question = "Does the model treat new rows as those it was fitted on?"
    if not audit.net.row_independent:
        yield NotAssessable(question, "It scores a row against the other rows of its batch.")
        return
    if min(len(old), len(audit)) < FEWEST:
        yield NotAssessable(question, f"Fewer than {FEWEST} rows of either kind.")
        return
    rng = audit.rng
    old = old[np.sort(rng.choice(len(old), min(ROWS, len(old)), replace=False))]
    old = old.astype(audit.data.dtype, copy=False)
    rows = np.sort(rng.choice(len(audit), min(ROWS, len(audit)), replace=False))
    yield _scores(audit, old, rows, rng)
    few = np.sort(rng.choice(rows, min(MAPS, len(rows)), replace=False))
    before = explain(audit.net, old[:MAPS], composite=audit.composite, progress=audit.progress)
    yield _places(audit, _by_place(before), _by_place(audit.relevance_of(few)), rng)


def _scores(audit: AuditContext, old: Array, rows: Array, rng: np.random.Generator) -> Answer:
    answers = audit._ask(old).astype(np.float64)
    one = answers if answers.ndim == 1 else answers.max(1)
    two = audit.evidence[rows]
    (difference,), bar = largest_difference(one[:, None], two[:, None], rng)
    measure = Measure(
        "difference of the mean evidence between fitted and new rows (in standard deviations)",
        abs(float(difference)),
        "<=",
        max(DIFFERENCE, bar),
    )
    note = (
        f"{len(one)} rows it was fitted on, {len(two)} new ones; by chance the difference is at "
        f"most {bar:.2g}."
    )
    called = 0.0
    if audit.net.kind == "outlier":
        called = float(audit.decision[rows].mean() - (one > audit.threshold).mean())
        note += f" The share called abnormal differs by {called:+.1%}."
    if measure.holds:
        return Passed(measure, note)
    return Finding(
        "warning" if called > CALLED else "info",
        f"Evidence is {'higher' if difference > 0 else 'lower'} on new rows than on those the "
        "model was fitted on.",
        measure,
        f"{note} A model that knows its rows by heart answers others differently.",
        "Set thresholds on rows held out; fit with more rows or a wider kernel.",
    )


def _places(audit: AuditContext, old: Array, new: Array, rng: np.random.Generator) -> Answer:
    difference, bar = largest_difference(old, new, rng)
    worst = int(np.abs(difference).argmax())
    where = (
        f"part {worst % GRID + 1} from the left, {worst // GRID + 1} from the top, of {GRID} x "
        f"{GRID}"
        if audit.is_image
        else audit.feature_name(worst)
    )
    measure = Measure(
        "largest difference between fitted and new rows in the share of relevance of a place (in "
        "standard deviations)",
        abs(float(difference[worst])),
        "<=",
        max(DIFFERENCE, bar),
    )
    note = f"Most at {where}; by chance at most {bar:.2g}, over {old.shape[1]} places."
    if measure.holds:
        return Passed(measure, note)
    return Finding(
        "info",
        "Maps of new rows lie elsewhere than those of the rows the model was fitted on.",
        measure,
        f"{note} The model looks at new rows differently: they may come from another source.",
        "Compare pictures of both at that place.",
    )


def largest_difference(one: Array, two: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """Mean of ``two`` minus mean of ``one`` per column, and the largest by chance in any.

    In standard deviations of both together; columns that do not vary count as equal.
    """
    both = np.concatenate([one, two])
    spread = both.std(0)
    z = (both - both.mean(0)) / np.where(spread > 0, spread, np.inf)
    n = len(one)

    def difference(order: Array) -> Array:
        found: Array = z[order[n:]].mean(0) - z[order[:n]].mean(0)
        return found

    own = difference(np.arange(len(z)))
    null = [np.abs(difference(rng.permutation(len(z)))).max() for _ in range(PERMUTATIONS)]
    return own, float(max(null))


def _by_place(relevance: Relevance) -> Array:
    """Share of absolute relevance of every feature, or of 4 x 4 parts of a picture ``(n, p)``."""
    if relevance.values.ndim == 2:
        return shares(relevance).astype(np.float64)
    maps = np.abs(relevance_map(relevance.values))
    cuts = [np.arange(GRID) * n // GRID for n in maps.shape[1:]]
    parts = np.add.reduceat(np.add.reduceat(maps, cuts[0], axis=1), cuts[1], axis=2)
    parts = parts.reshape(len(maps), -1)
    total = parts.sum(1, keepdims=True)
    found: Array = parts / np.where(total > 0, total, 1.0)
    return found
