"""The figures of a graph network's audit: tissue, and risks before and after."""

from __future__ import annotations

import numpy as np

from xai.audit.graph_context import GraphContext
from xai.plot.cells import tissue_map
from xai.plot.figure import NotebookFigure
from xai.relevance import Array
from xai.report.finding import Picture

BEFORE, AFTER = "#4477aa", "#ee6677"


def tissue(audit: GraphContext, cells: Array, what: str) -> Picture:
    """The image in which these cells ``(n,)`` carry most relevance."""
    graph, relevance = audit.graph, audit.relevance
    strength = np.bincount(graph.images, np.abs(relevance.cells) * cells, len(graph.image_names))
    image = graph.image_names[int(strength.argmax())]
    figure = tissue_map(relevance, image, quantile=0.99 if relevance.cells.any() else None)
    count = int(cells[graph.images == int(strength.argmax())].sum())
    return Picture(
        figure,
        f"Image {image}, in which {what} ({count} cells) carry most relevance. Relevance of every "
        "cell for the log hazard of its patient; red raises the risk.",
        f"Map of the cells of one image by relevance, and by phenotype, for {what}.",
    )


def risks_by_group(audit: GraphContext, rows: Array, after: Array) -> Picture:
    """Log hazards of patients by group, as they are and with ``after`` ``(p,)``."""
    assert audit.groups is not None
    codes = np.asarray(audit.groups, str)[rows]
    names = np.unique(codes)
    figure = NotebookFigure(figsize=(max(4.0, 1.5 + 1.3 * len(names)), 3.2), layout="constrained")
    ax = figure.subplots()
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        mine = rows[codes == name]
        for values, offset, colour, label in (
            (audit.risks, -0.17, BEFORE, "as it is"),
            (after, 0.17, AFTER, "features equalised"),
        ):
            places = k + offset + rng.uniform(-0.1, 0.1, len(mine))
            ax.plot(places, values[mine], "o", ms=3, alpha=0.6, color=colour,
                    label=label if k == 0 else None)  # fmt: skip
            ax.plot([k + offset - 0.13, k + offset + 0.13], [np.median(values[mine])] * 2, "k-")
    ax.axhline(audit.threshold, color="#888888", lw=0.8, ls=":")
    ax.set_xticks(range(len(names)))
    ax.set_xticklabels(names, fontsize=8, parse_math=False)
    ax.set_ylabel("log hazard", fontsize=8)
    ax.legend(fontsize=7)
    return Picture(
        figure,
        "Log hazards of the patients of every group, before and after the features were shifted so "
        "that groups agree in their means. Lines are medians; dotted: the median of all patients.",
        f"Log hazards of the patients of {len(names)} groups before and after.",
    )


def before_and_after(audit: GraphContext, rows: Array, after: Array, what: str) -> Picture:
    """Log hazards of patients as they are against those ``after`` ``(k,)``."""
    figure = NotebookFigure(figsize=(3.6, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.axline((audit.threshold, audit.threshold), slope=1, color="#888888", lw=0.8)
    ax.axvline(audit.threshold, color="#888888", lw=0.8, ls=":")
    ax.axhline(audit.threshold, color="#888888", lw=0.8, ls=":")
    ax.plot(audit.risks[rows], after, "o", ms=3, alpha=0.7, color=BEFORE)
    ax.set_xlabel("log hazard", fontsize=8)
    ax.set_ylabel(f"log hazard, {what}", fontsize=8)
    return Picture(
        figure,
        f"Log hazard of every patient as it is and {what}; dotted: the median, which divides the "
        "risk groups.",
        f"Log hazards of {len(rows)} patients, {what}, against those as they are.",
    )


def risks(audit: GraphContext) -> Picture:
    """Log hazards of all patients, sorted."""
    figure = NotebookFigure(figsize=(4.2, 2.6), layout="constrained")
    ax = figure.subplots()
    ax.plot(np.sort(audit.risks), np.arange(1, len(audit) + 1), "o-", ms=3, color=BEFORE)
    ax.set_xlabel("log hazard", fontsize=8)
    ax.set_ylabel("patients up to it", fontsize=8)
    return Picture(
        figure, "Log hazards of the patients, sorted.", f"Log hazards of {len(audit)} patients."
    )
