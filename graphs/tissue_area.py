"""How much tissue an image shows, judged by where its cells are.

A table of cells does not say how large the tissue was. Two estimates:

* ``"occupied"``: the squares of a grid, laid from the image's lower left cell, that hold a cell.
  Holes wider than a square are left out. A square of two regions is shared by number of cells, so
  regions add up to the whole. Too small where tissue without cells is wider than a square, too
  large by up to a square along the rim.
* ``"hull"``: the convex hull of the cells, holes and bays included, of all cells and of every
  region's; regions may overlap. Nothing (NaN) for fewer than three cells, or cells on a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from scipy.spatial import ConvexHull, QhullError

from graphs.cell_graph import Array, CellGraph
from neuralize.errors import InputError

TOTAL = "total"
Areas = Literal["occupied", "hull"] | Mapping[str, float] | pd.DataFrame


def squares(graph: CellGraph, side: float) -> tuple[Array, Array]:
    """The grid square of every cell ``(n,)``, and the image of every square ``(s,)``."""
    first = np.full((len(graph.image_names), 2), np.inf)
    np.minimum.at(first, graph.images, graph.positions[:, :2])
    steps = np.floor((graph.positions[:, :2] - first[graph.images]) / side).astype(np.int64)
    width = int(steps.max()) + 1
    keys = (graph.images * width + steps[:, 1]) * width + steps[:, 0]
    found, number = np.unique(keys, return_inverse=True)
    return number, found // (width * width)


def tissue_area(graph: CellGraph, areas: Areas = "occupied", side: float = 50.0) -> pd.DataFrame:
    """Square millimetres of every image: column ``total``, and one per tissue region.

    Parameters
    ----------
    graph
        Cells in micrometres, in a plane.
    areas
        ``"occupied"`` or ``"hull"``; or what is known better, in square millimetres: ``{image:
        area}``, or a table with one row an image, the column ``total`` and, if known, one column
        per region.
    side
        Of the grid's squares, in micrometres.

    Raises
    ------
    InputError
        Pixels of unknown size, cells in space, an image without an area, an area not above 0.

    Examples
    --------
    >>> corners = np.array([[0.0, 0], [60, 0], [0, 60], [60, 60]])
    >>> cells = CellGraph(corners, np.zeros(4, int), ("a",), np.zeros(4, int), ("i",), ("p",))
    >>> tissue_area(cells).loc["i", "total"], tissue_area(cells, "hull").loc["i", "total"]
    (np.float64(0.01), np.float64(0.0036))
    """
    graph.require_micrometres("An area")
    if graph.positions.shape[1] != 2:
        raise InputError("Expected cells in a plane for an area, got cells in space.")
    if not side > 0:
        raise InputError(f"Expected the side of a square above 0, got {side}.")
    if isinstance(areas, str):
        if areas not in ("occupied", "hull"):
            raise InputError(f"Expected areas 'occupied', 'hull' or a table, got {areas!r}.")
        found = _occupied(graph, side) if areas == "occupied" else _hull(graph)
        names = (TOTAL, *graph.region_names)
        return pd.DataFrame(found / 1e6, index=list(graph.image_names), columns=list(names))
    return _given(graph, areas)


def _given(graph: CellGraph, areas: Mapping[str, float] | pd.DataFrame) -> pd.DataFrame:
    table = areas if isinstance(areas, pd.DataFrame) else pd.DataFrame({TOTAL: dict(areas)})
    lacking = [name for name in graph.image_names if name not in table.index]
    if lacking:
        raise InputError(
            f"Expected the area of every image, got none for {lacking[0]!r} ({len(lacking)} of "
            f"{len(graph.image_names)})."
        )
    if TOTAL not in table.columns:
        raise InputError(f"Expected a column {TOTAL!r} of areas, got {list(table.columns)}.")
    names = [TOTAL, *(name for name in graph.region_names if name in table.columns)]
    found = table.loc[list(graph.image_names), names].astype(np.float64)
    broken = ~(found > 0)
    # A region may be absent from an image; the image may not.
    broken[names[1:]] &= ~(found[names[1:]] == 0)
    if broken.any(axis=None):
        row, column = np.argwhere(broken.to_numpy())[0]
        raise InputError(
            f"Expected areas above 0 in square millimetres, got {found.iloc[row, column]} for "
            f"{names[column]!r} of image {graph.image_names[row]!r}."
        )
    return found


def _occupied(graph: CellGraph, side: float) -> Array:
    square, image_of = squares(graph, side)
    images, regions = len(graph.image_names), len(graph.region_names)
    found = np.zeros((images, regions + 1))
    found[:, 0] = np.bincount(image_of, minlength=images) * side**2
    if graph.regions is not None:
        share = side**2 / np.bincount(square)[square]
        known = graph.regions >= 0
        codes = graph.images[known] * regions + graph.regions[known]
        found[:, 1:] = np.bincount(codes, share[known], images * regions).reshape(images, regions)
    return found


def _hull(graph: CellGraph) -> Array:
    region_of = np.full(len(graph), -1) if graph.regions is None else graph.regions
    found = np.full((len(graph.image_names), len(graph.region_names) + 1), np.nan)
    starts = np.cumsum([0, *graph.cells_per_image])
    for image in range(len(found)):
        cells = slice(starts[image], starts[image + 1])
        places = graph.positions[cells]
        found[image, 0] = _hull_of(places)
        for region in range(len(graph.region_names)):
            found[image, region + 1] = _hull_of(places[region_of[cells] == region])
    return found


def _hull_of(places: Array) -> float:
    if len(places) < 3:
        return float("nan") if len(places) else 0.0
    try:
        return float(ConvexHull(places - places.mean(0)).volume)
    except QhullError:
        return float("nan")
