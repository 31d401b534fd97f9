"""Pictures of directions: the rows that each carries most in, and where; or its loadings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from neuralize.lrp import LRP
from xai.audit.context import AuditContext
from xai.plot.figure import NotebookFigure
from xai.plot.images import brightness, relevance_map
from xai.plot.scales import NEGATIVE, POSITIVE, SIGNED, symmetric_limit
from xai.relevance import Array
from xai.report.finding import Picture

if TYPE_CHECKING:
    from xai.audit.subspaces import Directions

ROWS = 4
NAMED = 10


def directions_picture(
    audit: AuditContext, found: Directions, count: int, first: int | None = None
) -> Picture:
    """The leading directions, or those around ``first``, as pictures or as loadings."""
    order = list(range(min(count, len(found.vectors))))
    if first is not None:
        order = [first, *(k for k in order if k != first)][:count]
    return _rows(audit, found, order) if audit.is_image else _loadings(audit, found, order)


def restricted(audit: AuditContext, found: Directions, which: int, chosen: Array) -> Array:
    """Relevance of rows that goes through one direction, at the input ``(k, *shape)``.

    Of what the head sees, unit ``i`` takes ``u_i (u^T a) c_i``; from there on as always.
    """
    seed = found.vectors[which] * found.along[chosen, which][:, None] * found.context[chosen]
    rows = audit.data[found.rows[chosen]]
    if audit.net.features is None:
        found_there: Array = seed.reshape(rows.shape)
        return found_there
    x = torch.as_tensor(rows).to(audit.net.device)
    trace = LRP(audit.net.features, audit.composite).trace(x)
    values: Array = trace.relevance(torch.as_tensor(seed).to(trace.output))[0].cpu().numpy()
    return values


def _rows(audit: AuditContext, found: Directions, order: list[int]) -> Picture:
    figure = NotebookFigure(figsize=(1.6 * ROWS + 0.8, 3.1 * len(order)), layout="constrained")
    axes = figure.subplots(2 * len(order), ROWS, squeeze=False)
    chosen = [np.argsort(-found.carried[:, k])[:ROWS] for k in order]
    maps = [
        relevance_map(restricted(audit, found, k, rows))
        for k, rows in zip(order, chosen, strict=True)
    ]
    norm = Normalize(-(end := symmetric_limit(np.concatenate(maps))), end)
    for j, (k, rows) in enumerate(zip(order, chosen, strict=True)):
        grey = brightness(audit.data[found.rows[rows]])
        names = audit.names(found.rows[rows])
        for i in range(ROWS):
            picture, heat = axes[2 * j, i], axes[2 * j + 1, i]
            for ax in (picture, heat):
                ax.set(xticks=[], yticks=[])
            if i >= len(rows):
                picture.set_axis_off()
                heat.set_axis_off()
                continue
            picture.imshow(grey[i], cmap="gray", vmin=grey.min(), vmax=grey.max())
            heat.imshow(maps[j][i], cmap=SIGNED, norm=norm, interpolation="nearest")
            picture.set_title(names[i], fontsize=8, parse_math=False)
        axes[2 * j, 0].set_ylabel(f"direction {k + 1}\n{found.share[k]:.0%}", fontsize=8)
    bar = figure.colorbar(ScalarMappable(norm, SIGNED), ax=axes, pad=0.01)
    bar.set_label("relevance through the direction", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return Picture(
        figure,
        "For each direction, with its share of all relevance, the rows in which it carries most, "
        "each above the relevance that goes through it.",
        f"Rows and relevance maps for {len(order)} directions.",
    )


def _loadings(audit: AuditContext, found: Directions, order: list[int]) -> Picture:
    figure = NotebookFigure(figsize=(3.2 * len(order), 2.8), layout="constrained")
    for ax, k in zip(figure.subplots(1, len(order), squeeze=False)[0], order, strict=True):
        vector = found.vectors[k]
        best = np.argsort(-np.abs(vector))[:NAMED][::-1]
        colors = [POSITIVE if vector[i] > 0 else NEGATIVE for i in best]
        ax.barh(range(len(best)), vector[best], color=colors)
        names = [audit.feature_name(int(i)) for i in best]
        ax.set_yticks(range(len(best)), names, fontsize=7, parse_math=False)
        ax.set_title(f"direction {k + 1}: {found.share[k]:.0%}", fontsize=9)
        ax.tick_params(axis="x", labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    return Picture(
        figure,
        "Weights of the features in each direction, with its share of all relevance.",
        f"Bars of the largest weights of {len(order)} directions.",
    )
