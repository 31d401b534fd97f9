"""Walks: relevance along sequences of cells, of sets of cells, and the walks that matter most.

The relevance of a walk ``(n_0, ..., n_l)`` is what travels from the readout after layer ``l``,
where cell ``n_l`` is read, over ``n_{l-1}``, ... to the features of ``n_0`` (GNN-LRP: Schnake et
al., TPAMI 2021). A set of cells takes one pass: the same mask after every layer gives the sum over
all walks inside (sGNN-LRP: Xiong et al., ICML 2022); with ``a`` instead of 0 outside, walks that
touch the set count ``a`` per step outside it,

    ``R_S^a = (mask 1 in S, a outside) - (mask 0 in S, a outside)``.

There are ``n d^l`` walks: single walks are for small graphs and for checking what is summed over
them. For parts of large graphs use a partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from graphs.cell_graph import CellGraph
from graphs.inputs import graph_input
from graphs.lrp import Bag, covariate_names, graph_composite, prepared
from graphs.routes import Route, following
from neuralize.composites import Composite
from neuralize.errors import InputError
from neuralize.lrp import LRP, Trace

Array = np.ndarray

MOST_WALKS = 200_000
"""More walks than this are not enumerated."""


class Walker:
    """One patient's graph, traced once, through which relevance is sent along chosen routes."""

    def __init__(self, trace: Trace, route: Route, free: Tensor, layers: int) -> None:
        self.trace, self.route, self.layers = trace, route, layers
        self.free, self.n = free, len(free)

    def through(self, masks: dict[tuple[str, int], Tensor]) -> Tensor:
        """Relevance ``(n, f)`` of what passes the masks ``(n,)``."""
        self.route.masks.update(masks)
        relevance, _ = self.trace.relevance(self.trace.output)
        return relevance[0]

    def through_each(self, masks: dict[tuple[str, int], Tensor]) -> Tensor:
        """The same for ``k`` sets of masks ``(k, n)`` at once: ``(k, n, f)``."""
        places = list(masks)

        def propagate(*each: Tensor) -> Tensor:
            self.route.masks.update(zip(places, each, strict=True))
            (found,) = torch.autograd.grad(
                self.trace.result, self.trace.leaf, self.trace.output, retain_graph=True
            )
            return found[0]

        found: Tensor = torch.func.vmap(propagate)(*masks.values())
        self.route.masks.update(dict.fromkeys(masks, self.free))  # none may outlive its vmap
        return found


@contextmanager
def walker(
    model: nn.Module,
    graph: CellGraph,
    covariates: pd.DataFrame | None = None,
    composite: Composite | str | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
) -> Iterator[Walker]:
    """Trace one patient through one network, ready to send relevance along routes.

    Raises
    ------
    InputError
        Several patients, or an ensemble: explain its members, relevance is linear.
    """
    if len(graph.patient_names) != 1:
        raise InputError(
            f"Expected the graph of one patient, got {len(graph.patient_names)}; use "
            "graph.patient(name)."
        )
    if hasattr(model, "members"):
        raise InputError("Expected one network, got an ensemble; ask its members one by one.")
    with prepared(model, dtype, device) as (net, of_type):
        layers = blocks_of(net)
        data = graph_input(graph, covariates, covariate_names(net)).to(device, of_type)
        free = torch.ones(len(graph), dtype=data.x.dtype, device=data.x.device)
        places = [("layer", k) for k in range(layers + 1)]
        places += [("readout", k) for k in range(1, layers + 1)]
        watched = frozenset(("read", k) for k in range(1, layers + 1))
        route = Route(masks=dict.fromkeys(places, free), watched=watched)
        lrp = LRP(Bag(net, data), composite or graph_composite())
        with following(route):
            trace = lrp.trace(data.x[None], keep=True)
            yield Walker(trace, route, free, layers)


def subgraph_relevance(
    model: nn.Module,
    graph: CellGraph,
    cells: Array | Sequence[int],
    covariates: pd.DataFrame | None = None,
    *,
    outside: float = 0.0,
    composite: Composite | str | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
) -> float:
    """Relevance of a set of cells: of all walks inside it, or of those that touch it.

    Parameters
    ----------
    cells
        Numbers of the cells, of one patient.
    outside
        0: only walks inside. Up to 1: walks that touch the set count ``outside`` per step outside
        it; with 1, every walk that touches it counts in full.

    Raises
    ------
    InputError
        No cells, cells out of range, ``outside`` not between 0 and 1, several patients.

    Examples
    --------
    >>> from graphs import CellGraphNet
    >>> _ = torch.manual_seed(0)
    >>> cells = CellGraph(np.array([[0.0, 0], [5, 0], [5, 5]]), np.array([0, 1, 0]),
    ...                   ("T", "tumour"), np.zeros(3, int), ("image",), ("patient",),
    ...                   edges=np.array([[0, 1, 1, 2], [1, 0, 2, 1]]))
    >>> net = CellGraphNet(in_features=2, hidden=8)
    >>> inside, touching = (subgraph_relevance(net, cells, [0, 1], outside=a) for a in (0, 1))
    >>> inside == touching
    False
    """
    chosen = _cells(cells, len(graph))
    if not 0 <= outside <= 1:
        raise InputError(f"Expected outside from 0 to 1, got {outside}.")
    with walker(model, graph, covariates, composite, dtype, device) as walk:
        mask = torch.full_like(walk.free, outside)
        mask[chosen] = 1
        found = walk.through({("layer", k): mask for k in range(walk.layers + 1)}).sum()
        if outside:
            mask = mask.clone()
            mask[chosen] = 0
            found = found - walk.through({("layer", k): mask for k in range(walk.layers + 1)}).sum()
    return float(found)


def walk_relevance(
    model: nn.Module,
    graph: CellGraph,
    walks: Sequence[Sequence[int]] | Array,
    covariates: pd.DataFrame | None = None,
    *,
    composite: Composite | str | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    chunk: int = 64,
) -> Array:
    """Relevance of single walks ``(w,)``.

    Parameters
    ----------
    walks
        ``(n_0, ..., n_l)`` each: from the cell whose features count to the cell that is read out
        after layer ``l``, with ``1 <= l <= blocks``.
    chunk
        Walks that travel together; memory is that many times the hidden features.

    Raises
    ------
    InputError
        A walk that is too short or too long, or names a cell that does not exist.
    """
    with walker(model, graph, covariates, composite, dtype, device) as walk:
        found = np.zeros(len(walks))
        lengths = np.array([len(w) - 1 for w in walks])
        bad = np.flatnonzero((lengths < 1) | (lengths > walk.layers))
        if len(bad):
            raise InputError(
                f"Expected walks of 1 to {walk.layers} steps (the network's blocks), got "
                f"{lengths[bad[0]]} for walk {bad[0]}."
            )
        for length in np.unique(lengths):
            number = np.flatnonzero(lengths == length)
            steps = np.stack([_cells(walks[k], walk.n) for k in number.tolist()])
            for begin in range(0, len(number), chunk):
                part = slice(begin, begin + chunk)
                found[number[part]] = _along(walk, steps[part], int(length))
    return found


def _along(walk: Walker, steps: Array, length: int) -> Array:
    """Relevance of walks ``(k, length + 1)``, all of one length."""
    k = len(steps)
    masks: dict[tuple[str, int], Tensor] = {}
    for layer in range(walk.layers + 1):
        mask = walk.free.new_zeros(k, walk.n)
        if layer <= length:
            mask[np.arange(k), steps[:, layer]] = 1
        masks[("layer", layer)] = mask
        if layer:
            masks[("readout", layer)] = walk.free.new_full((k, walk.n), float(layer == length))
    found: Array = walk.through_each(masks).sum((1, 2)).double().cpu().numpy()
    return found


def top_walks(
    model: nn.Module,
    graph: CellGraph,
    count: int = 10,
    covariates: pd.DataFrame | None = None,
    *,
    length: int | None = None,
    composite: Composite | str | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
) -> pd.DataFrame:
    """The walks of the largest relevance, by size, of all there are.

    Parameters
    ----------
    count
        How many.
    length
        Steps of the walks; as many as the network has blocks by default.

    Returns
    -------
    DataFrame
        ``walk`` (cells, from features to readout), ``phenotypes``, ``relevance``.

    Raises
    ------
    InputError
        More than :data:`MOST_WALKS` walks: take the graph of a part.
    """
    length = length or blocks_of(model)
    walks = all_walks(graph, length)
    found = walk_relevance(
        model, graph, walks, covariates, composite=composite, dtype=dtype, device=device
    )
    best = np.argsort(-np.abs(found), kind="stable")[:count]
    names = np.array([*graph.phenotype_names, "not known"], object)[graph.phenotypes]
    return pd.DataFrame(
        {
            "walk": [tuple(walks[k].tolist()) for k in best],
            "phenotypes": [" > ".join(names[walks[k]]) for k in best],
            "relevance": found[best],
        }
    )


def all_walks(graph: CellGraph, length: int) -> Array:
    """Every walk of ``length`` steps over edges and self-loops ``(w, length + 1)``.

    Raises
    ------
    InputError
        More than :data:`MOST_WALKS`.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((2, 2)), np.zeros(2, int), ("a",), np.zeros(2, int), ("i",),
    ...                   ("p",), edges=np.array([[0], [1]]))
    >>> all_walks(cells, 1).tolist()
    [[0, 0], [0, 1], [1, 1]]
    """
    n, edges = len(graph), graph.require_edges()
    loops = np.arange(n)
    pairs = np.unique(np.concatenate([edges, np.stack([loops, loops])], 1), axis=1)
    starts = np.searchsorted(pairs[0], np.arange(n + 1))
    walks = loops[:, None]
    for _ in range(length):
        counts = np.diff(starts)[walks[:, -1]]
        if counts.sum() > MOST_WALKS:
            raise InputError(
                f"Expected a graph with at most {MOST_WALKS} walks of {length} steps, got more "
                f"({n} cells). Take the cells around one: graph.subset(mask)."
            )
        first = np.repeat(starts[walks[:, -1]], counts)
        within = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        walks = np.column_stack([np.repeat(walks, counts, 0), pairs[1][first + within]])
    return walks


def blocks_of(net: nn.Module) -> int:
    """Number of layers of a network.

    Raises
    ------
    InputError
        Not a network of this package.
    """
    blocks = getattr(getattr(net, "config", None), "blocks", None)
    if not isinstance(blocks, int):
        raise InputError(f"Expected a CellGraphNet, got {type(net).__name__}.")
    return blocks


def _cells(cells: Any, n: int) -> Array:
    chosen = np.asarray(cells)
    if chosen.ndim != 1 or not len(chosen) or not np.issubdtype(chosen.dtype, np.integer):
        raise InputError(f"Expected numbers of cells, got {cells!r}.")
    if chosen.min() < 0 or chosen.max() >= n:
        raise InputError(f"Expected cells from 0 to {n - 1}, got {chosen.min()} to {chosen.max()}.")
    return chosen
