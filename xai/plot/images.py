"""Pictures: signed heat maps and overlays on one symmetric scale with one colour bar."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from xai.errors import InputError
from xai.plot.figure import NotebookFigure, figure_and_axes
from xai.plot.scales import SIGNED, SIGNED_CLEAR, symmetric_limit
from xai.plot.shares import VISIBLE_ERROR
from xai.plot.words import (
    model_title,
    number,
    plain,
    relevance_label,
    row_title,
    wrapped,
)
from xai.relevance import Array, Relevance

COLUMNS = 8
CHANNELS = (1, 3, 4)
# Neither black nor white, so that both hues of the overlay stay visible above it.
GREY: Colormap = LinearSegmentedColormap.from_list("grey", ["0.25", "1.0"])
LUMA = np.array([0.299, 0.587, 0.114])
"""Brightness of red, green and blue (ITU-R BT.601)."""


def heatmap(
    relevance: Relevance,
    *,
    ax: Axes | None = None,
    limit: float | None = None,
    quantile: float | None = None,
    first_of: int | None = None,
) -> Figure:
    """A grid of signed maps: red speaks for the decision, blue against it, white is zero.

    Parameters
    ----------
    relevance
        Pictures ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)`` with ``c`` 1, 3 or 4; relevance
        is summed over channels.
    ax
        Where to draw a single picture; a new figure when missing.
    limit, quantile
        End of the colour scale that all pictures share: given, or a quantile of ``|R|``; the
        largest ``|R|`` shown when missing.
    first_of
        How many pictures there are, if these are only the first of them; goes into the title.

    Raises
    ------
    InputError
        Rows that are no pictures, several pictures for one ``ax``, or an impossible scale.
    """
    return _grid(relevance, "heatmap", ax, limit, quantile, first_of)


def overlay(
    relevance: Relevance,
    *,
    ax: Axes | None = None,
    limit: float | None = None,
    quantile: float | None = None,
    first_of: int | None = None,
) -> Figure:
    """The input in grey with relevance above it: hue is the sign, opacity the magnitude.

    Opacity is ``sqrt(|R| / limit)``, as the colour bar shows.
    Parameters and errors as for :func:`heatmap`. The grey scale is shared as well, from the
    smallest to the largest brightness shown; of four channels the last, opacity, is left out.
    """
    return _grid(relevance, "overlay", ax, limit, quantile, first_of)


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Where the channels of a picture of this shape are: last (-1), first (-3), or nowhere.

    Where both ends could be channels, the last one is.

    Raises
    ------
    InputError
        A shape that is no picture.

    Examples
    --------
    >>> channel_axis((8, 8)), channel_axis((32, 32, 3)), channel_axis((3, 32, 32))
    (None, -1, -3)
    """
    if len(shape) == 2:
        return None
    if len(shape) == 3 and shape[-1] in CHANNELS:
        return -1
    if len(shape) == 3 and shape[0] in CHANNELS:
        return -3
    raise InputError(
        f"Expected pictures of shape (h, w), (h, w, c) or (c, h, w) with c 1, 3 or 4, got {shape}; "
        "kind='bar' shows other shapes by position."
    )


def relevance_map(values: Array) -> Array:
    """Relevance ``(n, ...)`` summed over channels: ``(n, h, w)`` in float64."""
    axis = channel_axis(values.shape[1:])
    values = values.astype(np.float64)
    summed: Array = values if axis is None else values.sum(axis)
    return summed


def brightness(inputs: Array) -> Array:
    """Pictures ``(n, ...)`` in grey, ``(n, h, w)``, unscaled."""
    axis = channel_axis(inputs.shape[1:])
    inputs = inputs.astype(np.float64)
    if axis is None:
        return inputs
    channels = np.moveaxis(inputs, axis, -1)
    grey: Array = channels[..., 0] if channels.shape[-1] == 1 else channels[..., :3] @ LUMA
    return grey


def _grid(
    relevance: Relevance,
    kind: Literal["heatmap", "overlay"],
    ax: Axes | None,
    limit: float | None,
    quantile: float | None,
    first_of: int | None,
) -> Figure:
    maps = relevance_map(relevance.values)
    end = symmetric_limit(maps, limit=limit, quantile=quantile)
    norm = Normalize(-end, end)
    colors = SIGNED if kind == "heatmap" else SIGNED_CLEAR
    grey = brightness(relevance.inputs)
    figure, axes = _axes(maps, ax)
    for i, panel in enumerate(axes):
        if kind == "overlay":
            panel.imshow(grey[i], cmap=GREY, vmin=grey.min(), vmax=grey.max())
        panel.imshow(maps[i], cmap=colors, norm=norm, interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_title(_title(relevance, i, maps[i]), fontsize=8)
        plain(panel.title)
    beyond = bool((np.abs(maps) > end).any())
    height = figure.get_figheight()
    bar = figure.colorbar(
        ScalarMappable(norm, colors),
        ax=axes,
        extend="both" if beyond else "neither",
        aspect=max(12, 8 * height),
        pad=0.02,
    )
    bar.set_label(wrapped(relevance_label(relevance), int(11 * height)), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    reason = "as given"
    if limit is None:
        reason = f"{'largest' if quantile is None else f'{quantile:g} quantile of'} |R| shown"
    caption = _caption(relevance, kind, end, beyond, reason)
    if kind == "overlay":
        caption += f"; input grey from {number(grey.min(), 3)} to {number(grey.max(), 3)}"
    width = figure.get_figwidth()
    if ax is None:
        heading = model_title(relevance)
        if first_of is not None:
            heading += f": first {len(relevance)} of {first_of} rows"
        plain(
            figure.suptitle(heading, fontsize=10),
            figure.supxlabel(wrapped(caption, int(14 * width)), fontsize=8),
        )
    else:
        ax.set_xlabel(wrapped(caption, 60), fontsize=8)
        plain(ax.xaxis.label)
    plain(bar.ax.yaxis.label)
    return figure


def _axes(maps: Array, ax: Axes | None) -> tuple[Figure, list[Axes]]:
    """One pair of axes per map, in a new figure unless ``ax`` is given."""
    count, h, w = maps.shape
    if ax is not None:
        if count != 1:
            raise InputError(
                f"Expected one picture for one ax, got {count}; pass rows=<one index>, or leave ax "
                "out to get a grid."
            )
        return figure_and_axes(ax, 0, 0)[0], [ax]
    columns = min(count, COLUMNS, max(4, math.ceil(math.sqrt(count))))
    rows = math.ceil(count / columns)
    panel_width = {1: 3.6, 2: 2.6}.get(columns, 1.9)
    panel_height = float(np.clip(panel_width * h / w, 0.5, 6))
    figure = NotebookFigure(
        figsize=(columns * panel_width + 1.2, rows * (panel_height + 0.55) + 0.7),
        layout="constrained",
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for empty in grid[count:]:
        empty.remove()
    return figure, list(grid[:count])


def _title(relevance: Relevance, i: int, picture: Array) -> str:
    """Row, target, evidence, and what makes it up if that is not the pixels alone."""
    title = row_title(relevance, i)
    parts = {"pixels": float(picture.sum())}
    if relevance.absorbed:
        parts["absorbed"] = float(relevance.absorbed_total[i])
    if relevance.relative_conservation_error[i] > VISIBLE_ERROR:
        parts["conservation error"] = float(relevance.evidence[i]) - sum(parts.values())
    if len(parts) > 1:
        title += "\n" + ", ".join(f"{name} {number(part)}" for name, part in parts.items())
    return title


def _caption(
    relevance: Relevance,
    kind: str,
    end: float,
    beyond: bool,
    reason: str,
) -> str:
    """What the colours mean, what was summed, and what the pixels add up to."""
    if kind == "heatmap":
        caption = f"The colour scale ends at ±{number(end)} ({reason})"
    else:
        caption = f"Opacity is the square root of |R| / {number(end)} ({reason})"
    if beyond:
        caption += ", values beyond that take the last colour"
    axis = channel_axis(relevance.values.shape[1:])
    if axis is not None:
        caption += f"; relevance is summed over channels ({relevance.values.shape[axis]})"
    if relevance.absorbed:
        caption += f"; absorbed: {', '.join(relevance.absorbed)}"
    return caption
