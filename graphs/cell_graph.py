"""``CellGraph``: cells with their places, phenotypes and neighbours, of one image or of a cohort.

One object holds any number of images and patients, because cohorts are read, built and explained
in one go. Cells of one image lie together, images of one patient too; edges stay in their image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuralize.errors import InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

Array = np.ndarray
Unit = Literal["um", "px"]


@dataclass(frozen=True, eq=False)
class CellGraph:
    """Cells, where they are, what they are and which are neighbours.

    Parameters
    ----------
    positions
        Centres ``(n, 2)`` or ``(n, 3)``, in ``unit``.
    phenotypes
        Codes ``(n,)`` into ``phenotype_names``; -1 where the phenotype is not known.
    phenotype_names
        What the codes stand for.
    images
        Codes ``(n,)`` into ``image_names``, ascending: cells of an image lie together.
    image_names
        One name per image, all different.
    patients
        The patient of every image; images of one patient follow one another.
    edges
        ``(2, e)``: cell ``edges[0]`` sends to cell ``edges[1]``. An undirected graph holds both
        directions. None: not built yet.
    features
        Further measurements ``(n, f)``, such as marker intensities.
    feature_names
        One name per feature.
    regions
        Codes ``(n,)`` into ``region_names`` (tissue regions); -1 where not known.
    region_names
        What they stand for.
    cell_ids
        The cells' own names ``(n,)``, as they were read.
    unit
        ``"um"`` for micrometres, or ``"px"`` for pixels of unknown size.

    Raises
    ------
    InputError
        Coordinates that are not finite, codes or edges out of range, edges across images, images
        or patients in pieces, lengths that differ.

    Examples
    --------
    >>> graph = CellGraph(
    ...     positions=np.array([[0.0, 0.0], [10.0, 0.0], [5.0, 5.0]]),
    ...     phenotypes=np.array([0, 1, 0]), phenotype_names=("T cell", "tumour"),
    ...     images=np.array([0, 0, 1]), image_names=("1_1", "1_2"), patients=("1", "1"),
    ...     edges=np.array([[0, 1], [1, 0]]))
    >>> graph
    <CellGraph 3 cells, 2 images, 1 patients, 2 edges, 2 phenotypes, um>
    >>> graph.image("1_2").phenotypes.tolist()
    [0]
    """

    positions: Array
    phenotypes: Array
    phenotype_names: tuple[str, ...]
    images: Array
    image_names: tuple[str, ...]
    patients: tuple[str, ...]
    edges: Array | None = None
    features: Array | None = None
    feature_names: tuple[str, ...] = ()
    regions: Array | None = None
    region_names: tuple[str, ...] = ()
    cell_ids: Array | None = None
    unit: Unit = "um"

    def __post_init__(self) -> None:
        from graphs.validation import validated

        for name, value in validated(self).items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        edges = "no edges yet" if self.edges is None else f"{self.edges.shape[1]} edges"
        return (
            f"<CellGraph {len(self)} cells, {len(self.image_names)} images, "
            f"{len(self.patient_names)} patients, {edges}, {len(self.phenotype_names)} "
            f"phenotypes, {self.unit}>"
        )

    # -- cohort ------------------------------------------------------------------------------

    @property
    def patient_names(self) -> tuple[str, ...]:
        """Every patient once, in order."""
        return tuple(dict.fromkeys(self.patients))

    @property
    def cells_per_image(self) -> Array:
        """Number of cells of every image ``(i,)``."""
        return np.bincount(self.images, minlength=len(self.image_names))

    @property
    def images_per_patient(self) -> Array:
        """Number of images of every patient ``(p,)``."""
        names = self.patient_names
        codes = {name: k for k, name in enumerate(names)}
        return np.bincount([codes[p] for p in self.patients], minlength=len(names))

    @property
    def patient_of_cell(self) -> Array:
        """Codes ``(n,)`` into :attr:`patient_names`."""
        of_image = np.repeat(np.arange(len(self.patient_names)), self.images_per_patient)
        found: Array = of_image[self.images]
        return found

    def patient(self, *names: str) -> CellGraph:
        """The cells of some patients, in the order of this graph.

        Raises
        ------
        InputError
            No patient of that name.
        """
        self._known(names, self.patient_names, "patient")
        chosen = np.array([p in names for p in self.patients])
        return self.subset(chosen[self.images])

    def image(self, *names: str) -> CellGraph:
        """The cells of some images.

        Raises
        ------
        InputError
            No image of that name.
        """
        self._known(names, self.image_names, "image")
        chosen = np.array([i in names for i in self.image_names])
        return self.subset(chosen[self.images])

    @staticmethod
    def _known(names: Sequence[str], known: Sequence[str], what: str) -> None:
        missing = [name for name in names if name not in set(known)]
        if missing:
            raise InputError(
                f"Expected a {what} of the {len(known)} in this graph "
                f"({', '.join(map(repr, known[:3]))} ...), got {missing[0]!r}."
            )

    def subset(self, keep: Array) -> CellGraph:
        """The cells where ``keep`` ``(n,)`` is true, with the edges among them.

        Raises
        ------
        InputError
            A mask of another length, or one that keeps nothing.
        """
        keep = np.asarray(keep)
        if keep.shape != (len(self),) or keep.dtype != bool:
            raise InputError(f"Expected a mask of {len(self)} booleans, got shape {keep.shape}.")
        if not keep.any():
            raise InputError("Expected a mask that keeps at least one cell, got none.")
        counts = np.bincount(self.images[keep], minlength=len(self.image_names))
        left = np.flatnonzero(counts)
        edges = self.edges
        if edges is not None:
            number = np.cumsum(keep) - 1
            edges = number[edges[:, keep[edges[0]] & keep[edges[1]]]]

        def of(values: Array | None) -> Array | None:
            return None if values is None else values[keep]

        renumbered = np.full(len(self.image_names), -1)
        renumbered[left] = np.arange(len(left))
        return replace(
            self,
            positions=self.positions[keep],
            phenotypes=self.phenotypes[keep],
            images=renumbered[self.images[keep]],
            image_names=tuple(self.image_names[i] for i in left),
            patients=tuple(self.patients[i] for i in left),
            edges=edges,
            features=of(self.features),
            regions=of(self.regions),
            cell_ids=of(self.cell_ids),
        )

    def with_edges(self, edges: Array) -> CellGraph:
        """The same cells with other edges ``(2, e)``."""
        return replace(self, edges=edges)

    # -- for networks ------------------------------------------------------------------------

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`inputs`."""
        return (*self.phenotype_names, *self.feature_names)

    def inputs(self) -> Array:
        """What a network reads ``(n, p + f)``: phenotypes one-hot, then the features.

        A cell of unknown phenotype is zero in all of the first ``p`` columns.

        Examples
        --------
        >>> CellGraph(np.zeros((2, 2)), np.array([1, -1]), ("a", "b"), np.array([0, 0]), ("i",),
        ...           ("p",)).inputs().tolist()
        [[0.0, 1.0], [0.0, 0.0]]
        """
        one_hot = np.zeros((len(self), len(self.phenotype_names)), np.float32)
        known = np.flatnonzero(self.phenotypes >= 0)
        one_hot[known, self.phenotypes[known]] = 1
        if self.features is None:
            return one_hot
        return np.concatenate([one_hot, self.features.astype(np.float32)], 1)

    def require_edges(self) -> Array:
        """The edges ``(2, e)``.

        Raises
        ------
        InputError
            The graph has not been built yet.
        """
        if self.edges is None:
            raise InputError(
                "Expected a graph with edges, got cells without. Build it first: knn_graph(cells, "
                "k=3), radius_graph(cells, radius=20) or delaunay_graph(cells, max_edge=50)."
            )
        return self.edges

    def require_micrometres(self, what: str) -> None:
        """Refuse to read pixels as micrometres.

        Raises
        ------
        InputError
            Positions in pixels.
        """
        if self.unit != "um":
            raise InputError(
                f"{what} is in micrometres, and the positions are in pixels of unknown size. Read "
                "the cells again with mpp=<micrometres per pixel>."
            )

    def to_pyg(self) -> Data:
        """A PyG ``Data``: ``x``, ``edge_index``, ``pos``, ``batch`` (the image of every cell)."""
        import torch
        from torch_geometric.data import Data

        return Data(
            x=torch.from_numpy(self.inputs()),
            edge_index=torch.from_numpy(self.require_edges()),
            pos=torch.from_numpy(self.positions),
            batch=torch.from_numpy(self.images),
        )


def each_patient(graph: CellGraph) -> Iterator[tuple[slice, CellGraph]]:
    """Patient by patient: which cells, and their graph; one pass over the edges for all.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((3, 2)), np.zeros(3, int), ("a",), np.array([0, 1, 2]),
    ...                   ("1", "2", "3"), ("p", "p", "q"))
    >>> [(part.start, part.stop, len(one)) for part, one in each_patient(cells)]
    [(0, 2, 2), (2, 3, 1)]
    """
    cells = np.cumsum([0, *np.add.reduceat(graph.cells_per_image, _firsts(graph))]).tolist()
    images = np.cumsum([0, *graph.images_per_patient]).tolist()
    edges = graph.edges
    if edges is not None:
        whose = np.searchsorted(cells, edges[0], "right")
        if (np.diff(whose) < 0).any():
            edges = edges[:, np.argsort(whose, kind="stable")]
            whose.sort()
        cuts = np.searchsorted(whose, np.arange(1, len(cells) + 1))

    def of(values: Array | None, part: slice) -> Array | None:
        return None if values is None else values[part]

    for k in range(len(cells) - 1):
        part, some = slice(cells[k], cells[k + 1]), slice(images[k], images[k + 1])
        yield (
            part,
            replace(
                graph,
                positions=graph.positions[part],
                phenotypes=graph.phenotypes[part],
                images=graph.images[part] - images[k],
                image_names=graph.image_names[some],
                patients=graph.patients[some],
                edges=None if edges is None else edges[:, cuts[k] : cuts[k + 1]] - cells[k],
                features=of(graph.features, part),
                regions=of(graph.regions, part),
                cell_ids=of(graph.cell_ids, part),
            ),
        )


def _firsts(graph: CellGraph) -> Array:
    """The first image of every patient."""
    starts: Array = np.cumsum([0, *graph.images_per_patient[:-1]])
    return starts


def concatenated(graphs: Sequence[CellGraph]) -> CellGraph:
    """Several graphs as one, images and patients in their order.

    Raises
    ------
    InputError
        None at all; other units, phenotypes, features or regions; an image or a patient twice.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((1, 2)), np.array([0]), ("a",), np.array([0]), ("1",), ("1",))
    >>> other = replace(cells, image_names=("2",), patients=("2",))
    >>> concatenated([cells, other]).images.tolist()
    [0, 1]
    """
    if not graphs:
        raise InputError("Expected at least one graph, got none.")
    first = graphs[0]
    for name in ("unit", "phenotype_names", "feature_names", "region_names"):
        for k, graph in enumerate(graphs):
            if getattr(graph, name) != getattr(first, name):
                raise InputError(
                    f"Expected graphs with one {name}, got {getattr(first, name)!r} and, in number "
                    f"{k}, {getattr(graph, name)!r}."
                )
    cells = np.cumsum([0, *(len(g) for g in graphs)])
    images = np.cumsum([0, *(len(g.image_names) for g in graphs)])

    def joined(name: str, axis: int = 0, offsets: Array | None = None) -> Any:
        parts = [getattr(g, name) for g in graphs]
        if any(part is None for part in parts):
            if all(part is None for part in parts):
                return None
            raise InputError(f"Expected {name} in all graphs or in none, got some without.")
        if offsets is not None:
            parts = [part + offset for part, offset in zip(parts, offsets, strict=False)]
        return np.concatenate(parts, axis)

    return replace(
        first,
        positions=joined("positions"),
        phenotypes=joined("phenotypes"),
        images=joined("images", offsets=images),
        image_names=tuple(name for g in graphs for name in g.image_names),
        patients=tuple(name for g in graphs for name in g.patients),
        edges=joined("edges", 1, cells),
        features=joined("features"),
        regions=joined("regions"),
        cell_ids=joined("cell_ids"),
    )
