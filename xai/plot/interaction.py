"""How far cells act together: how much of an explanation stays inside squares of growing size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from xai.errors import InputError
from xai.plot.figure import figure_and_axes
from xai.plot.palette import UNKNOWN

THIN_LINES = 40
"""Patients up to which each has a line of its own."""


def interaction_range_curve(
    table: pd.DataFrame, *, unit: str = "um", ax: Axes | None = None
) -> Figure:
    """Agreement with the whole explanation by size of the squares; median and quartiles.

    Agreement is ``1 - sum_i |R_i - R_i^inside| / sum_i |R_i|``: 1 where closing the borders changes
    no cell's relevance.

    Parameters
    ----------
    table
        ``cell_size``, ``patient``, ``agreement``, as :func:`graphs.interaction_range` returns them.
    unit
        Of the sizes.
    ax
        Where to draw.

    Raises
    ------
    InputError
        A column that is missing, no rows, values that are not finite, sizes not above 0.
    """
    wanted = ["cell_size", "patient", "agreement"]
    missing = [name for name in wanted if name not in table.columns]
    if missing or not len(table):
        raise InputError(
            f"Expected rows with the columns {', '.join(wanted)}, got {len(table)} rows with "
            f"{', '.join(map(str, table.columns))}."
        )
    numbers = table[["cell_size", "agreement"]].to_numpy(np.float64)
    if not np.isfinite(numbers).all() or (numbers[:, 0] <= 0).any():
        raise InputError("Expected finite agreement at sizes above 0.")
    wide = table.pivot_table("agreement", "cell_size", "patient", sort=True)
    sizes = wide.index.to_numpy(np.float64)
    figure, ax = figure_and_axes(ax, 5.6, 3.5)
    if 1 < wide.shape[1] <= THIN_LINES:
        ax.plot(sizes, wide, color=UNKNOWN, linewidth=0.5, alpha=0.6)
    low, middle, high = np.nanquantile(wide.to_numpy(), [0.25, 0.5, 0.75], axis=1)
    count = wide.shape[1]
    if count > 1:
        ax.fill_between(sizes, low, high, color="#0072b2", alpha=0.2, linewidth=0,
                        label="quartiles")  # fmt: skip
    label = f"median of {count} patients" if count > 1 else "1 patient"
    ax.plot(sizes, middle, color="#0072b2", marker="o", markersize=4, linewidth=1.6, label=label)
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", labelsize=8)
    ax.axhline(1, color="black", linewidth=0.6, linestyle=":")
    ax.set_ylim(min(0.0, float(low.min()) - 0.05), 1.05)
    ax.set_xlabel(f"edge of the squares ({'µm' if unit == 'um' else unit})", fontsize=9)
    ax.set_ylabel("agreement with\nthe whole explanation", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return figure
