"""Relevance in another basis: bars of its bands, and the pixel maps that flow through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from xai.errors import InputError
from xai.plot.figure import NotebookFigure
from xai.plot.images import brightness, channel_axis, relevance_map
from xai.plot.scales import SIGNED, signed_colors, symmetric_limit
from xai.plot.words import number, one_line, plain, wrapped
from xai.relevance import Array

if TYPE_CHECKING:
    from xai.virtual_layers.relevance import BasisRelevance


def spectrum(relevance: BasisRelevance, n: int | None = 4, *, row: int = 0) -> Figure:
    """Bars of the bands' relevance; for pictures the input, its whole map and the map of each band.

    All maps share one symmetric scale. They and the maps of what the basis leaves over add up to
    the whole.

    Parameters
    ----------
    relevance
        Of any basis.
    n
        Bands, or runs of components; subspaces have their own number.
    row
        Which row.

    Raises
    ------
    InputError
        A row that does not exist.
    """
    if not -len(relevance) <= row < len(relevance):
        raise InputError(f"Expected a row of {len(relevance)}, got {row}.")
    bars = relevance.masks(None if getattr(relevance.basis, "groups", None) else n)
    names, masks = [name for name, _ in bars], [mask for _, mask in bars]
    heights = [float(relevance.values[row][mask].sum()) for mask in masks]
    for name, share in relevance.absorbed.items():
        names.append(name)
        heights.append(float(share[row]))
    pictured = _are_pictures(relevance.inputs)
    panels = len(masks) + 2 + len(relevance.remainders) if pictured else 0
    columns = max(3, -(-panels // 2)) if pictured else 1
    lines = 1 + (2 if pictured else 0)
    figure = NotebookFigure(
        figsize=(1.9 * columns + 1 if pictured else 6, 0.32 * len(names) + 1.2 + 2.2 * (lines - 1)),
        layout="constrained",
    )
    ratios = [0.32 * len(names) + 0.8, *[2.2] * (lines - 1)]
    grid = figure.add_gridspec(lines, columns, height_ratios=ratios)
    ax = figure.add_subplot(grid[0, :])
    y = np.arange(len(names))
    drawn = ax.barh(y, heights, height=0.7, color=signed_colors(np.array(heights)))
    plain(*ax.bar_label(drawn, [number(v, 3) for v in heights], padding=3, fontsize=8))
    ax.set_yticks(y, [one_line(name, 40) for name in names], fontsize=8)
    plain(*ax.get_yticklabels())
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.use_sticky_edges = False
    ax.margins(x=0.2)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_xlabel(wrapped(f"relevance for: {relevance.evidence_name}", 60), fontsize=8)
    if hasattr(relevance.basis, "frequency"):
        ax.set_ylabel("cycles per pixel", fontsize=8)
    evidence = number(float(relevance.evidence[row]))
    title = f"{one_line(relevance.model_name, 40)}, {relevance.basis.name}, row {row}"
    plain(figure.suptitle(f"{title}\nevidence {evidence}", fontsize=10), ax.xaxis.label)
    if pictured:
        _maps(figure, grid, relevance, masks, names, row, columns)
    return figure


def _are_pictures(inputs: Array) -> bool:
    try:
        channel_axis(inputs.shape[1:])
    except InputError:
        return False
    return True


def _maps(
    figure: Figure, grid: GridSpec, relevance: BasisRelevance, masks: list[Array],
    names: list[str], row: int, columns: int,
) -> None:  # fmt: skip
    """The input, the whole map, one map per band and per remainder."""
    found = [relevance_map(one)[row] for one in relevance.messages(masks)]
    found += [relevance_map(one)[row] for one in relevance.remainders.values()]
    whole = relevance_map(relevance.whole)[row]
    titles = ["whole map", *names[: len(masks)], *relevance.remainders]
    end = symmetric_limit(np.stack([whole, *found]))
    norm = Normalize(-end, end)
    axes = []
    for i in range(len(found) + 2):
        panel = figure.add_subplot(grid[1 + i // columns, i % columns])
        axes.append(panel)
        panel.set_xticks([])
        panel.set_yticks([])
        if i == 0:
            panel.imshow(brightness(relevance.inputs)[row], cmap="gray")
            panel.set_title("input", fontsize=8)
            continue
        picture = whole if i == 1 else found[i - 2]
        panel.imshow(picture, cmap=SIGNED, norm=norm, interpolation="nearest")
        panel.set_title(f"{titles[i - 1]}\nsum {number(float(picture.sum()), 3)}", fontsize=8)
        plain(panel.title)
    bar = figure.colorbar(ScalarMappable(norm, SIGNED), ax=axes, pad=0.02, aspect=25)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("relevance of a pixel", fontsize=8)
