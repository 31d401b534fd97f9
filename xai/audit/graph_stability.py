"""Stability: how far risks move when cells are measured a little elsewhere, or some are missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from graphs.cell_graph import CellGraph
from xai.audit.context import MAX_ROWS
from xai.audit.graph_context import GraphCheck, GraphContext
from xai.audit.graph_pictures import before_and_after
from xai.audit.trial import some
from xai.relevance import Array
from xai.report.finding import (
    Answer,
    BeforeAfter,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
)

JITTER = 0.05
"""Cells move by this part of the mean distance of neighbours along each axis (sd)."""

MISSED = 0.01
"""Share of the cells that are left out."""

REPEATS = 5

STABLE = 0.25
"""Risks are stable if the median patient moves by less, in sd between patients."""


class GraphStability(GraphCheck):
    """Moves cells by less than a segmentation errs, and leaves one in a hundred out."""

    name = "stability"
    question = "Do risks stay when cells are measured a little differently?"

    def run(self, audit: GraphContext) -> Iterator[Answer]:
        rows = some(np.arange(len(audit)), audit.rng, MAX_ROWS)
        keep = np.isin(audit.patient_of_cell, rows)
        part, rng, join = audit.graph.subset(keep), audit.rng, audit.join
        if join is None:
            yield NotAssessable(
                "Do risks stay when cells move a little?",
                "How cells are joined was not said (join=), so it cannot be done again; positions "
                "reach the network through its edges only.",
            )
        else:
            a, b = part.require_edges()
            apart = np.linalg.norm(part.positions[a] - part.positions[b], axis=1)
            step = JITTER * float(apart.mean()) if len(apart) else 0.0

            def moved() -> CellGraph:
                shift = rng.normal(0, step, part.positions.shape)
                return join(replace(part, positions=part.positions + shift, edges=None))

            yield _stable(
                audit, rows, moved, f"cells moved by {JITTER:g} of a neighbour's distance"
            )

        def thinned() -> CellGraph:
            gone = rng.random(len(part)) < MISSED
            first = np.searchsorted(part.images, np.arange(len(part.image_names)))
            gone[first] = False  # no image loses all its cells
            left = part.subset(~gone)
            return left if join is None else join(left)

        yield _stable(audit, rows, thinned, f"{MISSED:.0%} of the cells missed")


def _stable(
    audit: GraphContext, rows: Array, altered: Callable[[], CellGraph], what: str
) -> Answer:
    answers = [audit.rescore(rows, altered()) for _ in range(REPEATS)]
    shifts = np.stack([answer.shift for answer in answers]) / (audit.spread or 1.0)
    size = np.abs(shifts).mean(0)
    changed = float(np.mean([answer.changed.mean() for answer in answers]))
    measure = Measure(f"{what}: change of risk (median, in sd between patients)",
                      float(np.median(size)), "<", STABLE)  # fmt: skip
    note = f"{changed:.1%} of the risk groups change."
    if measure.holds:
        return Passed(measure, note)
    return Finding(
        "warning",
        f"Risks change with {what}.",
        measure,
        f"{note} So much is lost or gained where cells are measured a second time.",
        "Use an ensemble, or train with cells moved and left out at random.",
        Counterfactual(
            f"Asked about {len(rows)} patients with {what}, {REPEATS} times.",
            {
                "change of risk (median, in sd between patients)": measure.value,
                "share of risk groups that change": changed,
            },
            [BeforeAfter("share of risk groups that change", 0.0, changed)],
        ),
        [before_and_after(audit, rows, audit.risks[rows] + answers[0].shift, what)],
        audit.names(rows[np.argsort(-size, kind="stable")[:20]]),
    )
