"""Groups: whether decisions depend on the site, scanner, batch or patient that rows come from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xai.audit.check import Check
from xai.audit.context import MAX_ROWS, AuditContext
from xai.audit.encoded import has_head
from xai.audit.group_shift import (
    FOLDS,
    PERMUTATIONS,
    association,
    permuted,
    probe,
    random_shift,
    representation,
    without_group,
)
from xai.audit.trial import RANDOM_PLACES, Effect, Replacement, some, trial
from xai.errors import InputError
from xai.evaluate.performance_drop import cramers_v
from xai.evaluate.robustness import index_of_each, robustness_index
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

ENTANGLED = 0.95
"""From this association (Cramer's V) on, labels and groups cannot be told apart."""

ASSOCIATED = 0.1
"""Decisions follow the group at all from this association within labels on."""

BALANCE = 0.5
"""Robustness index below which neighbours share the group more often than the label, unless they do
so with groups permuted within labels, too."""

MIN_SUPPORT = 0.05
"""... if at least this share of the rows has neighbours of either kind."""

MIN_ROWS = 2 * FOLDS
"""Rows of a group that can be assessed."""

NEIGHBOURS = 50

NEIGHBOURLY = "Do neighbours share the label or the group?"

NAMED = 5
"""Features named as carrying the group."""


class Groups(Check):
    """Asks whether the group is seen, whether decisions go with it, and whether they depend on it.

    All within labels where there are any: groups that have other labels have other decisions. The
    counterfactual moves every row by the difference between its group's mean and the mean of the
    groups; it is compared with moves of the same length for groups dealt out at random.
    """

    name = "groups"
    question = "Do decisions depend on where rows come from?"
    needs = "groups"

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        if audit.groups is None:
            yield NotAssessable(self.question, "No groups (site, scanner, batch) were given.")
            return
        rows, groups, labels = assessable(audit.groups, audit.labels)
        reason = entangled(groups, labels)
        if reason:
            yield NotAssessable(self.question, reason)
            return
        x = representation(audit)[rows]
        found = probe(x, groups, labels, audit.rng)
        measure = Measure(
            "balanced accuracy of a probe for the group", found.accuracy, "<=", found.null.max()
        )
        yield from _decisions(audit, rows, groups, labels, measure)
        if labels is None:
            return
        if has_head(audit):
            yield _neighbours(x, labels, groups, audit.rng, _suspect(audit))
        else:
            reason = "The network is taken as a whole: what it makes of rows inside is not asked."
            yield NotAssessable(NEIGHBOURLY, reason)


def assessable(groups: Array, labels: Array | None) -> tuple[Array, Array, Array | None]:
    """Rows of groups that are large enough, with their groups and labels as codes."""
    _, codes, counts = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[codes] >= MIN_ROWS)
    if labels is not None:
        labels = np.unique(labels[rows].astype(str), return_inverse=True)[1]
    return rows, codes[rows], labels


def entangled(groups: Array, labels: Array | None, of: str = "rows") -> str:
    """Why nothing can be said of these groups; empty where something can."""
    if len(np.unique(groups)) < 2:
        return f"Fewer than two groups have at least {MIN_ROWS} {of}."
    if labels is None or len(np.unique(labels)) < 2:
        return ""
    table = np.zeros((labels.max() + 1, groups.max() + 1))
    np.add.at(table, (labels, groups), 1)
    v = cramers_v(table)
    if v < ENTANGLED:
        return ""
    return (
        f"Labels and groups cannot be told apart (Cramer's V {v:.2f}): what goes with the group "
        "may be the label. Audit data in which every group has several labels."
    )


def _decisions(
    audit: AuditContext, rows: Array, groups: Array, labels: Array | None, seen: Measure
) -> Iterator[Answer]:
    decision = audit.decision[rows]
    v = association(decision, groups, labels)
    rng = audit.rng
    null = [
        association(decision, permuted(groups, labels, rng), labels) for _ in range(PERMUTATIONS)
    ]
    bar = max(ASSOCIATED, max(null))
    measure = Measure(f"association of {audit.decision_name} with the group", v, "<=", bar)
    note = "within labels" if labels is not None else "no labels were given"
    if measure.holds:
        if seen.holds:
            yield Passed(seen, f"The group cannot be told from what the model sees ({note}).")
        else:
            yield Passed(
                measure,
                f"The group can be told from what the model sees (balanced accuracy "
                f"{seen.value:.2f}, by chance at most {seen.threshold:.2f}), and the "
                f"{audit.decision_name} do not go with it ({note}).",
            )
        return
    effect, shift = _trial(audit, rows, groups, labels)
    yield Finding(
        effect.severity,
        f"{audit.decision_name.capitalize()} go with the group.",
        measure,
        f"Association {v:.2f} {'within labels' if labels is not None else ''}, by chance at most "
        f"{max(null):.2f}. When every row is moved so that the groups have the same mean, "
        + effect.sentence(audit.decision_name, "moves of the same length at random")
        + f" Features that differ most between groups: {_carriers(audit, rows, groups, shift)}."
        + ("" if labels is not None else " Without labels, the groups may differ for good reason."),
        "Ask what differs between the groups (device, preparation, preprocessing), remove it from "
        "the data or from the representation (xai.mitigate), and audit again.",
        Counterfactual(
            f"Moved {min(len(rows), MAX_ROWS)} rows so that groups agree in their means, against "
            f"{RANDOM_PLACES} moves of the same length for groups dealt out at random.",
            effect.numbers("without the group", audit.decision_name),
            effect.before_after("without the group", audit.decision_name),
        ),
        suspect=_suspect(audit),
    )


def _suspect(audit: AuditContext) -> Suspect:
    assert audit.groups is not None
    arrays = {"groups": audit.groups}
    if audit.labels is not None:
        arrays["labels"] = audit.labels
    return Suspect("group", "where rows come from", arrays)


def _trial(
    audit: AuditContext, rows: Array, groups: Array, labels: Array | None
) -> tuple[Effect, Array]:
    rng = audit.rng
    x = audit.flat[rows]
    shift = without_group(x, groups, labels)
    chosen = some(np.arange(len(rows)), rng)
    everywhere = np.ones(x.shape[1], bool)
    others = [
        Replacement(everywhere, (x + random_shift(x, groups, labels, shift, rng))[chosen])
        for _ in range(RANDOM_PLACES)
    ]
    effect = trial(audit, rows[chosen], Replacement(everywhere, (x + shift)[chosen]), others)
    return effect, shift


def _carriers(audit: AuditContext, rows: Array, groups: Array, shift: Array) -> str:
    """The features whose group means differ most, in their own standard deviations."""
    spread = audit.flat[rows].std(0)
    size = np.abs(shift).mean(0) / np.where(spread > 0, spread, np.inf)
    best = np.argsort(-size)[:NAMED]
    return ", ".join(
        f"{audit.feature_name(int(i))} ({size[i]:.2g} sd)" for i in best if size[i] > 0
    )


def _neighbours(
    x: Array, labels: Array, groups: Array, rng: np.random.Generator, suspect: Suspect
) -> Answer:
    try:
        curve = robustness_index(x, labels, groups, max_k=min(NEIGHBOURS, len(x) - 1))
    except InputError as error:
        return NotAssessable(NEIGHBOURLY, str(error))
    k = curve.best_k
    index, support = float(curve.index[k - 1]), float(curve.support[k - 1])
    if not support >= MIN_SUPPORT:
        return NotAssessable(
            NEIGHBOURLY, f"Only {support:.1%} of the rows have neighbours that tell the two apart."
        )
    dealt = np.stack([permuted(groups, labels, rng) for _ in range(PERMUTATIONS)])
    lowest = float(np.nanmin(index_of_each(x, labels, dealt, k)))
    bar = min(BALANCE, lowest)
    measure = Measure(f"robustness index of the {k} nearest", index, ">=", bar)
    note = (
        f"{support:.0%} of the rows have neighbours that tell label and group apart; with groups "
        f"permuted within labels the index is at least {lowest:.2f}."
    )
    if measure.holds:
        return Passed(measure, note)
    return Finding(
        "warning",
        "Neighbours share the group more often than the label.",
        measure,
        f"What is near in the model's view comes from the same place rather than being the same. "
        f"{note}",
        "Remove the group from the representation (xai.mitigate), or train on more groups.",
        suspect=suspect,
    )
