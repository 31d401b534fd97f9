"""Which cells are neighbours: the k nearest, all within a radius, or Delaunay's triangles.

Image by image, so that no edge crosses images; a cell without neighbours stays. Every edge is there
in both directions, sorted by sender and receiver, none twice, none from a cell to itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.spatial import Delaunay, QhullError, cKDTree
from tqdm import tqdm

from graphs.cell_graph import Array, CellGraph, Unit
from neuralize.errors import InputError

THREADED = 20_000
"""Cells of an image from which threads are worth starting."""


def knn_graph(
    graph: CellGraph,
    k: int = 3,
    max_edge: float | None = None,
    *,
    unit: Unit = "um",
    workers: int = -1,
    progress: bool = True,
) -> CellGraph:
    """Joins every cell to its ``k`` nearest of the same image.

    Two cells are neighbours if one is among the ``k`` nearest of the other, so a cell may have more
    than ``k``. Among equally far cells the search tree chooses. In an image of at most ``k`` cells
    all are joined.

    Parameters
    ----------
    graph
        Cells; edges they have are replaced.
    k
        Nearest cells, the cell itself not counted.
    max_edge
        Longest edge, in ``unit``; None for no limit.
    unit
        Of ``max_edge``. Cells in pixels refuse micrometres; say ``"px"`` to mean pixels.
    workers
        Threads of the search in large images; -1 for all cores.
    progress
        A bar over the images, if it takes longer than two seconds.

    Raises
    ------
    InputError
        ``k`` below 1, a length not above 0, or in another unit than the cells.

    Examples
    --------
    >>> cells = CellGraph(np.array([[0.0, 0], [1, 0], [3, 0]]), np.zeros(3, int), ("a",),
    ...                   np.zeros(3, int), ("image",), ("patient",))
    >>> knn_graph(cells, k=1).edges
    array([[0, 1, 1, 2],
           [1, 0, 2, 1]])
    >>> knn_graph(cells, k=1, max_edge=1.5).edges
    array([[0, 1],
           [1, 0]])
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"Expected k, a whole number of at least 1, got {k!r}.")
    limit = math.inf
    if max_edge is not None:
        limit = _length(graph, max_edge, "max_edge", unit)

    def nearest(places: Array) -> Array:
        n = len(places)
        wanted = min(k, n - 1)
        if wanted < 1:
            return np.zeros((2, 0), np.int64)
        tree = cKDTree(places)
        # Asked in the order of the tree's leaves, neighbours meet the same memory: 3 times faster.
        numbers = tree.indices
        threads = workers if n > THREADED else 1
        answer = tree.query(places[numbers], wanted + 1, workers=threads)
        distances, found = np.asarray(answer[0]), np.asarray(answer[1])
        numbers = numbers[:, None]
        # The cell itself comes first, or, under cells at its very place, later or not at all.
        other = found != numbers
        other[other.all(1), -1] = False
        near = (distances[other] <= limit).reshape(n, wanted)
        senders = np.broadcast_to(numbers, near.shape)[near]
        return np.stack([senders, found[other].reshape(n, wanted)[near]])

    return graph.with_edges(_by_image(graph, nearest, "nearest cells", progress))


def radius_graph(
    graph: CellGraph, radius: float, *, unit: Unit = "um", progress: bool = True
) -> CellGraph:
    """Joins cells of an image that are at most ``radius`` apart.

    Parameters
    ----------
    graph
        Cells; edges they have are replaced.
    radius
        In ``unit``.
    unit
        Of ``radius``. Cells in pixels refuse micrometres; say ``"px"`` to mean pixels.
    progress
        A bar over the images, if it takes longer than two seconds.

    Raises
    ------
    InputError
        A length not above 0, or in another unit than the cells.

    Examples
    --------
    >>> cells = CellGraph(np.array([[0.0, 0], [20, 0], [41, 0]]), np.zeros(3, int), ("a",),
    ...                   np.zeros(3, int), ("image",), ("patient",))
    >>> radius_graph(cells, 20).edges
    array([[0, 1],
           [1, 0]])
    """
    limit = _length(graph, radius, "radius", unit)

    def within(places: Array) -> Array:
        pairs: Array = cKDTree(places).query_pairs(limit, output_type="ndarray").T
        return pairs

    return graph.with_edges(_by_image(graph, within, "cells within the radius", progress))


def delaunay_graph(
    graph: CellGraph, max_edge: float, *, unit: Unit = "um", progress: bool = True
) -> CellGraph:
    """Joins the corners of Delaunay's triangles (tetrahedra in space), up to a length.

    The limit is required: triangles at the rim of the tissue and across holes are long and join
    cells that never met. Cells on one line are joined along it; cells at the very same place are
    joined to one another and share their neighbours.

    Parameters
    ----------
    graph
        Cells; edges they have are replaced.
    max_edge
        Longest edge, in ``unit``; ``math.inf`` to keep all.
    unit
        Of ``max_edge``. Cells in pixels refuse micrometres; say ``"px"`` to mean pixels.
    progress
        A bar over the images, if it takes longer than two seconds.

    Raises
    ------
    InputError
        A length not above 0, or in another unit than the cells.

    Examples
    --------
    >>> cells = CellGraph(np.array([[0.0, 0], [9, 1], [0, 9], [99, 9]]), np.zeros(4, int), ("a",),
    ...                   np.zeros(4, int), ("image",), ("patient",))
    >>> delaunay_graph(cells, max_edge=50).edges
    array([[0, 0, 1, 1, 2, 2],
           [1, 2, 0, 2, 0, 1]])
    """
    limit = _length(graph, max_edge, "max_edge", unit)

    def triangles(places: Array) -> Array:
        distinct, copy_of = np.unique(places, axis=0, return_inverse=True)
        pairs = _copies(_delaunay(distinct), copy_of.reshape(-1))
        lengths = np.linalg.norm(places[pairs[0]] - places[pairs[1]], axis=1)
        return pairs[:, lengths <= limit]

    return graph.with_edges(_by_image(graph, triangles, "triangles", progress))


def _length(graph: CellGraph, value: float, what: str, unit: Unit) -> float:
    """A length above 0, in the unit the cells are in."""
    if unit not in ("um", "px"):
        raise InputError(f"Expected unit 'um' or 'px', got {unit!r}.")
    if not value > 0:
        raise InputError(f"Expected {what} above 0, got {value}.")
    if graph.unit == "um" and unit == "px":
        raise InputError(f"Expected {what} in micrometres, as the cells are, got pixels.")
    if graph.unit == "px" and unit == "um" and math.isfinite(value):
        raise InputError(
            f"Expected {what} in pixels, for the positions are in pixels of unknown size; "
            f"{what}={value} means micrometres. Read the cells again with mpp=<micrometres per "
            f"pixel>, or pass {what}=<pixels>, unit='px'."
        )
    return float(value)


def _by_image(
    graph: CellGraph, pairs_of: Callable[[Array], Array], what: str, progress: bool
) -> Array:
    """The pairs of every image ``(2, e)``, in both directions, sorted, each once."""
    n = len(graph)
    starts = np.cumsum([0, *graph.cells_per_image])
    found = []
    images = list(pairwise(starts))
    for start, stop in tqdm(images, delay=2, disable=not progress, desc=what):
        a, b = pairs_of(graph.positions[start:stop]).astype(np.int64) + start
        # One number per pair: sorting numbers is far faster than sorting columns.
        keys = np.sort(np.concatenate([a * n + b, b * n + a]))
        again = keys[1:] == keys[:-1]
        keys[1:][again] = -1
        found.append(keys[keys >= 0])
    return np.stack(np.divmod(np.concatenate(found), n))


def _delaunay(places: Array) -> Array:
    """Pairs ``(2, e)`` among distinct places, each at least once, in one direction or both."""
    if len(places) < 2:
        return np.zeros((2, 0), np.int64)
    centred = places - places.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    rank = max(1, int((spread > 1e-10 * spread[0]).sum()))
    # Cells in a plane or on a line, whatever its direction, are triangulated within it.
    while rank > 1:
        flat = centred if rank == places.shape[1] else centred @ axes[:rank].T
        try:
            found = Delaunay(flat)
        except QhullError:  # flatter than it can tell
            rank -= 1
            continue
        corners = found.simplices
        sides = [corners[:, [i, j]] for i in range(rank + 1) for j in range(i)]
        # Places that Qhull could not tell from another hang on that one.
        return np.concatenate([*sides, found.coplanar[:, [0, 2]]]).T
    order = np.argsort(centred @ axes[0], kind="stable")
    return np.stack([order[:-1], order[1:]])


def _copies(pairs: Array, copy_of: Array) -> Array:
    """Pairs of places as pairs of cells; cells at one place are pairs too.

    Parameters
    ----------
    pairs
        ``(2, e)`` numbers of places.
    copy_of
        ``(n,)``: the place of every cell.
    """
    order = np.argsort(copy_of, kind="stable")
    counts = np.bincount(copy_of)
    if counts.max() == 1:
        found: Array = order[pairs]
        return found
    starts = np.cumsum(counts) - counts
    crowded = np.flatnonzero(counts > 1)
    pairs = np.concatenate([pairs, np.stack([crowded, crowded])], 1)
    a, b = pairs
    each = counts[a] * counts[b]
    within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    a, b = np.repeat(a, each), np.repeat(b, each)
    first, second = np.divmod(within, counts[b])
    cells = np.stack([order[starts[a] + first], order[starts[b] + second]])
    found = cells[:, cells[0] != cells[1]]
    return found
