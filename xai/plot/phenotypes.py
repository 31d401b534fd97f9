"""Which phenotypes raise or lower the risk: bars over patients, and pairs as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xai.errors import InputError
from xai.plot.figure import figure_and_axes
from xai.plot.intervals import Interval, interval_words, mean_intervals
from xai.plot.palette import group_colors
from xai.plot.scales import SIGNED, signed_colors, symmetric_limit
from xai.plot.words import one_line, plain, wrapped
from xai.relevance import Array

if TYPE_CHECKING:
    from graphs.relevance import GraphRelevance

NAME_WIDTH = 26
NUMBERED = 15
"""Phenotypes up to which a heat map has its numbers written in."""


def phenotype_bars(
    relevance: GraphRelevance,
    *,
    how: Literal["sum", "mean"] = "sum",
    groups: Sequence[Any] | pd.Categorical | None = None,
    interval: Interval = "t",
    level: float = 0.95,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Mean relevance of every phenotype over patients, with intervals; a dot is a patient.

    Parameters
    ----------
    relevance
        Of cells.
    how
        ``"sum"``: what all cells of a phenotype carry, 0 in patients without any. ``"mean"``: what
        one cell carries; patients without any do not count.
    groups
        ``(p,)``, such as risk groups, in the order of the graph's patients: a bar for each.
    interval, level, seed
        See :func:`xai.plot.intervals.mean_intervals`.
    ax
        Where to draw.

    Raises
    ------
    InputError
        Groups of another number, or what :func:`~xai.plot.intervals.mean_intervals` refuses.
    """
    table = relevance.by("phenotype", how)
    table = table.loc[:, _present(relevance)]
    if not np.isfinite(table.to_numpy()[~table.isna().to_numpy()]).all():
        raise InputError("Expected finite relevance to draw, got NaN or infinite values.")
    labels = _groups(groups, len(table))
    kinds = list(dict.fromkeys(labels)) if not isinstance(groups, pd.Categorical) else [
        name for name in groups.categories if name in set(labels)
    ]  # fmt: skip
    whole = mean_intervals(table, interval, level=level, seed=seed)
    order = whole["mean"].fillna(0).sort_values(key=lambda m: -m.abs(), kind="stable").index
    height = 0.34 * len(order) * max(1.0, 0.62 * len(kinds)) + 1.5
    figure, ax = figure_and_axes(ax, 6.6, height)
    thick = 0.8 / len(kinds)
    palette = group_colors([str(kind) for kind in kinds])
    for k, kind in enumerate(kinds):
        mine = table[[label == kind for label in labels]]
        found = mean_intervals(mine, interval, level=level, seed=seed).loc[order]
        y = np.arange(len(order)) - 0.4 + thick * (k + 0.5)
        means = found["mean"].to_numpy()
        single = groups is None
        name = None if single else f"{one_line(str(kind), 20)} ({_patients(len(mine))})"
        colors = signed_colors(means) if single else palette[str(kind)]
        ax.barh(y, means, height=0.85 * thick, color=colors, alpha=0.75, label=name)
        _dots(ax, mine[order], y, thick)
        known = found["lower"].notna().to_numpy()
        reach = np.abs(found[["lower", "upper"]].to_numpy().T - means)[:, known]
        ax.errorbar(
            means[known], y[known], xerr=reach, fmt="none", ecolor="black", elinewidth=1.1,
            capsize=2.5,
        )  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    shown = [one_line(str(name), NAME_WIDTH) for name in order]
    if how == "mean":
        counts = whole["patients"].loc[order]
        shown = [f"{name} (in {n})" for name, n in zip(shown, counts, strict=True)]
    ax.set_yticks(np.arange(len(order)), shown, fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    plain(*ax.get_yticklabels())
    if groups is not None:
        plain(*ax.legend(fontsize=8, frameon=False, loc="best").get_texts())
    unit = "of all its cells" if how == "sum" else "per cell"
    ax.set_xlabel(f"relevance {unit}, mean over patients;\npositive raises the risk", fontsize=9)
    spread = interval_words(interval, level) if len(table) > 1 else "no interval for one patient"
    ax.set_title(f"{_patients(len(table))}\nbars: mean, {spread}", fontsize=9, loc="left")
    return figure


def phenotype_pairs(
    table: pd.DataFrame, *, ax: Axes | None = None, limit: float | None = None
) -> Figure:
    """Heat map of relevance from phenotype (rows, whose features) to phenotype (columns, read).

    Parameters
    ----------
    table
        ``patient``, ``source``, ``readout``, ``relevance``, as
        :func:`graphs.interactions.phenotype_pairs` returns them. Shown is the mean over patients; a
        pair that a patient does not have counts as 0.
    ax
        Where to draw.
    limit
        End of the symmetric colours; the largest ``|R|`` unless given.

    Raises
    ------
    InputError
        A column that is missing, no rows, relevance that is not finite.
    """
    wanted = ("patient", "source", "readout", "relevance")
    missing = [name for name in wanted if name not in table.columns]
    if missing or not len(table):
        raise InputError(
            f"Expected rows with the columns {', '.join(wanted)}, got {len(table)} rows with "
            f"{', '.join(map(str, table.columns))}."
        )
    matrix, count = pair_matrix(table)
    end = symmetric_limit(matrix.to_numpy(), limit=limit)
    norm = Normalize(-end, end)
    side = 0.55 * len(matrix) + 1.4
    figure, ax = figure_and_axes(ax, max(side + 1.4, 4.2), max(side, 3.0))
    ax.imshow(matrix, cmap=SIGNED, norm=norm, interpolation="nearest")
    places = np.arange(len(matrix))
    names = [one_line(str(name), NAME_WIDTH) for name in matrix.index]
    ax.set_xticks(places, names, fontsize=8, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, names, fontsize=8)
    plain(*ax.get_xticklabels(), *ax.get_yticklabels())
    if len(matrix) <= NUMBERED:
        for i, row in enumerate(matrix.to_numpy()):
            for j, value in enumerate(row):
                color = "white" if abs(value) > 0.6 * end else "black"
                ax.text(
                    j, i, _rounded(value, end), ha="center", va="center", fontsize=7, color=color
                )
    ax.set_xlabel("read out at cells of", fontsize=9)
    ax.set_ylabel("features of cells of", fontsize=9)
    ax.set_title(
        wrapped(f"relevance, mean over {_patients(count)}", 48), fontsize=9, loc="left"
    )  # fmt: skip
    beyond = bool((np.abs(matrix.to_numpy()) > end).any())
    bar = figure.colorbar(
        ScalarMappable(norm, SIGNED), ax=ax, extend="both" if beyond else "neither", shrink=0.8
    )
    bar.set_label("positive raises the risk", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def pair_matrix(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Mean over patients, rows ``source``, columns ``readout``; and of how many patients.

    Examples
    --------
    >>> table = pd.DataFrame({"patient": ["1", "1", "2"], "source": ["T", "B", "T"],
    ...                       "readout": ["B", "B", "B"], "relevance": [1.0, 4.0, 2.0]})
    >>> pair_matrix(table)
    (readout    T    B
    source
    T        0.0  1.5
    B        0.0  2.0, 2)
    """
    names = list(dict.fromkeys([*table["source"], *table["readout"]]))
    count = int(table["patient"].nunique())
    sums = table.groupby(["source", "readout"], sort=False)["relevance"].sum().unstack()
    matrix = sums.reindex(index=names, columns=names).fillna(0.0) / count
    return matrix.rename_axis(index="source", columns="readout"), count


def _present(relevance: GraphRelevance) -> Array:
    """Which phenotypes have any cells, the unknown last, if there are any."""
    codes, count = relevance.graph.phenotypes, len(relevance.graph.phenotype_names)
    found = np.bincount(np.where(codes < 0, count, codes), minlength=count) > 0
    kept: Array = found[: count + int((codes < 0).any())]
    return kept


def _groups(groups: Sequence[Any] | pd.Categorical | None, count: int) -> list[Any]:
    if groups is None:
        return [""] * count
    labels = list(groups)
    if len(labels) != count or pd.isna(pd.Series(labels, dtype=object)).any():
        raise InputError(f"Expected a group for each of {count} patients, got {len(labels)}.")
    return labels


def _rounded(value: float, end: float) -> str:
    """A number to two digits of the largest one, ``end``."""
    text = f"{value:.{max(0, 1 - math.floor(math.log10(end)))}f}"
    return text.replace("-", "−") if float(text) else "0"


def _dots(ax: Axes, table: pd.DataFrame, y: Array, thick: float) -> None:
    """Every patient, spread over the bar's height by a fixed sequence, not at random."""
    if len(table) < 2:
        return
    # Multiples of the golden ratio, modulo 1, spread evenly whatever their number.
    spread = (np.arange(len(table)) * 0.6180339887 % 1 - 0.5) * 0.6 * thick
    for place, name in zip(y, table.columns, strict=True):
        ax.scatter(
            table[name], place + spread, s=5, color="black", alpha=0.25, linewidths=0, zorder=2,
            rasterized=True,
        )  # fmt: skip


def _patients(count: int) -> str:
    return f"{count} patient{'s' if count != 1 else ''}"
