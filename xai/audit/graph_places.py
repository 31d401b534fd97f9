"""Places: relevance at the border of the images, in corners, and where cells are crowded.

Cells at the border have lost neighbours to the edge of the image, and cells that were cut into
fragments by a bad segmentation have too many. Either is seen by a network, and neither is biology.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

from graphs.cell_graph import CellGraph
from xai.audit.context import MAX_ROWS
from xai.audit.graph_context import DECISIONS, GraphCheck, GraphContext
from xai.audit.graph_pictures import tissue
from xai.audit.graph_trial import DRAWS, FEW, beyond_chance, counterfactual, graph_trial, switched
from xai.audit.trial import MOVED, RARE, Effect, some
from xai.relevance import Array
from xai.report.finding import Answer, Finding, Measure, NotAssessable, Passed

MORE = 2.0
"""Cells at a place take far more of the relevance than of the cells from this ratio on."""

CORNER = 0.1
"""A corner reaches so far along both sides of an image."""

NEIGHBOUR = 3
"""Crowding is measured by the distance to this neighbour."""

NEAR = 0.5
"""Cells are crowded where it is at most this part of the image's median: four times as dense."""

CROWDED = 0.01
"""Share of a patient's cells that must be crowded for the patient to count."""

THINNED = 2 / 3
"""Share of the crowded cells that the test takes away."""


class GraphPlaces(GraphCheck):
    """Asks whether risks hang on the border, the corners or on crowded spots."""

    name = "places"
    question = "Do risks hang on where in the image cells lie, or on how crowded they are?"

    def run(self, audit: GraphContext) -> Iterator[Answer]:
        border, corner = edges_of_images(audit.graph)
        yield _at(audit, border, "the border", "within a neighbour's distance of the border")
        yield _at(audit, corner, "the corners", f"within {CORNER:.0%} of the sides of a corner")
        yield _crowds(audit)


def edges_of_images(graph: CellGraph) -> tuple[Array, Array]:
    """Which cells lie at the border of their image, and which in a corner ``(n,)``.

    The image is the box around its cells; the border is as wide as neighbours are apart.
    """
    border, corner = np.zeros((2, len(graph)), bool)
    a, b = graph.require_edges()
    apart = np.linalg.norm(graph.positions[a, :2] - graph.positions[b, :2], axis=1)
    width = float(np.median(apart)) if len(apart) else 0.0
    for cells in _images(graph):
        x = graph.positions[cells, :2]
        low, high = x.min(0), x.max(0)
        off = np.minimum(x - low, high - x)
        border[cells] = (off <= width).any(1)
        corner[cells] = (off <= CORNER * (high - low)).all(1)
    return border, corner


def crowded(graph: CellGraph) -> Array:
    """Which cells have neighbours much nearer than is usual in their image ``(n,)``."""
    found = np.zeros(len(graph), bool)
    for cells in _images(graph):
        if len(cells) > NEIGHBOUR + 1:
            x = graph.positions[cells]
            distance = np.asarray(cKDTree(x).query(x, NEIGHBOUR + 1)[0])[:, -1]
            found[cells] = distance <= NEAR * np.median(distance)
    return found


def _images(graph: CellGraph) -> list[Array]:
    return np.split(np.arange(len(graph)), np.cumsum(graph.cells_per_image)[:-1])


def _ratio(audit: GraphContext, cells: Array) -> float:
    share = audit.per_patient(cells)
    taken = np.bincount(audit.patient_of_cell, audit.relevance_share * cells, len(audit))
    return float(taken.sum() / share.sum())


def _at(audit: GraphContext, cells: Array, where: str, meaning: str) -> Answer:
    carriers = np.unique(audit.patient_of_cell[cells])
    question = f"Do risks hang on cells at {where} of the images?"
    if len(carriers) < FEW or cells.all():
        return NotAssessable(question, f"{len(carriers)} patients have cells {meaning}.")
    measure = Measure(f"{where}: share of the relevance over share of the cells",
                      _ratio(audit, cells), "<=", MORE)  # fmt: skip
    if measure.holds:
        return Passed(measure, f"Cells {meaning}: {cells.mean():.0%} of all.")
    rows, effect = switched(audit, cells)
    return _finding(
        audit, f"Risks hang on cells at {where} of the images.", measure, effect, rows, cells,
        f"cells {meaning}",
        f"Gave cells at {where} of {len(rows)} patients' images their patient's mean features",
    )  # fmt: skip


def _crowds(audit: GraphContext) -> Answer:
    graph = audit.graph
    cells = crowded(graph)
    rows = np.flatnonzero(audit.per_patient(cells) >= CROWDED)
    question = "Do risks hang on spots where cells are crowded?"
    if len(rows) < FEW:
        share = Measure("share of patients with crowded cells", len(rows) / len(audit), "<=",
                        FEW / len(audit))  # fmt: skip
        return Passed(share, f"{question} {NEAR:g} of the usual distance counts as crowded.")
    rows = some(rows, audit.rng, MAX_ROWS)
    mine = audit.cells_of(rows)
    keep = np.zeros(len(graph), bool)
    keep[mine] = True
    part, spots = graph.subset(keep), cells[mine]
    rng = audit.rng
    thin = _without(audit, part, spots & (rng.random(len(spots)) < THINNED))
    others = (
        _without(audit, part, chosen & (rng.random(len(spots)) < THINNED))
        for chosen in (_other_spots(part, spots, rng) for _ in range(DRAWS))
    )
    effect = graph_trial(audit, rows, thin, others)
    bar = max(MOVED, float(np.quantile(effect.random_moved, RARE)))
    measure = Measure("change of risk without crowding (median, in sd between patients)",
                      effect.moved, "<", bar)  # fmt: skip
    if measure.holds:
        return Passed(measure, f"{len(rows)} patients have crowded cells.")
    return _finding(
        audit, "Risks hang on spots where cells are crowded.", measure, effect, rows, cells,
        "crowded cells",
        f"Took two thirds of the crowded cells of {len(rows)} patients away",
    )  # fmt: skip


def _without(audit: GraphContext, graph: CellGraph, gone: Array) -> CellGraph:
    left = graph.subset(~gone)
    return left if audit.join is None else audit.join(left)


def _other_spots(graph: CellGraph, spots: Array, rng: np.random.Generator) -> Array:
    """Spots of as many cells at random places, image by image."""
    found = np.zeros(len(graph), bool)
    for cells in _images(graph):
        free = cells[~spots[cells]]
        count = int(spots[cells].sum())
        if count and len(free):
            centre = graph.positions[rng.choice(free)]
            off = np.linalg.norm(graph.positions[free] - centre, axis=1)
            found[free[np.argsort(off)[:count]]] = True
    return found


def _finding(
    audit: GraphContext, title: str, measure: Measure, effect: Effect, rows: Array, cells: Array,
    what: str, done: str,
) -> Finding:  # fmt: skip
    severity = beyond_chance(effect)
    if severity == "info":
        title = f"{what.capitalize()} carry much relevance, and risks hardly hang on them."
    return Finding(
        severity,
        title,
        measure,
        f"{what.capitalize()} are {cells.mean():.1%} of all and take "
        f"{(audit.relevance_share * cells).sum() / len(audit):.1%} of the relevance. Changed as "
        "described below, " + effect.sentence(DECISIONS, "draws of as many other cells"),
        "Look at such cells in the images: were they cut by the edge of the image, or into pieces "
        "by the segmentation? Leave them out, or segment again, and train anew.",
        counterfactual(audit, effect, f"without {what}",
               f"{done}, against as many other cells of the same patients, {DRAWS} times."),
        [tissue(audit, cells, what)],
        audit.names(rows),
    )  # fmt: skip
