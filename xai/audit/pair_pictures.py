"""Pictures of the similarity check: neighbours, and where what they have in common lies."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from xai.audit.context import AuditContext
from xai.audit.pictures import outline
from xai.pair_explainer import bilrp
from xai.plot.figure import NotebookFigure
from xai.plot.images import brightness
from xai.plot.scales import SIGNED, symmetric_limit
from xai.relevance import Array
from xai.report.finding import Picture

DIRECTIONS = 8
"""Random directions of the embedding for the relevance of pairs of pixels."""

CELLS = 16
"""Regions a side that lines join."""


def pairs_picture(
    audit: AuditContext, a: Array, b: Array, maps: tuple[Array, Array], pixels: Array
) -> Picture:
    """Pairs side by side, each above its map, the place outlined, one colour scale for all."""
    norm = Normalize(-(end := symmetric_limit(np.concatenate(maps))), end)
    grey = [brightness(audit.data[rows]) for rows in (a, b)]
    low, high = min(g.min() for g in grey), max(g.max() for g in grey)
    figure = NotebookFigure(figsize=(2.1 * len(a), 4.6), layout="constrained")
    axes = figure.subplots(4, len(a), squeeze=False)
    for side, (rows, names) in enumerate(((a, audit.names(a)), (b, audit.names(b)))):
        for i in range(len(rows)):
            picture, heat = axes[2 * side, i], axes[2 * side + 1, i]
            picture.imshow(grey[side][i], cmap="gray", vmin=low, vmax=high)
            heat.imshow(maps[side][i], cmap=SIGNED, norm=norm, interpolation="nearest")
            picture.set_title(names[i], fontsize=8, parse_math=False)
            for ax in (picture, heat):
                outline(ax, pixels)
    bar = figure.colorbar(ScalarMappable(norm, SIGNED), ax=axes, pad=0.01)
    bar.set_label("relevance for the likeness", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return Picture(
        figure,
        "Every column is a pair of rows, each above the relevance of what makes it nearer to the "
        "other than rows are on average. Red makes them alike; the place is outlined.",
        f"{len(a)} pairs of pictures with relevance maps; a place is outlined in all of them.",
    )


def joint_relevance(audit: AuditContext, a: int, b: int, pixels: Array) -> tuple[float, Picture]:
    """Share of the place in both pictures in the relevance of pairs of pixels, and its picture."""
    assert audit.net.features is not None
    one, two = (torch.as_tensor(audit.data[[row]]) for row in (a, b))
    sim = bilrp(
        audit.net.features, one, two, audit.composite, similarity="cosine", reduce="random",
        n_directions=DIRECTIONS, seed=audit.seed, progress=audit.progress,
    )  # fmt: skip
    assert not isinstance(sim, list)
    size = max(1, max(pixels.shape) // CELLS)
    inside = float(sim.a.factors[:, pixels].sum(1) @ sim.b.factors[:, pixels].sum(1))
    positive = float(np.maximum(sim.pooled(size), 0).sum())
    share = inside / positive if positive > 0 else 0.0
    picture = Picture(
        sim.plot(n=15, size=size),
        f"The strongest pair: lines join regions that make the two alike together (BiLRP along "
        f"{DIRECTIONS} random directions of the embedding).",
        "Two pictures with lines between the regions that make them alike.",
    )
    return share, picture
