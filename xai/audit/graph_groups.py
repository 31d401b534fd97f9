"""Groups: whether the risks of patients depend on the site, scanner or batch of their tissue."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import rankdata

from xai.audit.context import MAX_ROWS
from xai.audit.graph_context import DECISIONS, GraphCheck, GraphContext
from xai.audit.graph_pictures import risks_by_group
from xai.audit.graph_trial import DRAWS, beyond_chance, counterfactual, graph_trial
from xai.audit.group_shift import permuted, without_group
from xai.audit.groups import assessable, entangled
from xai.audit.trial import Effect, some
from xai.relevance import Array
from xai.report.finding import Answer, Finding, Measure, NotAssessable, Passed, Suspect

PERMUTATIONS = 999
"""Of the groups, within labels."""

RARELY = 0.995
"""Share of the permutations that an association must exceed."""


class GraphGroups(GraphCheck):
    """Asks whether risks or features go with the group, and what equal features would change.

    All within labels where there are any. The counterfactual shifts the features of all cells of a
    group by one vector, so that groups agree in the means over their patients, as a batch offset
    would be removed; the same is done for groups dealt out at random.
    """

    name = "groups"
    question = "Do risks depend on where the tissue comes from?"
    needs = "groups"

    def run(self, audit: GraphContext) -> Iterator[Answer]:
        if audit.groups is None:
            yield NotAssessable(self.question, "No groups (site, scanner, batch) were given.")
            return
        rows, groups, labels = assessable(audit.groups, audit.labels)
        reason = entangled(groups, labels, "patients")
        if reason:
            yield NotAssessable(self.question, reason)
            return
        rng, note = audit.rng, "within labels" if labels is not None else "no labels were given"
        risk = _measure("association of the risk with the group", audit.risks[rows, None],
                        groups, labels, rng)  # fmt: skip
        p = len(audit.graph.phenotype_names)
        x = audit.mean_inputs[rows][:, p:]
        seen = None
        if x.shape[1]:
            what = "association of a feature with the group (the largest)"
            seen = _measure(what, x, groups, labels, rng)
        if risk.holds and (seen is None or seen.holds):
            yield Passed(risk, f"By ranks, {note}.")
            if seen is not None:
                yield Passed(seen, f"By ranks of the patients' means, {note}.")
            return
        yield _tested(audit, rows, groups, labels, risk, seen)


def _tested(
    audit: GraphContext,
    rows: Array,
    groups: Array,
    labels: Array | None,
    risk: Measure,
    seen: Measure | None,
) -> Answer:
    effect, shift, after = _without(audit, rows, groups, labels)
    by_seen = risk.holds and seen is not None
    measure = seen if by_seen and seen is not None else risk
    severity = beyond_chance(effect)
    carriers = _carriers(audit, rows, shift)
    names = audit.graph.input_names
    best = ", ".join(f"{names[i]} ({size:.2g} sd)" for i, size in carriers)
    if severity == "info":
        title = "The group is seen in the tissue, and risks hardly hang on it."
        title = title if by_seen else "Risks go with the group, and not by the means of features."
    else:
        title = "Risks depend on where the tissue comes from."
    return Finding(
        severity,
        title,
        measure,
        f"{'Within labels' if labels is not None else 'No labels were given'}; the threshold is "
        f"what {RARELY:.1%} of {PERMUTATIONS} permutations of the groups stay below. When the "
        "features are shifted so that groups agree in their means, "
        + effect.sentence(DECISIONS, "shifts for groups dealt out at random")
        + (f" Features that differ most between groups: {best}." if best else "")
        + ("" if labels is not None else " Without labels, groups may differ for good reason."),
        "Ask what differs between the groups (staining, scanner, segmentation); normalise it "
        "before cells are measured, or train on patients of all groups with equal outcomes.",
        counterfactual(
            audit, effect, "without the group",
            f"Shifted the features of the cells of {min(len(rows), MAX_ROWS)} patients so that "
            f"groups agree in their means, against the same for {DRAWS} ways to deal out the "
            "groups at random.",
        ),
        [risks_by_group(audit, rows, after)],
        audit.names(rows),
        _suspect(audit, carriers),
    )  # fmt: skip


def _measure(
    what: str, x: Array, groups: Array, labels: Array | None, rng: np.random.Generator
) -> Measure:
    """The largest association of a column ``(k, c)``, held against that of permuted groups."""
    own = rank_association(x, groups, labels)
    return Measure(what, float(own.max()), "<=", null_association(x, groups, labels, rng))


def rank_association(x: Array, groups: Array, labels: Array | None) -> Array:
    """Share of the variance of ranks that lies between groups, within labels ``(c,)``.

    The statistic of Kruskal and Wallis over its largest value; for several labels, their mean by
    number of patients.

    Examples
    --------
    >>> x = np.array([[1.0, 5.0], [2.0, 1.0], [8.0, 4.0], [9.0, 2.0]])
    >>> rank_association(x, np.array([0, 0, 1, 1]), None).round(2).tolist()
    [0.8, 0.0]
    """
    return _between(_ranks(x, labels), groups, labels)


def null_association(
    x: Array, groups: Array, labels: Array | None, rng: np.random.Generator
) -> float:
    """What the largest association of a column with permuted groups rarely exceeds."""
    ranks = _ranks(x, labels)
    null = [
        _between(ranks, permuted(groups, labels, rng), labels).max() for _ in range(PERMUTATIONS)
    ]
    return float(np.quantile(null, RARELY))


def _strata(n: int, labels: Array | None) -> list[Array]:
    if labels is None:
        return [np.arange(n)]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _ranks(x: Array, labels: Array | None) -> Array:
    """Ranks within labels, less their mean ``(k, c)``."""
    found = np.empty(x.shape)
    for rows in _strata(len(x), labels):
        found[rows] = rankdata(x[rows], axis=0) - (len(rows) + 1) / 2
    return found


def _between(ranks: Array, groups: Array, labels: Array | None) -> Array:
    """Share of the sum of squares between groups ``(c,)``."""
    total = np.zeros(ranks.shape[1])
    for rows in _strata(len(ranks), labels):
        mine = ranks[rows]
        codes = np.unique(groups[rows], return_inverse=True)[1]
        hot = np.eye(codes.max() + 1)[codes]
        between = ((hot.T @ mine) ** 2 / hot.sum(0)[:, None]).sum(0)
        whole = (mine**2).sum(0)
        share = np.divide(between, whole, out=np.zeros_like(whole), where=whole > 0)
        total += share * len(rows)
    found: Array = total / len(groups)
    return found


def _without(
    audit: GraphContext, rows: Array, groups: Array, labels: Array | None
) -> tuple[Effect, Array, Array]:
    """The effect, the shift of every patient's features, and the risks afterwards."""
    rng, x, p = audit.rng, audit.mean_inputs[rows], len(audit.graph.phenotype_names)
    chosen = some(np.arange(len(rows)), rng, MAX_ROWS)
    cells = audit.cells_of(rows[chosen])
    own = np.searchsorted(rows, audit.patient_of_cell[cells])
    movable = np.arange(x.shape[1]) >= (p if x.shape[1] > p else 0)

    def shifted(codes: Array) -> tuple[Array, Array]:
        shift = without_group(x, codes, labels) * movable
        moved: Array = audit.inputs[cells] + shift[own]
        return shift, moved

    shift, moved = shifted(groups)
    others = (shifted(permuted(groups, labels, rng))[1] for _ in range(DRAWS))
    effect = graph_trial(audit, rows[chosen], moved, others)
    after = audit.risks.copy()
    after[rows[chosen]] += audit.rescore(rows[chosen], moved).shift
    return effect, shift, after


def _carriers(audit: GraphContext, rows: Array, shift: Array) -> list[tuple[int, float]]:
    """Features whose means differ most, in standard deviations of the cells."""
    spread = audit.inputs[audit.cells_of(rows)].std(0)
    size = np.abs(shift).mean(0) / np.where(spread > 0, spread, np.inf)
    return [(int(i), float(size[i])) for i in np.argsort(-size, kind="stable")[:5] if size[i] > 0]


def _suspect(audit: GraphContext, carriers: list[tuple[int, float]]) -> Suspect:
    assert audit.groups is not None
    arrays = {"groups": audit.groups}
    if audit.labels is not None:
        arrays["labels"] = audit.labels
    names = ", ".join(audit.graph.input_names[i] for i, _ in carriers[:1])
    return Suspect("group", f"where the tissue comes from{f', by {names}' * bool(names)}", arrays)
