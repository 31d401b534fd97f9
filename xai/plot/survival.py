"""Kaplan-Meier curves of groups of patients, with the number at risk and the log-rank test.

Curves, bands and test are those of :mod:`graphs.risk_groups`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xai.errors import InputError
from xai.plot.figure import figure_and_axes
from xai.plot.palette import group_colors
from xai.plot.words import one_line, plain

if TYPE_CHECKING:
    from graphs.survival import Outcome


def kaplan_meier(
    outcome: Outcome,
    groups: Sequence[Any] | pd.Categorical | None = None,
    *,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Figure:
    """Survival by group: steps, censored patients as ticks, pointwise bands, numbers at risk.

    Groups by the risks of a model that was trained on these very patients differ by construction,
    and the p-value then means nothing.

    Parameters
    ----------
    outcome
        Of all patients.
    groups
        ``(p,)`` in its order, such as :func:`graphs.risk_groups.risk_groups` of log hazards; None:
        one curve.
    level
        Of the bands.
    ax
        Where to draw.

    Raises
    ------
    InputError
        Another number of groups.
    """
    from graphs.risk_groups import kaplan_meier as curve
    from graphs.risk_groups import log_rank

    labels = pd.Series(["all patients"] * len(outcome) if groups is None else list(groups))
    if len(labels) != len(outcome) or labels.isna().any():
        raise InputError(f"Expected a group for each of {len(outcome)} patients.")
    found = list(dict.fromkeys(labels))
    if isinstance(groups, pd.Categorical):
        found = [name for name in groups.categories if name in set(labels)]
    figure, ax = figure_and_axes(ax, 6.2, 3.7 + 0.2 * len(found))
    palette = group_colors([str(name) for name in found])
    end = float(outcome.time.max())
    ax.set_xlim(0, 1.02 * end)
    ax.set_ylim(0, 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ticks = [float(tick) for tick in ax.get_xticks() if 0 <= tick <= end]
    ax.set_xticks(ticks)
    for k, name in enumerate(found):
        mine = outcome[(labels == name).to_numpy()]
        table, color = curve(mine, level), palette[str(name)]
        events = int(mine.event.sum())
        text = f"{one_line(str(name), 24)}: {len(mine)} patients, {events} events"
        time, survival = table["time"].to_numpy(), table["survival"].to_numpy()
        ax.step(time, survival, where="post", color=color, linewidth=1.6, label=text)
        ax.fill_between(time, table["lower"], table["upper"], step="post", color=color, alpha=0.15,
                        linewidth=0)  # fmt: skip
        left = np.unique(mine.time[~mine.event])
        height = survival[np.searchsorted(time, left, "right") - 1]
        ax.plot(left, height, linestyle="none", marker="|", markersize=6, color=color)
        _at_risk(ax, mine, ticks, k, color, one_line(str(name), 14))
    _finish(ax, outcome, len(found), level)
    if len(found) > 1 and outcome.event.any():
        p = log_rank(outcome, list(labels)).p_value
        shown = f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"
        ax.set_title(f"log-rank p {shown}", fontsize=9, loc="left")
    return figure


def _finish(ax: Axes, outcome: Outcome, groups: int, level: float) -> None:
    unit = f" ({one_line(outcome.unit, 20)})" if outcome.unit else ""
    ax.set_xlabel(f"time{unit}; bands: {100 * level:g}%, pointwise", fontsize=9)
    ax.set_ylabel("survival", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    legend = ax.legend(fontsize=8, frameon=False, loc="best")
    plain(*legend.get_texts(), ax.xaxis.label)
    _under(ax, 0.0, -1, "number at risk", ha="left")


def _at_risk(ax: Axes, outcome: Outcome, ticks: list[float], k: int, color: str, name: str) -> None:
    """One line of counts under the axis: patients followed at least that long."""
    for tick in ticks:
        _under(ax, tick, k, str(int((outcome.time >= tick).sum())), color=color)
    _under(ax, 0.0, k, name, ha="right", left=14, color=color)


def _under(
    ax: Axes, time: float, line: int, text: str, *, ha: str = "center", left: float = 0,
    color: str = "black",
) -> None:  # fmt: skip
    """Text under the axis and its label, in lines of eleven points, whatever the axes' height."""
    note = ax.annotate(
        text, (time, 0), xycoords=ax.get_xaxis_transform(), xytext=(-left, -45 - 11 * line),
        textcoords="offset points", ha=ha, va="top", fontsize=8, color=color,
        annotation_clip=False,
    )  # fmt: skip
    plain(note)
