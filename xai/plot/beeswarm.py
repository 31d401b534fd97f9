"""Beeswarm: relevance of every row per feature, coloured by the feature's own value."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xai.plot.figure import figure_and_axes
from xai.plot.scales import NEUTRAL
from xai.plot.shares import Share, shares
from xai.plot.tables import WIDTH, set_limit
from xai.plot.words import label_axes, number
from xai.relevance import Array, Relevance

BINS = 120
SPREAD, STEP = 0.38, 0.1


def beeswarm(
    relevance: Relevance,
    *,
    ax: Axes | None = None,
    max_features: int = 15,
    limit: float | None = None,
) -> Figure:
    """One dot per row and feature at its relevance; equal relevance piles up sideways.

    Dots run from the lowest to the highest value of their own feature in colour. Grey ones have no
    value of a single feature: the other features together, and absorbed shares; a share that is the
    same in every row is written instead. Dots and what is written add up to a row's evidence.

    Parameters
    ----------
    relevance
        Any number of rows; every one is drawn.
    ax
        Where to draw; a new figure when missing.
    max_features
        Features shown by name; the others are added up in one line of dots.
    limit
        End of the axis on both sides, to compare figures.
    """
    parts = shares(relevance, max_features)
    figure, ax = figure_and_axes(ax, WIDTH, 0.36 * len(parts) + 1.7)
    size = float(np.clip(2000 / len(relevance), 3, 16))
    labels = [part.name if _has_dots(part) else _written(part) for part in parts]
    drawn = np.concatenate([part.values for part in parts if _has_dots(part)])
    colored = None
    for y, part in enumerate(parts):
        if not _has_dots(part):
            continue
        height = y + pile(part.values, float(drawn.min()), float(drawn.max()))
        if part.inputs is None:
            ax.scatter(part.values, height, s=size, color=NEUTRAL, linewidth=0, rasterized=True)
            continue
        colored = ax.scatter(
            part.values,
            height,
            s=size,
            c=lowest_to_highest(part.inputs),
            vmin=0,
            vmax=1,
            cmap="viridis",
            linewidth=0,
            rasterized=True,
        )
    ax.axvline(0, color="black", linewidth=0.8, zorder=0)
    label_axes(relevance, ax, labels)
    ax.set_ylim(len(parts) - 0.4, -0.6)
    ax.grid(axis="y", linestyle=":", linewidth=0.6)
    ax.set_axisbelow(True)
    if colored is not None:
        bar = figure.colorbar(colored, ax=ax, ticks=[0, 1], aspect=40, pad=0.02)
        bar.ax.set_yticklabels(["lowest", "highest"], fontsize=8)
        bar.set_label("value of each feature, within the rows shown", fontsize=8, labelpad=-8)
        bar.outline.set_visible(False)
    set_limit(ax, drawn, limit)
    return figure


def _has_dots(part: Share) -> bool:
    """Whether a share differs between rows; a constant far off would only squeeze the features."""
    return part.inputs is not None or float(np.ptp(part.values)) > 1e-9 * np.abs(part.values).max()


def _written(part: Share) -> str:
    return f"{part.name}\n{number(float(part.values[0]))} in every row"


def lowest_to_highest(values: Array) -> Array:
    """Values on [0, 1], from their minimum to their maximum; one half where all are equal.

    >>> lowest_to_highest(np.array([2.0, 4.0, 3.0])).tolist()
    [0.0, 1.0, 0.5]
    """
    values = np.asarray(values, dtype=np.float64)
    span = values.max() - values.min()
    if span == 0:
        return np.full(len(values), 0.5)
    scaled: Array = (values - values.min()) / span
    return scaled


def pile(values: Array, low: float, high: float) -> Array:
    """Offsets ``(n,)`` that spread values of the same bin sideways: 0.1 each, within +-0.38.

    Deterministic: within a bin, rows in their order go to the middle, up, down, further up, and so
    on.

    >>> pile(np.array([0.0, 0.0, 0.0, 1.0]), 0.0, 1.0).tolist()
    [0.0, 0.1, -0.1, 0.0]
    """
    width = (high - low) or 1.0
    bins = np.clip(((values - low) / width * BINS).astype(int), 0, BINS - 1)
    order = np.argsort(bins, kind="stable")
    starts = np.searchsorted(bins[order], bins[order])
    rank = np.empty(len(values), dtype=int)
    rank[order] = np.arange(len(values)) - starts
    steps = (rank + 1) // 2 * np.where(rank % 2, 1, -1)
    offsets: Array = steps * min(STEP, SPREAD / max(1, np.abs(steps).max(initial=0)))
    return offsets
