"""Conservation and collapse of a graph network: accounts that add up, risks that differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from graphs.network import CellGraphNet
from xai.audit.graph_context import GraphCheck, GraphContext
from xai.audit.graph_pictures import before_and_after, risks
from xai.relevance import Array
from xai.report.finding import Answer, Finding, Measure, NotAssessable, Passed

BOUND = 1e-9
"""Largest relative conservation error that rounding explains in double precision."""

RANGE = 0.05
"""Log hazards of the middle 90 % span at least this: a hazard ratio of 1.05."""

DISTINCT = 0.5
"""Distinct risks per patient of which no two have the same cells."""

SATURATED = 0.9
"""Share of the units read out that may be the same in all images."""

SAME = 1e-6
"""Units that vary by less than this part of their size are the same."""

ONE_PHENOTYPE = 0.95
"""Share of the cells in the commonest phenotype."""

TISSUE = 0.1
"""Risks move by this part of their spread when cells swap places."""


class GraphConservation(GraphCheck):
    """Holds every patient's account against rounding."""

    name = "conservation"
    question = "Does relevance add up to the predicted risk?"

    def run(self, audit: GraphContext) -> Iterator[Answer]:
        error = audit.relevance.relative_conservation_error
        measure = Measure("largest relative conservation error", float(error.max()), "<=", BOUND)
        if measure.holds:
            yield Passed(measure, f"Over {len(audit)} patients in float64.")
            return
        rows = np.flatnonzero(~(error <= BOUND))
        yield Finding(
            "critical",
            "Relevance does not add up to the log hazard.",
            measure,
            f"In {len(rows)} of {len(audit)} patients the parts and the whole differ by more than "
            "rounding explains. What their maps show is not the network's decision.",
            "Do not use these maps; a rule or a custom layer does not conserve.",
            samples=audit.names(rows),
        )


class GraphCollapse(GraphCheck):
    """Asks whether risks differ, and whether what is read out of the tissue does."""

    name = "collapse"
    question = "Do predicted risks tell the patients apart?"

    def run(self, audit: GraphContext) -> Iterator[Answer]:
        if len(audit) < 2:
            yield NotAssessable(self.question, "There is one patient only.")
            return
        low, high = np.quantile(audit.risks, (0.05, 0.95))
        yield _of_all(
            audit,
            Measure("range of the log hazards (5 % to 95 %)", high - low, ">=", RANGE),
            "critical",
            "The network gives all patients nearly the same risk.",
            "Train again, and look at the loss: a network that predicts one risk has a constant "
            "one. Or these patients do not differ in what it reads.",
        )
        different = len(np.unique(audit.mean_inputs, axis=0))
        share = len(np.unique(audit.risks)) / different
        yield _of_all(
            audit,
            Measure("distinct risks per patient with other cells", share, ">=", DISTINCT),
            "warning",
            "Many patients are tied at the same risk.",
            "Ties decide who is in which risk group; look for saturated units.",
        )
        yield _phenotypes(audit)
        yield from _saturated(audit)
        yield _places(audit)


def _of_all(
    audit: GraphContext, measure: Measure, severity: str, title: str, advice: str
) -> Answer:
    if measure.holds:
        return Passed(measure)
    return Finding(
        severity,  # type: ignore[arg-type]
        title,
        measure,
        f"{len(np.unique(audit.risks))} distinct risks of {len(audit)} patients, with a standard "
        f"deviation of {audit.spread:.2g}.",
        advice,
        pictures=[risks(audit)],
        samples=audit.names(np.arange(len(audit))),
    )


def _phenotypes(audit: GraphContext) -> Answer:
    counts = np.bincount(audit.graph.phenotypes + 1, minlength=2)
    largest = int(counts.argmax())
    measure = Measure("share of cells in the commonest phenotype", counts.max() / counts.sum(),
                      "<=", ONE_PHENOTYPE)  # fmt: skip
    if measure.holds:
        return Passed(measure)
    name = audit.graph.phenotype_names[largest - 1] if largest else "not known"
    return Finding(
        "info",
        f"Nearly all cells have one phenotype ({name}).",
        measure,
        "Phenotypes tell the network next to nothing; it can read features and neighbourhoods.",
        "Look at how phenotypes were called.",
        samples=audit.names(np.arange(len(audit))),
    )


def _saturated(audit: GraphContext) -> Iterator[Answer]:
    nets = [net for net in audit.net.modules() if isinstance(net, CellGraphNet)]
    read = [_read_out(audit, net) for net in nets]
    if not read:
        yield NotAssessable("Is the readout saturated?", "The model is no CellGraphNet.")
        return
    if len(read[0]) < 2:
        yield NotAssessable("Is the readout saturated?", "There is one image only.")
        return
    same = [(r.std(0) <= SAME * np.abs(r).max(0)).mean() for r in read]
    worst = int(np.argmax(same))
    measure = Measure("share of the units read out that are the same in all images", same[worst],
                      "<=", SATURATED)  # fmt: skip
    if measure.holds:
        yield Passed(measure)
        return
    yield Finding(
        "warning",
        "What is read out of the tissue is nearly the same in all images.",
        measure,
        f"In member {worst + 1} of {len(read)}." if len(read) > 1 else "",
        "Train again with a lower learning rate, or read means beside maxima.",
        pictures=[risks(audit)],
        samples=audit.names(np.arange(len(audit))),
    )


def _read_out(audit: GraphContext, net: nn.Module) -> Array:
    """What the head of a network gets of every image ``(i, r)``."""
    found: list[Array] = []
    head = net.get_submodule("head")
    handle = head.register_forward_pre_hook(
        lambda module, args: found.append(args[0].detach().double().cpu().numpy())
    )
    try:
        audit._risks(audit.batches, np.arange(len(audit)))
    finally:
        handle.remove()
    read: Array = np.concatenate(found)
    return read


def _places(audit: GraphContext) -> Answer:
    """Whether it matters which cells lie where: cells of an image swap places."""
    key = audit.rng.random(len(audit.graph))
    order = np.lexsort((key, audit.graph.images))  # cells of an image lie together
    rows = np.arange(len(audit))
    with torch.inference_mode():
        answer = audit.rescore(rows, audit.inputs[order])
    moved = float(np.median(np.abs(answer.shift)) / (audit.spread or 1.0))
    measure = Measure("change of risk when cells swap places (median, in sd between patients)",
                      moved, ">=", TISSUE)  # fmt: skip
    if measure.holds:
        return Passed(measure, "The network reads which cells are neighbours.")
    return Finding(
        "info",
        "It hardly matters which cell lies where.",
        measure,
        "All cells of every image were given to other places of that image. The network reads what "
        "cells there are, and next to nothing of who is whose neighbour.",
        "A Cox model of the composition may do as well, and is simpler to check.",
        pictures=[before_and_after(audit, rows, audit.risks + answer.shift, "cells swapped")],
    )
