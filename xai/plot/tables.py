"""Bars and waterfalls: relevance of tables, always with everything that adds up to the evidence."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch

from xai.errors import InputError
from xai.plot.figure import figure_and_axes
from xai.plot.scales import NEGATIVE, NEUTRAL, POSITIVE, signed_colors, symmetric_limit
from xai.plot.shares import Share, shares
from xai.plot.words import evidence_word, label_axes, number, plain
from xai.relevance import Array, Relevance

WIDTH = 7.0
FAINT = "#d9d9d9"


def bar(
    relevance: Relevance,
    *,
    ax: Axes | None = None,
    max_features: int = 15,
    limit: float | None = None,
) -> Figure:
    """Signed bars that add up to the evidence; for several rows, their mean over mean ``|R|``.

    Parameters
    ----------
    relevance
        One row: its relevance. Several: the coloured bar is mean ``R`` (these add up to the mean
        evidence), the grey one behind it mean ``|R|`` (how much is at stake whatever the sign).
    ax
        Where to draw; a new figure when missing.
    max_features
        Features shown by name; the others are added up in one bar.
    limit
        End of the axis on both sides, to compare figures.
    """
    parts = shares(relevance, max_features)
    single = len(relevance) == 1
    means = np.array([part.values.mean() for part in parts])
    sizes = np.array([np.abs(part.values).mean() for part in parts])
    figure, ax = figure_and_axes(ax, WIDTH, 0.3 * len(parts) + 2.0)
    y = np.arange(len(parts))
    if not single:
        ax.barh(y, sizes, height=0.8, color=FAINT)
    bars = ax.barh(y, means, height=0.8 if single else 0.4, color=signed_colors(means))
    plain(*ax.bar_label(bars, [number(m, 3) for m in means], padding=3, fontsize=8))
    ax.axvline(0, color="black", linewidth=0.8)
    label_axes(relevance, ax, [_label(part) if single else part.name for part in parts])
    ax.set_ylim(len(parts) - (0.4 if single else -0.7), -0.6)
    if not single:
        both = (Patch(color=POSITIVE), Patch(color=NEGATIVE))
        ax.legend(
            [both, Patch(color=FAINT)],
            [f"mean R (adds up to the mean {evidence_word(relevance)})", "mean |R|"],
            handler_map={tuple: HandlerTuple(ndivide=None)},
            ncols=2,
            fontsize=8,
            loc="lower right",
            framealpha=1,
            edgecolor="none",
        )
    _fit(ax, np.concatenate([means, sizes]) if not single else means, limit)
    return figure


def waterfall(
    relevance: Relevance,
    *,
    ax: Axes | None = None,
    max_features: int = 15,
    limit: float | None = None,
) -> Figure:
    """One row from zero through features and absorbed shares to its evidence.

    Each bar starts where the one above it ended, so the last bar, the evidence, is their sum. The
    dashed line is the model's threshold, where it has one.

    Parameters
    ----------
    relevance
        Exactly one row.
    ax
        Where to draw; a new figure when missing.
    max_features
        Features shown by name; the others are added up in one bar.
    limit
        End of the axis on both sides, to compare figures.

    Raises
    ------
    InputError
        Several rows.
    """
    if len(relevance) != 1:
        raise InputError(
            f"Expected one row for a waterfall, got {len(relevance)}; pass rows=<one index>, or "
            "kind='bar' or 'beeswarm' for several."
        )
    parts = shares(relevance, max_features)
    steps = np.array([part.values[0] for part in parts])
    ends = np.cumsum(steps)
    starts = ends - steps
    total, threshold = float(relevance.evidence[0]), relevance.threshold
    marked = threshold is not None and math.isfinite(threshold)
    figure, ax = figure_and_axes(ax, WIDTH, 0.3 * len(parts) + 2.0)
    y = np.arange(len(parts))
    bars = ax.barh(y, steps, left=starts, height=0.7, color=signed_colors(steps))
    plain(*ax.bar_label(bars, [number(s, 3) for s in steps], padding=3, fontsize=8))
    last = ax.barh([len(parts)], [total], height=0.7, color=NEUTRAL)
    plain(*ax.bar_label(last, [number(total)], padding=3, fontsize=8))
    # Thin lines carry each end to the start of the next bar.
    ax.vlines(ends, y + 0.35, y + 0.65, color=NEUTRAL, linewidth=0.8)
    ax.axvline(0, color="black", linewidth=0.8)
    label_axes(relevance, ax, [*map(_label, parts), evidence_word(relevance)])
    ax.set_ylim(len(parts) + (1.1 if marked else 0.6), -0.6)
    reach = [0.0, total, *ends]
    if threshold is not None and marked:
        ax.axvline(threshold, color="black", linestyle="--", linewidth=1)
        plain(
            ax.annotate(
                f"threshold {number(threshold)}",
                (threshold, len(parts) + 0.8),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        )
        reach.append(threshold)
    _fit(ax, np.array(reach), limit)
    return figure


def set_limit(ax: Axes, drawn: Array, limit: float | None) -> None:
    """Make the relevance axis ``[-limit, limit]``, if one is given and nothing falls off it."""
    if limit is None:
        return
    needed = symmetric_limit(drawn)
    if symmetric_limit(drawn, limit=limit) < needed:
        raise InputError(
            f"Expected a limit of at least {needed:.6g}, the largest value drawn, got {limit:.6g}."
        )
    ax.set_xlim(-limit, limit)


def _fit(ax: Axes, drawn: Array, limit: float | None) -> None:
    """Leave room for the numbers beside the bars."""
    ax.use_sticky_edges = False
    ax.margins(x=0.2)
    set_limit(ax, drawn, limit)


def _label(part: Share) -> str:
    """Name of a bar for a single row, with the feature's value."""
    if part.inputs is None:
        return part.name
    return f"{part.name} = {number(float(part.inputs[0]))}"
