"""Phenotypes: which of them carry the risk, and whether they are what it should hang on.

A good model does rest on phenotypes, so this alone is no objection. It is one where the phenotype
or the feature was named as suspect, or where a phenotype goes with the site or scanner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xai.audit.graph_context import DECISIONS, GraphCheck, GraphContext
from xai.audit.graph_groups import null_association, rank_association
from xai.audit.graph_pictures import before_and_after, tissue
from xai.audit.graph_trial import (
    DRAWS,
    FEW,
    beyond_chance,
    counterfactual,
    graph_trial,
    switched,
)
from xai.audit.groups import assessable, entangled
from xai.audit.trial import CHANGED, MOVED, Effect
from xai.relevance import Array
from xai.report.finding import (
    SEVERITIES,
    Answer,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Severity,
    Suspect,
)

MORE = 3.0
"""A phenotype takes far more of the relevance than of the cells from this ratio on."""

ENOUGH = 0.05
"""... if it takes at least this share of the relevance."""

DOUBT = 2.0
"""Standard errors within which a phenotype may be rarer."""

MOST = 3
"""Phenotypes that cells are tried as."""


class GraphPhenotypes(GraphCheck):
    """Tests phenotypes with far more relevance than cells, that go with groups, or are suspects."""

    name = "phenotypes"
    question = "Does the risk hang on phenotypes or features that it should not hang on?"
    thresholds: ClassVar[Mapping[str, str]] = {
        "share of the relevance over share of the cells": f"at most {MORE:g}",
        "effect of a suspect": f"below {MOVED:g} sd and {CHANGED:.0%} of the risk groups",
    }

    def run(self, audit: GraphContext) -> Iterator[Answer]:
        graph = audit.graph
        going = going_with_group(audit)
        asked = 0
        for code, name in enumerate(graph.phenotype_names):
            cells = graph.phenotypes == code
            carriers = len(np.unique(audit.patient_of_cell[cells]))
            if carriers >= FEW and not cells.all():
                asked += 1
                yield _phenotype(audit, name, code, cells, going.get(code))
            elif name in audit.suspects:
                reason = f"{carriers} patients have such cells; {FEW} are needed, and other cells."
                yield NotAssessable(f"Does the risk hang on {name}?", reason)
        for name in graph.feature_names:
            if name in audit.suspects:
                asked += 1
                yield _feature(audit, name)
        if not asked:
            yield NotAssessable(
                self.question, f"No phenotype is found in at least {FEW} patients beside others."
            )


@dataclass(frozen=True)
class Going:
    """A phenotype whose share of the cells goes with the group.

    Attributes
    ----------
    association
        Of its share with the group, held against permuted groups.
    patients
        Of the group in which it is commonest ``(k,)``.
    surplus
        Share of its cells there that other groups do not have.
    instead
        Phenotypes that its cells may have elsewhere: those rarer, or perhaps rarer, where it is
        commoner.
    """

    association: Measure
    patients: Array
    surplus: float
    instead: tuple[int, ...]


def going_with_group(audit: GraphContext) -> dict[int, Going]:
    """Phenotypes that go with the group.

    Shares add up to 1: where one phenotype is commoner, others are rarer, and these are left out.
    """
    if audit.groups is None:
        return {}
    rows, groups, labels = assessable(audit.groups, audit.labels)
    names = audit.graph.phenotype_names
    if entangled(groups, labels) or len(names) < 2:
        return {}
    x = audit.mean_inputs[rows][:, : len(names)]
    own = rank_association(x, groups, labels)
    bar = null_association(x, groups, labels, audit.rng)
    found: dict[int, Going] = {}
    rarer = np.zeros(len(names), bool)
    for code in np.argsort(-own, kind="stable"):
        if own[code] > bar and not rarer[code]:
            measure = Measure(f"{names[code]}: association of its share with the group",
                              float(own[code]), "<=", bar)  # fmt: skip
            here = commonest(x[:, code], groups)
            more = x[here].mean(0) - x[~here].mean(0)
            rarer |= more < 0
            surplus = float(more[code] / x[here, code].mean())
            found[int(code)] = Going(measure, rows[here], surplus, instead(x, here, int(code)))
    return found


def commonest(share: Array, groups: Array) -> Array:
    """Which patients are of the group with the highest mean share ``(k,)``."""
    names = np.unique(groups)
    here: Array = groups == names[np.argmax([share[groups == g].mean() for g in names])]
    return here


def instead(x: Array, here: Array, code: int) -> tuple[int, ...]:
    """Phenotypes whose cells may be those called ``code`` in the patients ``here``.

    Where one is commoner by some share of the cells, others are rarer by as much; who they are is
    known as well as the means of the groups are.

    Parameters
    ----------
    x
        Shares of the phenotypes per patient ``(k, p)``.
    here
        The group in which it is commonest, boolean ``(k,)``.

    Examples
    --------
    >>> x = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.4, 0.5, 0.1], [0.4, 0.5, 0.1]])
    >>> instead(x, np.array([False, False, True, True]), 2)
    (0,)
    """
    own, others = x[here], x[~here]
    rarer = others.mean(0) - own.mean(0)
    doubt = DOUBT * np.sqrt(own.var(0) / len(own) + others.var(0) / len(others))
    may = rarer + doubt >= -rarer[code] / 2
    rarer[code] = -np.inf
    may[code] = False
    order = [int(other) for other in np.argsort(-rarer, kind="stable") if may[other]]
    return tuple(order[:MOST]) or (int(rarer.argmax()),)


def _phenotype(
    audit: GraphContext, name: str, code: int, cells: Array, going: Going | None
) -> Answer:
    named, called = name in audit.suspects, _plural(name)
    rows = np.unique(audit.patient_of_cell[cells])
    of_relevance = float((audit.relevance_share * cells).sum() / len(rows))
    of_cells = float(audit.per_patient(cells)[rows].mean())
    measure = Measure(f"{name}: share of the relevance over share of the cells",
                      of_relevance / of_cells, "<=", MORE)  # fmt: skip
    strong = not measure.holds and of_relevance >= ENOUGH
    if not (strong or named or going):
        return Passed(measure, f"{of_relevance:.1%} of the relevance, {of_cells:.1%} of the cells.")
    rows, effect, become = _switched(audit, cells, going)
    if become is None:
        other, why = "their patient's mean cell", "A good model rests on what matters."
    else:
        other = _plural(audit.graph.phenotype_names[become])
    severity: Severity = "info"
    if named:
        severity, why = (
            effect.severity_of_no_content,
            "It was named as something that should not matter.",
        )
        if severity == "info":
            return Passed(_size(name, effect), f"Named as suspect; {_moves(effect)} without it.")
    elif going is not None:
        severity, measure = beyond_chance(effect), going.association
        why = (
            "How many of the cells a patient has goes with the group"
            f"{' within labels' if audit.labels is not None else ''}: it may be made by how the "
            f"tissue was prepared, imaged or segmented. Tested are the {going.surplus:.0%} of them "
            "that are more than elsewhere, as what changes least of the phenotypes rarer there."
        )
    title = f"The risk hangs on {called}."
    if going is not None:
        title = f"The risk hangs on {called}, which go with the group."
    if severity == "info" and not effect.relies:
        title = f"{called} stand out, and the risk hardly hangs on them."
    return Finding(
        severity,
        title,
        measure,
        f"{called} are {of_cells:.1%} of the cells of patients who have any and take "
        f"{of_relevance:.1%} of the relevance. {why} When they become {other}, "
        + effect.sentence(DECISIONS, "draws of as many other cells"),
        "Look at such cells in the images: are they what they are called, in all sites? If not, "
        "call phenotypes again, or train without this one.",
        counterfactual(
            audit, effect, f"without {name}",
            f"Made {called} of {len(rows)} patients {other}, against as many other cells "
            f"of the same patients, {DRAWS} times.",
        ),
        [tissue(audit, cells, called)],
        audit.names(rows),
        Suspect("feature", name, {"features": np.array([code]), "rows": rows}),
    )  # fmt: skip


def _switched(
    audit: GraphContext, cells: Array, going: Going | None
) -> tuple[Array, Effect, int | None]:
    """The patients, the mildest effect of what the cells may become, and what that is."""
    if going is None:
        return *switched(audit, cells), None
    surplus = cells & np.isin(audit.patient_of_cell, going.patients)
    surplus &= audit.rng.random(len(surplus)) < going.surplus
    if len(np.unique(audit.patient_of_cell[surplus])) < FEW:
        surplus = cells
    found = [(*switched(audit, surplus, other), other) for other in going.instead]
    return min(found, key=lambda one: (-SEVERITIES.index(beyond_chance(one[1])), one[1].moved))


def _feature(audit: GraphContext, name: str) -> Answer:
    """A feature that was named: what changes when it is the same in all cells."""
    column = audit.graph.input_names.index(name)
    p = len(audit.graph.phenotype_names)
    rows, x = np.arange(len(audit)), audit.inputs
    mean = audit.mean_inputs.mean(0)

    def flat(i: int) -> Array:
        found = x.copy()
        found[:, i] = mean[i]
        return found

    others = [flat(i) for i in range(p, x.shape[1]) if i != column]
    effect = graph_trial(audit, rows, flat(column), others or [x])
    severity = effect.severity_of_no_content
    measure = _size(name, effect)
    if severity == "info":
        return Passed(measure, f"Named as suspect; {_moves(effect)} when it is the same for all.")
    after = audit.risks + audit.rescore(rows, flat(column)).shift
    return Finding(
        severity,
        f"The risk hangs on the feature {name}.",
        measure,
        "It was named as something that should not matter. When it is the same in all cells, "
        + effect.sentence(DECISIONS, "other features"),
        "Train without it, or normalise it by site.",
        counterfactual(
            audit, effect, f"without {name}",
            f"Gave all cells the mean of {name}, against {len(others)} other features so treated.",
        ),
        [before_and_after(audit, rows, after, f"{name} the same for all")],
        audit.names(np.flatnonzero((after > audit.threshold) != audit.decision)),
        Suspect("feature", name, {"features": np.array([column])}),
    )  # fmt: skip


def _plural(name: str) -> str:
    """``"T cell"`` as "T cells", ``"stroma"`` as "stroma cells"."""
    return f"{name}s" if name.endswith("cell") else f"{name} cells"


def _size(name: str, effect: Effect) -> Measure:
    return Measure(f"{name}: change of risk without it (median, in sd between patients)",
                   effect.moved, "<", MOVED)  # fmt: skip


def _moves(effect: Effect) -> str:
    return f"risks move by {effect.moved:.2g} sd and {effect.changed:.1%} of the {DECISIONS} change"
