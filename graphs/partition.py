"""Partitions of the cells: a grid of any size and offset, tissue regions, clusters, neighbourhoods.

Parts never span images. Cells whose label is not known get a part of their own, so that every cell
is in exactly one and the parts' relevances add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphs.cell_graph import CellGraph
from neuralize.errors import InputError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Partition:
    """Which part each cell belongs to.

    Attributes
    ----------
    codes
        ``(n,)``, from 0 without gaps.
    names
        One per part.
    images
        The image of each part ``(g,)``, as codes of the graph.
    bounds
        For grids, the lower corner of each part ``(g, d)``; None otherwise.
    size
        For grids, the edge length of a part.
    """

    codes: Array
    names: tuple[str, ...]
    images: Array
    bounds: Array | None = None
    size: float | None = None

    def __len__(self) -> int:
        return len(self.names)

    def sums(self, values: Array) -> Array:
        """Sum of ``values`` ``(n,)`` over every part ``(g,)``."""
        found: Array = np.bincount(self.codes, weights=values, minlength=len(self))
        return found

    @property
    def cells(self) -> Array:
        """Number of cells in every part ``(g,)``."""
        return np.bincount(self.codes, minlength=len(self))


def grid_partition(
    graph: CellGraph, cell_size: float, offset: Sequence[float] | float = 0.0
) -> Partition:
    """Squares of edge length ``cell_size``, in the graph's unit; parts without cells do not exist.

    Parameters
    ----------
    cell_size
        Edge length.
    offset
        Where a corner of the grid lies, one number or one per axis.

    Raises
    ------
    InputError
        A size that is not a positive number, an offset of another dimension.

    Examples
    --------
    >>> cells = CellGraph(np.array([[1.0, 1], [9, 1], [11, 1]]), np.zeros(3, int), ("a",),
    ...                   np.zeros(3, int), ("image",), ("patient",))
    >>> grid_partition(cells, 10).codes.tolist(), grid_partition(cells, 10, offset=5).codes.tolist()
    ([0, 0, 1], [0, 1, 1])
    """
    if not (np.isfinite(cell_size) and cell_size > 0):
        raise InputError(f"Expected a cell_size above 0 in {graph.unit}, got {cell_size}.")
    d = graph.positions.shape[1]
    corner = np.asarray(offset, np.float64)
    if corner.ndim > 1 or (corner.ndim == 1 and len(corner) != d) or not np.isfinite(corner).all():
        raise InputError(f"Expected an offset of one number or {d}, got {offset!r}.")
    boxes = np.floor((graph.positions - corner) / cell_size)
    keys, codes = _distinct(np.column_stack([graph.images, boxes.astype(np.int64)]))
    names = tuple(
        f"{graph.image_names[image]} ({', '.join(map(str, box))})" for image, *box in keys.tolist()
    )
    return Partition(codes, names, keys[:, 0], keys[:, 1:] * cell_size + corner, float(cell_size))


def partition_by(graph: CellGraph, labels: Array | str) -> Partition:
    """Parts of equal label within an image.

    Parameters
    ----------
    labels
        ``"region"``, ``"phenotype"``, ``"image"``, or any labels ``(n,)``: clusters, annotations.

    Raises
    ------
    InputError
        Labels of another length, or regions that the graph does not have.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((3, 2)), np.array([0, 1, 0]), ("a", "b"), np.zeros(3, int),
    ...                   ("image",), ("patient",))
    >>> partition_by(cells, "phenotype").names
    ('image a', 'image b')
    """
    if isinstance(labels, str):
        labels = _labels(graph, labels)
    labels = np.asarray(labels)
    if labels.shape != (len(graph),):
        raise InputError(f"Expected {len(graph)} labels, one per cell, got {labels.shape}.")
    distinct, numbers = np.unique(labels.astype(str), return_inverse=True)
    keys, codes = _distinct(np.column_stack([graph.images, numbers]))
    names = tuple(f"{graph.image_names[i]} {distinct[k]}".strip() for i, k in keys.tolist())
    return Partition(codes, names, keys[:, 0])


def _labels(graph: CellGraph, what: str) -> Array:
    def named(codes: Array, names: tuple[str, ...]) -> Array:
        found: Array = np.array([*names, "not known"], object)[codes]
        return found

    if what == "region":
        if graph.regions is None:
            raise InputError("Expected a graph with regions, got one without; pass labels instead.")
        return named(graph.regions, graph.region_names)
    if what == "phenotype":
        return named(graph.phenotypes, graph.phenotype_names)
    if what == "image":
        return np.full(len(graph), "")
    raise InputError(f"Expected 'region', 'phenotype', 'image' or labels (n,), got {what!r}.")


def neighbourhoods(graph: CellGraph, count: int = 8, hops: int = 2, seed: int = 0) -> Array:
    """Phenotype neighbourhoods: k-means clusters of what lies around each cell.

    The composition of a cell's surroundings, itself included and ``hops`` edges far (weighted by
    the number of ways there), is clustered over all images.

    Returns
    -------
    Array
        Labels ``(n,)`` for :func:`partition_by`.

    Raises
    ------
    InputError
        No edges, or fewer cells than clusters.
    """
    from scipy.sparse import csr_array
    from sklearn.cluster import KMeans

    if not 1 <= count <= len(graph):
        raise InputError(f"Expected 1 to {len(graph)} neighbourhoods, got {count}.")
    edges, n = graph.require_edges(), len(graph)
    a = csr_array((np.ones(edges.shape[1]), (edges[1], edges[0])), shape=(n, n))
    around = np.eye(len(graph.phenotype_names) + 1)[graph.phenotypes]
    for _ in range(hops):
        around = around + a @ around
        around /= around.sum(1, keepdims=True)
    found: Array = KMeans(count, n_init=4, random_state=seed).fit_predict(around)
    return found


def _distinct(keys: Array) -> tuple[Array, Array]:
    """Distinct rows in order, and which of them each row is."""
    found, codes = np.unique(keys, axis=0, return_inverse=True)
    return found, codes.reshape(-1)
