"""The figures of the demonstration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.layout_engine import ConstrainedLayoutEngine

from xai.audit.context import AuditContext
from xai.audit.pictures import outline
from xai.audit.places import place_name
from xai.plot.figure import NotebookFigure
from xai.plot.images import brightness, relevance_map
from xai.plot.scales import SIGNED, symmetric_limit
from xai.relevance import Array
from xai.report import Picture


def maps_side_by_side(contexts: Mapping[str, AuditContext], rows: Array, place: Array) -> Picture:
    """The same pictures (rows) in every model (columns); one colour scale per column."""
    first = next(iter(contexts.values()))
    grey = brightness(first.data[rows])
    figure = NotebookFigure(figsize=(8.4, 7.2), layout="constrained")
    axes = figure.subplots(len(rows), 1 + len(contexts), squeeze=False)
    for picture, ax in zip(grey, axes[:, 0], strict=True):
        shown = ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        outline(ax, place)
    axes[0, 0].set_title("picture", fontsize=9)
    bar = figure.colorbar(shown, ax=list(axes[:, 0]), location="bottom", pad=0.01, aspect=12)
    bar.set_ticks([0, 1], labels=["0", "1"], fontsize=7)
    for column, (name, context) in zip(axes.T[1:], contexts.items(), strict=True):
        maps = relevance_map(context.relevance.values[rows])
        end = symmetric_limit(maps)
        norm = Normalize(-end, end)
        for ax, picture in zip(column, maps, strict=True):
            ax.imshow(picture, cmap=SIGNED, norm=norm, interpolation="nearest")
            outline(ax, place)
        column[0].set_title(name, fontsize=9)
        bar = figure.colorbar(
            ScalarMappable(norm, SIGNED), ax=list(column), location="bottom", pad=0.01, aspect=12
        )
        bar.set_ticks([-end, 0, end], labels=[f"{-end:.2g}", "0", f"{end:.2g}"], fontsize=7)
    names = ", ".join(contexts)
    return Picture(
        figure,
        "Red speaks for the decision (for the cluster; for being abnormal), blue against it. The "
        "place of the mark is outlined, also in the two pictures without it. Each column's scale "
        "ends at its largest relevance shown.",
        f"Five dresses and their relevance maps in {names}; the mark is {place_name(place)}.",
    )


def similarity_matrix(cosine: pd.DataFrame) -> Picture:
    """Mean cosine between the maps of two models."""
    figure = NotebookFigure(figsize=(5.8, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.15))
    ax = figure.subplots()
    values = cosine.to_numpy(dtype=float)
    image = ax.imshow(values, cmap="Greens", vmin=0, vmax=1)
    names = list(cosine.columns)
    ax.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=9)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    for i, j in np.ndindex(values.shape):
        color = "white" if values[i, j] > 0.6 else "black"
        ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=color, fontsize=9)
    figure.colorbar(image, ax=ax).set_label("mean cosine", fontsize=9)
    i, j = np.unravel_index(np.argmax(values - 2 * np.eye(len(names))), values.shape)
    return Picture(
        figure,
        "1: the same pixels in the same proportions; 0: no pixel in common.",
        f"Matrix of the similarity of five models; the most alike are {names[i]} and {names[j]}.",
    )
