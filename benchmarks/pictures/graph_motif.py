"""Draw docs/pictures/graph_motif.png: relevance on planted motifs and on a planted shortcut.

python benchmarks/pictures/graph_motif.py [FILE]
"""

from __future__ import annotations

import io
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import PICTURES, colour_bar
from matplotlib.colors import ListedColormap
from PIL import Image

from graphs import CellGraph, explain, graph_composite
from graphs.baselines import gnn_explainer
from graphs.datasets import PHENOTYPES, PlantedCohort, planted_motif, planted_shortcut
from graphs.reference import against, mean_cell
from xai.plot.figure import NotebookFigure
from xai.plot.scales import SIGNED

Array = np.ndarray
benchmark = runpy.run_path(str(Path(__file__).parents[1] / "graph_motif.py"))
HELD_OUT, SITES, TRAIN = (benchmark[name] for name in ("HELD_OUT", "SITES", "TRAIN"))
first, lrp, trained = (benchmark[name] for name in ("first", "lrp", "trained"))
KINDS = ListedColormap(["#c9a58b", "#2b6cb0", "#7a5ea8", "#5a9a57", "#d9d9d9", "#111111"])


def one(cohort: PlantedCohort, chosen: int) -> PlantedCohort:
    return first(cohort, np.arange(len(cohort.outcome)) == chosen)


def cells(panel: Any, graph: CellGraph, values: Array, **options: Any) -> Any:
    x, y = graph.positions.T
    panel.set_aspect("equal")
    panel.set_xticks([])
    panel.set_yticks([])
    return panel.scatter(x, y, c=values, s=16, linewidths=0, **options)


def rings(panel: Any, graph: CellGraph, truth: Array) -> None:
    x, y = graph.positions[truth].T
    panel.scatter(x, y, s=26, facecolors="none", edgecolors="black", linewidths=0.6)


def row(
    axes: Any, figure: Any, shown: PlantedCohort, truth: Array, maps: dict[str, Array], left: str
) -> None:
    """Phenotypes, then maps that share one scale; true cells are ringed in all."""
    graph = shown.graph
    cells(axes[0], graph, graph.phenotypes, cmap=KINDS, vmin=-0.5, vmax=5.5)
    axes[0].set_title(left, fontsize=8)
    signed = [values for values in maps.values() if values.min() < 0]
    end = float(np.quantile(np.abs(np.concatenate(signed)), 0.985))
    for panel, (name, values) in zip(axes[1:], maps.items(), strict=True):
        if values.min() < 0:
            cells(panel, graph, values, cmap=SIGNED, vmin=-end, vmax=end)
        else:
            cells(panel, graph, values, cmap="Greys", vmin=values.min(), vmax=values.max())
        panel.set_title(name, fontsize=8)
    for panel in axes:
        rings(panel, graph, truth)
    colour_bar(figure, axes[1], end)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    figure = NotebookFigure(figsize=(9.2, 6.0), layout="constrained")
    axes = figure.subplots(2, 3)

    cohort = planted_motif(0, TRAIN + HELD_OUT, images=1)
    number = np.arange(TRAIN + HELD_OUT)
    learnt, held = first(cohort, number < TRAIN), first(cohort, number >= TRAIN)
    net = trained(learnt, 0)
    middle = int(np.argsort(held.patients["infiltration"].to_numpy())[HELD_OUT // 2])
    shown = one(held, middle)
    rules = against(graph_composite(0.1), mean_cell(learnt.graph))
    maps = {
        "LRP against the mean cell": lrp(net, shown.graph, rules),
        "GNNExplainer's mask (no sign)": gnn_explainer(net, shown.graph, progress=False),
    }
    row(axes[0], figure, shown, shown.motif, maps, "ringed: T cells at the tumour")

    maps, bars = {}, {}
    for name, agreement in (("with the shortcut", 0.95), ("control", 0.5)):
        cohort = planted_shortcut(0, "phenotype", SITES, images=1, agreement=agreement)
        learnt = cohort.split(train=True)
        if agreement == 0.95:
            held = cohort.split(train=False)
            marked = np.flatnonzero(held.patients["batch"].to_numpy() == 1)[:24]
            several = first(held, np.isin(np.arange(len(held.outcome)), marked))
            shown = one(several, 0)
        net = trained(learnt, 0, epochs=20)
        rules = against(graph_composite(0.1), mean_cell(learnt.graph))
        found = explain(net, several.graph, composite=rules, progress=False)
        bars[name] = found.by("phenotype", "mean")
        if not maps:
            maps["LRP, trained with the shortcut"] = found.cells[several.graph.images == 0]
    row(axes[1, :2], figure, shown, shown.shortcut, maps, "ringed: the artefact")
    for k, (name, table) in enumerate(bars.items()):
        axes[1, 2].barh(
            np.arange(len(PHENOTYPES)) + 0.2 - 0.4 * k, table.mean(), 0.38,
            xerr=table.sem(), label=name, color=("#8c2d19", "#bbbbbb")[k], error_kw={"lw": 0.8},
        )  # fmt: skip
    axes[1, 2].axvline(0, color="black", lw=0.6)
    axes[1, 2].set_yticks(range(len(PHENOTYPES)), PHENOTYPES, fontsize=7)
    axes[1, 2].tick_params(axis="x", labelsize=7)
    axes[1, 2].legend(fontsize=7, title="trained", title_fontsize=7)
    axes[1, 2].set_title("relevance per cell, 24 patients", fontsize=8)

    for k, name in enumerate(PHENOTYPES):
        axes[0][0].scatter([], [], color=KINDS(k), s=16, label=name)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=88)
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    default = PICTURES / "graph_motif.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
