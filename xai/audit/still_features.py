"""Features that do not vary, or hardly ever, and the decisions that rest on them all the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xai.audit.context import AuditContext
from xai.audit.trial import RANDOM_PLACES, Replacement, some, trial
from xai.relevance import Array
from xai.report.finding import (
    Answer,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Suspect,
)

SAME = 1e-9
"""Values are the same up to this share of the feature's largest magnitude."""

NEARLY_ALL = 0.95
"""A feature hardly varies if this share of the rows has the same value."""

MIN_ROWS = 5
"""... and at least this many rows another one."""

MOST = 0.5
"""Such a feature should not take most of the relevance of the rows where it differs."""

MAX_FINDINGS = 5


def constant_features(audit: AuditContext) -> Iterator[Answer]:
    """Relevance per constant feature, as a multiple of the average feature's."""
    low, high = audit.flat.min(0), audit.flat.max(0)
    constant = high - low <= SAME * np.maximum(np.abs(low), np.abs(high))
    name = "relevance per constant feature, as a multiple of the average"
    if not constant.any():
        yield Passed(Measure(name, 0.0, "<", 1.0), "No feature is constant.")
        return
    if constant.all():
        yield NotAssessable(
            "Does relevance lie on constant features?", "All features are constant in these data."
        )
        return
    density = float(audit.relevance_share[:, constant].sum(1).mean() / constant.mean())
    measure = Measure(name, density, "<", 1.0)
    count = f"{int(constant.sum())} of {len(constant)} features are constant"
    if measure.holds:
        yield Passed(measure, f"{count} in these data.")
        return
    yield _constant_finding(audit, constant, measure, count)


def _constant_finding(
    audit: AuditContext, constant: Array, measure: Measure, count: str
) -> Finding:
    rows = some(np.arange(len(audit)), audit.rng)
    varying = np.flatnonzero(~constant)
    step = float(np.median(np.sqrt(audit.variance[varying])))
    size = min(int(constant.sum()), len(varying))
    rng = audit.rng
    sets = [rng.choice(varying, size, replace=False) for _ in range(RANDOM_PLACES)]
    changed = audit.flat[rows] + step
    own = Replacement(constant, changed)
    others = [Replacement(np.isin(np.arange(len(constant)), chosen), changed) for chosen in sets]
    effect = trial(audit, rows, own, others)
    return Finding(
        effect.severity if effect.severity == "info" else "warning",
        f"Relevance lies on constant features: {measure.value:.2g} times the average feature's.",
        measure,
        f"{count} in these data, so they tell no two rows apart. The model takes their value for "
        "evidence all the same: it was probably fitted on data where they varied. Where they are "
        f"raised, {effect.sentence(audit.decision_name, 'random sets')}",
        "Check whether these features are read and scaled as when the model was fitted.",
        Counterfactual(
            f"All constant features were raised by the typical standard deviation ({step:.3g}) in "
            f"{len(rows)} rows; so were {RANDOM_PLACES} random sets of {size} varying ones. "
            f"{audit.decision_note}".strip(),
            effect.numbers("features raised", audit.decision_name),
            effect.before_after("features raised", audit.decision_name),
        ),
        suspect=Suspect("feature", "constant features", {"features": np.flatnonzero(constant)}),
    )


def nearly_constant_features(audit: AuditContext) -> Iterator[Answer]:
    """Features that take most of the relevance in the few rows where they differ."""
    name = "largest share of relevance a nearly constant feature takes where it differs (median)"
    suspects: list[tuple[float, int, float, Array]] = []
    for i in range(audit.flat.shape[1]):
        column = audit.flat[:, i]
        usual = _usual(column)
        differs = np.abs(column - usual) > SAME * np.abs(column).max()
        if MIN_ROWS <= differs.sum() <= (1 - NEARLY_ALL) * len(column):
            rows = np.flatnonzero(differs)
            seen = differs[audit.explained]
            if not seen.any():
                continue
            share = float(np.median(audit.relevance_share[seen, i]))
            suspects.append((share, i, usual, rows))
    if not suspects:
        yield Passed(
            Measure(name, 0.0, "<", MOST),
            f"No feature is the same in {NEARLY_ALL:.0%} of the rows and different in {MIN_ROWS}.",
        )
        return
    suspects.sort(key=lambda suspect: -suspect[0])
    if suspects[0][0] < MOST:
        yield Passed(
            Measure(name, suspects[0][0], "<", MOST),
            f"{len(suspects)} features are nearly constant; the largest share has "
            f"{audit.feature_name(suspects[0][1])}.",
        )
        return
    for share, i, usual, rows in suspects[:MAX_FINDINGS]:
        if share >= MOST:
            yield _near_finding(audit, i, usual, rows, Measure(name, share, "<", MOST))


def _usual(column: Array) -> float:
    values, counts = np.unique(column, return_counts=True)
    return float(values[counts.argmax()])


def _near_finding(
    audit: AuditContext, i: int, usual: float, rows: Array, measure: Measure
) -> Finding:
    d = audit.flat.shape[1]
    feature = audit.feature_name(i)
    chosen = some(rows, audit.rng)
    usual_row = audit.median_row()
    usual_row[i] = usual
    rest = np.setdiff1d(np.arange(d), [i])
    random = audit.rng.choice(rest, min(RANDOM_PLACES, len(rest)), replace=False)
    effect = trial(
        audit,
        chosen,
        Replacement(np.arange(d) == i, usual_row),
        [Replacement(np.arange(d) == j, usual_row) for j in random],
    )
    return Finding(
        "info" if effect.severity == "info" else "warning",
        f"{feature} is the same in {1 - len(rows) / len(audit):.1%} of the rows and takes "
        f"{measure.value:.0%} of the relevance in the others.",
        measure,
        f"Of the {len(rows)} rows where it is not {usual:.6g}, {audit.composition(rows)}. Where it "
        f"is set to that value, {effect.sentence(audit.decision_name, 'other features')}",
        f"Check whether {feature} is a flag, a default value or a unit that differs by source. If "
        "it is evidence, say so beside the model; if not, leave it out and fit again.",
        Counterfactual(
            f"{feature} was set to its usual value in {len(chosen)} of these rows; so were "
            f"{len(random)} other features, one at a time. {audit.decision_note}".strip(),
            effect.numbers("usual value", audit.decision_name),
            effect.before_after("usual value", audit.decision_name),
        ),
        samples=audit.names(rows),
        suspect=Suspect("feature", feature, {"features": np.array([i]), "rows": rows}),
    )
