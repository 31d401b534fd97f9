"""A bar that says how long something is."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar  # type: ignore[import-untyped]


def scale_bar(ax: Axes, width: float, unit: str) -> None:
    """A bar under the lower left corner of axes that are ``width`` wide in ``unit``.

    Parameters
    ----------
    ax
        With equal axes.
    width
        Of the axes, in data units.
    unit
        ``"um"`` or ``"px"``.
    """
    length = round_length(width / 4)
    bar = AnchoredSizeBar(
        ax.transData,
        length,
        length_label(length, unit),
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes,
        pad=0,
        borderpad=0.4,
        sep=2,
        color="black",
        frameon=False,
        size_vertical=width / 120,
        prop={"size": 7},
    )
    ax.add_artist(bar)
    bar.set_clip_on(False)  # so that layouts leave room for it


def round_length(most: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``most``.

    Examples
    --------
    >>> [round_length(most) for most in (0.3, 170, 999.0)]
    [0.2, 100.0, 500.0]
    """
    power = 10.0 ** math.floor(math.log10(most))
    found = max(step for step in (1, 2, 5) if step * power <= most * (1 + 1e-12))
    return found * power


def length_label(length: float, unit: str) -> str:
    """The length in words.

    Examples
    --------
    >>> length_label(100.0, "um"), length_label(2000.0, "um"), length_label(5000.0, "px")
    ('100 µm', '2 mm', '5000 px')
    """
    if unit == "um":
        return f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    return f"{length:g} {unit}"
