"""Maps of tissue: every cell where it lies, coloured by its relevance for the patient's log hazard.

All images of a figure share one symmetric scale, so they can be compared; zero is white. Images are
drawn as slides are looked at, the y axis downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from scipy.spatial import cKDTree

from xai.errors import InputError
from xai.plot.figure import NotebookFigure, figure_and_axes
from xai.plot.palette import UNKNOWN, category_colors
from xai.plot.scalebar import scale_bar
from xai.plot.scales import SIGNED, symmetric_limit
from xai.plot.words import number, one_line, plain, wrapped
from xai.relevance import Array

if TYPE_CHECKING:
    from graphs.cell_graph import CellGraph
    from graphs.relevance import GraphRelevance

By = Literal["cell", "part"]

MAX_IMAGES = 6
GROUND = "#dcdcdc"
"""Behind the cells: grey, so that a white cell, whose relevance is zero, is seen."""
BORDER = "#505050"
PANEL = 4.4
"""Width of a map in inches."""


def tissue_map(
    relevance: GraphRelevance,
    image: str | Sequence[str] | None = None,
    *,
    by: By = "cell",
    ax: Axes | None = None,
    limit: float | None = None,
    quantile: float | None = None,
) -> Figure:
    """Signed relevance of the cells of an image, or of several below one another.

    Without ``ax`` the phenotypes are drawn beside it. Strong cells are drawn over weak ones. With a
    grid, its borders are drawn. A third coordinate is not shown.

    Parameters
    ----------
    relevance
        Of cells, with or without a partition.
    image
        One name or up to six; may be left out if there is only one image.
    by
        ``"cell"``: every cell in the colour of its own relevance. ``"part"``: every part of the
        partition in the colour of the sum over its cells.
    ax
        Where to draw the map of one image, without its phenotypes.
    limit, quantile
        End of the colours: itself, or that quantile of ``|R|`` among what is drawn; the largest
        ``|R|`` unless given. Give several figures one ``limit`` to compare them.

    Raises
    ------
    InputError
        An image that is not there, or none said where there are several; ``"part"`` without a
        partition, or with cells in space; an impossible scale.
    """
    if by not in get_args(By):
        raise InputError(f"Expected by='cell' or 'part', got {by!r}.")
    names = _chosen(relevance, image)
    if ax is not None and len(names) > 1:
        raise InputError(f"Expected one image for one ax, got {len(names)}; leave ax out.")
    if by == "part" and relevance.partition is None:
        raise InputError(
            "Expected relevance with a partition for by='part', got one without; use "
            "grid_relevance or explain(..., partition=...)."
        )
    if by == "part" and relevance.graph.positions.shape[1] > 2:
        raise InputError("Expected cells in a plane for by='part': parts in space hide each other.")
    graph = relevance.graph
    cells = [np.flatnonzero(graph.images == graph.image_names.index(name)) for name in names]
    values = _values(relevance, by)
    shown = np.concatenate([values[mine] for mine in cells])
    end = symmetric_limit(shown, limit=limit, quantile=quantile)
    norm = Normalize(-end, end)
    figure, maps, beside = _axes(graph, cells, ax)
    for name, mine, panel in zip(names, cells, maps, strict=True):
        _map(relevance, mine, panel, by, values, norm)
        panel.set_title(_title(relevance, name, mine), fontsize=9, loc="left")
        plain(panel.title)
    for mine, panel in zip(cells, beside, strict=False):
        _phenotypes(graph, mine, panel)
    beyond = bool((np.abs(shown) > end).any())
    bar = figure.colorbar(
        ScalarMappable(norm, SIGNED),
        ax=maps,
        extend="both" if beyond else "neither",
        location="left" if beside else "right",
        fraction=0.05,
        pad=0.02,
        aspect=max(15, 12 * len(maps)),
    )
    what = "cell" if by == "cell" else "part (sum over its cells)"
    bar.set_label(f"relevance of a {what}; positive raises the risk", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if beside:
        _legend(graph, np.concatenate(cells), figure)
    reason = "as given"
    if limit is None:
        reason = f"{'largest' if quantile is None else f'{quantile:g} quantile of'} |R| shown"
    caption = f"Colours end at ±{number(end, 3)} ({reason})"
    if beyond:
        caption += ", values beyond take the last colour"
    if ax is None:
        figure.supxlabel(wrapped(caption, int(13 * figure.get_figwidth())), fontsize=8)
    else:
        ax.set_xlabel(wrapped(caption, 60), fontsize=8, labelpad=20)  # under the scale bar
    return figure


def _chosen(relevance: GraphRelevance, image: str | Sequence[str] | None) -> list[str]:
    known = relevance.graph.image_names
    if image is None:
        if len(known) > 1:
            raise InputError(
                f"Expected image=, one or some of the {len(known)} "
                f"({', '.join(map(repr, known[:3]))} ...), got none."
            )
        return list(known)
    names = [image] if isinstance(image, str) else list(image)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"Expected an image of the {len(known)} explained "
            f"({', '.join(map(repr, known[:3]))} ...), got {unknown[0]!r}."
        )
    if not 0 < len(names) <= MAX_IMAGES:
        raise InputError(f"Expected 1 to {MAX_IMAGES} images in a figure, got {len(names)}.")
    return names


def _values(relevance: GraphRelevance, by: By) -> Array:
    """What every cell's colour says ``(n,)``."""
    if by == "cell" or relevance.partition is None:
        return relevance.cells
    found: Array = relevance.partition.sums(relevance.cells)[relevance.partition.codes]
    return found


def _axes(
    graph: CellGraph, cells: list[Array], ax: Axes | None
) -> tuple[Figure, list[Axes], list[Axes]]:
    """The figure, a map for every image, and phenotypes beside each unless ``ax`` is given."""
    if ax is not None:
        return figure_and_axes(ax, 0, 0)[0], [ax], []
    heights = [PANEL * float(np.clip(_aspect(graph.positions[mine]), 0.25, 1.6)) for mine in cells]
    figure = NotebookFigure(
        figsize=(2 * PANEL + 2.9, sum(heights) + 0.45 * len(cells) + 0.4), layout="constrained"
    )
    grid = figure.subplots(len(cells), 2, squeeze=False, height_ratios=heights)
    return figure, list(grid[:, 0]), list(grid[:, 1])


def _aspect(positions: Array) -> float:
    width, height = np.maximum(np.ptp(positions[:, :2], axis=0), 1e-9)
    return float(height / width)


def _map(
    relevance: GraphRelevance, mine: Array, ax: Axes, by: By, values: Array, norm: Normalize
) -> None:
    graph, partition = relevance.graph, relevance.partition
    grid = partition is not None and partition.bounds is not None
    positions = graph.positions[mine, :2]
    _frame(ax, positions, graph.unit)
    if grid and partition is not None and partition.bounds is not None:
        parts = np.unique(partition.codes[mine])
        corners, side = partition.bounds[parts, :2], float(partition.size or 0)
        boxes = [Rectangle((x, y), side, side) for x, y in corners]
        sums = partition.sums(relevance.cells)[parts]
        filled = by == "part"
        colors = SIGNED(norm(sums)) if filled else "none"
        ax.add_collection(
            PatchCollection(boxes, facecolor=colors, edgecolor=BORDER, linewidth=0.4,
                            zorder=1 if filled else 3)
        )  # fmt: skip
    size = _marker(ax, positions)
    if grid and by == "part":
        # The squares carry the colour; dots say where in them the cells are.
        ax.scatter(
            positions[:, 0],
            positions[:, 1],
            s=min(size, 2),
            color="#00000055",
            linewidths=0,
            zorder=2,
            rasterized=True,
        )
        return
    order = np.argsort(np.abs(values[mine]), kind="stable")
    ax.scatter(
        positions[order, 0],
        positions[order, 1],
        c=values[mine][order],
        s=size,
        cmap=SIGNED,
        norm=norm,
        linewidths=0,
        zorder=2,
        rasterized=True,
    )


def _frame(ax: Axes, positions: Array, unit: str) -> None:
    """Equal axes around the cells, y downwards, without numbers but with a scale bar."""
    low, high = positions.min(0), positions.max(0)
    margin = 0.03 * float((high - low).max()) or 10.0
    ax.set_xlim(low[0] - margin, high[0] + margin)
    ax.set_ylim(high[1] + margin, low[1] - margin)
    ax.set_aspect("equal")
    ax.set_facecolor(GROUND)
    ax.set_xticks([])
    ax.set_yticks([])
    scale_bar(ax, float(high[0] - low[0]) + 2 * margin, unit)


def _marker(ax: Axes, positions: Array) -> float:
    """Area of a dot in square points: nearly as wide as the median distance to the next cell."""
    distinct = np.unique(positions, axis=0)
    if len(distinct) < 2:
        return 60.0
    gap = float(np.median(np.asarray(cKDTree(distinct).query(distinct, 2)[0])[:, 1]))
    inches = ax.get_position().width * figure_and_axes(ax, 0, 0)[0].get_figwidth()
    low, high = ax.get_xlim()
    points = 72 * inches * gap / (high - low)
    return float(np.clip((1.15 * points) ** 2, 0.3, 60))


def _phenotypes(graph: CellGraph, mine: Array, ax: Axes) -> None:
    positions = graph.positions[mine, :2]
    _frame(ax, positions, graph.unit)
    palette = category_colors(graph.phenotype_names)
    colors = np.array([*(palette[name] for name in graph.phenotype_names), UNKNOWN], object)
    ax.scatter(
        positions[:, 0],
        positions[:, 1],
        c=list(colors[graph.phenotypes[mine]]),
        s=_marker(ax, positions),
        linewidths=0,
        rasterized=True,
    )
    ax.set_title("phenotypes", fontsize=9, loc="left")


def _legend(graph: CellGraph, cells: Array, figure: Figure) -> None:
    codes = graph.phenotypes[cells]
    palette = category_colors(graph.phenotype_names)
    entries = [(name, palette[name], k) for k, name in enumerate(graph.phenotype_names)]
    entries.append(("not known", UNKNOWN, -1))
    handles = [
        Line2D([], [], marker="o", linestyle="none", markersize=6, color=color,
               label=f"{one_line(name, 22)} ({int((codes == k).sum()):,})".replace(",", " "))
        for name, color, k in entries
        if (codes == k).any()
    ]  # fmt: skip
    legend = figure.legend(
        handles=handles, loc="outside right center", fontsize=8, frameon=False, handletextpad=0.2
    )
    plain(*legend.get_texts())


def _title(relevance: GraphRelevance, name: str, mine: Array) -> str:
    graph = relevance.graph
    patient = graph.patients[graph.image_names.index(name)]
    hazard = float(relevance.log_hazard[graph.patient_names.index(patient)])
    total = float(relevance.cells[mine].sum())
    if not math.isfinite(hazard):
        raise InputError(f"Expected finite log hazards, got {hazard} for patient {patient!r}.")
    return (
        f"image {one_line(name, 24)}, patient {one_line(patient, 16)}\n"
        f"log hazard {number(hazard, 3)}; this image's cells carry {number(total, 3)}"
    )
