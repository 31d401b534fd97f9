"""Masks say where evidence may lie: whether relevance stays inside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xai.audit.context import AuditContext
from xai.audit.pictures import where_on_average
from xai.audit.trial import Replacement, some, trial
from xai.relevance import Array
from xai.report.finding import Answer, Counterfactual, Finding, Measure, NotAssessable, Passed

NAME = "relevance per pixel outside the masks, as a multiple of that inside (median over rows)"


def outside_masks(audit: AuditContext) -> Iterator[Answer]:
    """Fine where a pixel outside is less relevant than one inside."""
    assert audit.masks is not None
    rows = audit.explained
    inside = np.stack([audit.features_of(mask) for mask in audit.masks[rows]])
    usable = np.flatnonzero(~inside.all(1) & (audit.relevance_share.sum(1) > 0))
    if not len(usable):
        yield NotAssessable(
            "Does relevance stay inside the masks?", "The masks leave nothing outside."
        )
        return
    share = np.where(inside, audit.relevance_share, 0.0).sum(1)[usable]
    area = inside.mean(1)[usable]
    tiny = np.finfo(float).tiny
    ratio = ((1 - share) / (1 - area)) / np.maximum(share / area, tiny)
    measure = Measure(NAME, float(np.median(ratio)), "<", 1.0)
    if measure.holds:
        yield Passed(measure)
        return
    outside = usable[ratio >= 1]
    yield _finding(audit, measure, inside[outside], rows[outside], float(np.median(share)))


def _finding(
    audit: AuditContext, measure: Measure, inside: Array, rows: Array, share: float
) -> Finding:
    chosen = some(np.arange(len(rows)), audit.rng, audit.most_rows)
    usual = audit.median_row()
    effect = trial(
        audit,
        rows[chosen],
        Replacement(~inside[chosen], usual),
        [Replacement(inside[chosen], usual)],
    )
    return Finding(
        effect.severity,
        f"In most pictures a pixel outside the masks is {measure.value:.2g} times as relevant as "
        "one inside.",
        measure,
        f"Only {share:.0%} of the relevance lies inside the masks (median). The masks were given "
        "as the place where evidence may lie. Where everything outside is replaced, scores move "
        f"by {effect.moved:.2g} standard deviations and {effect.changed:.1%} of the "
        f"{audit.decision_name} change; where everything inside is, by "
        f"{float(effect.random_moved[0]):.2g} and {float(effect.random_changed[0]):.1%}.",
        "Look at the maps of these rows. If the masks are right, remove the background before the "
        "model and fit again.",
        Counterfactual(
            f"In {len(chosen)} of these rows, everything outside the mask was replaced by the "
            "median picture; for comparison everything inside was, which stands where other tests "
            f"have random places. {audit.decision_note}".strip(),
            effect.numbers("outside replaced", audit.decision_name),
            effect.before_after("outside replaced", audit.decision_name),
        ),
        (where_on_average(audit, None),),
        samples=audit.names(rows),
    )
