"""Looking at relevance: bars, waterfalls and beeswarms for tables, heat maps for pictures.

Cell graphs have maps of tissue, bars over phenotypes, Kaplan-Meier curves and more of their own.
Every function returns a matplotlib Figure; nothing is shown, and pyplot is never imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xai.errors import InputError
from xai.plot.beeswarm import beeswarm
from xai.plot.card import card
from xai.plot.cells import tissue_map
from xai.plot.heat import anomaly_maps, heat_colors
from xai.plot.images import heatmap, overlay
from xai.plot.interaction import interaction_range_curve
from xai.plot.phenotypes import phenotype_bars, phenotype_pairs
from xai.plot.survival import kaplan_meier
from xai.plot.tables import bar, waterfall
from xai.relevance import Array, Relevance

Kind = Literal["bar", "waterfall", "beeswarm", "heatmap", "overlay"]
Rows = int | slice | Sequence[int] | Array

MAX_PICTURES = 16
"""Pictures drawn when nobody says which; the title says how many there are."""


def plot(
    relevance: Relevance,
    kind: Kind | None = None,
    *,
    rows: Rows | None = None,
    ax: Axes | None = None,
    max_features: int = 15,
    limit: float | None = None,
    quantile: float | None = None,
) -> Figure:
    """Draw relevance; see :meth:`xai.relevance.Relevance.plot`."""
    if kind is not None and kind not in get_args(Kind):
        known = ", ".join(map(repr, get_args(Kind)))
        raise InputError(f"Expected kind {known} or None, got {kind!r}.")
    chosen = relevance if rows is None else select(relevance, rows)
    if not len(chosen):
        raise InputError("Expected at least one row to draw, got none.")
    if kind is None:
        kind = default_kind(chosen)
    if kind in ("heatmap", "overlay"):
        draw = heatmap if kind == "heatmap" else overlay
        if rows is None and ax is None and len(chosen) > MAX_PICTURES:
            first = chosen[:MAX_PICTURES]
            return draw(first, limit=limit, quantile=quantile, first_of=len(chosen))
        return draw(chosen, ax=ax, limit=limit, quantile=quantile)
    if quantile is not None:
        raise InputError(f"quantile= sets the colour scale of pictures; kind {kind!r} has none.")
    table = {"bar": bar, "waterfall": waterfall, "beeswarm": beeswarm}[kind]
    return table(chosen, ax=ax, max_features=max_features, limit=limit)


def default_kind(relevance: Relevance) -> Kind:
    """Heat map for pictures, waterfall for one row of a table, beeswarm for several."""
    if relevance.is_image:
        return "heatmap"
    return "waterfall" if len(relevance) == 1 else "beeswarm"


def select(relevance: Relevance, rows: Rows) -> Relevance:
    """Some rows that keep their numbers: a row without a name is called by its place, ``"row 3"``.

    Raises
    ------
    InputError
        Rows that do not exist.
    """
    try:
        places = np.arange(len(relevance))[rows].reshape(-1)
    except IndexError as error:
        raise InputError(
            f"Expected rows of an explanation of {len(relevance)} rows, got {rows!r}: {error}."
        ) from error
    names = relevance.row_names
    labels = tuple(f"row {i}" if names is None else names[i] for i in places)
    return replace(relevance[places], row_names=labels)


__all__ = [
    "Kind",
    "Rows",
    "anomaly_maps",
    "bar",
    "beeswarm",
    "card",
    "heat_colors",
    "heatmap",
    "interaction_range_curve",
    "kaplan_meier",
    "overlay",
    "phenotype_bars",
    "phenotype_pairs",
    "plot",
    "tissue_map",
    "waterfall",
]
