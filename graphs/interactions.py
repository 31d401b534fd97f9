"""Which cells act together: pairs of phenotypes, readouts, and neighbouring parts.

* Pairs: ``R[p, q]`` is what the features of cells of phenotype ``p`` carry through the readout of
  cells of phenotype ``q``; for ``p = q`` mostly the cells themselves. Over all pairs it adds up to
  what all cells carry.
* Readouts: what reaches the log hazard through the maximum or the mean after each layer.
* Coupling of two parts: ``R_{g+h} - R_g - R_h``, the walks that use both and stay in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from graphs.cell_graph import CellGraph, each_patient
from graphs.lrp import explain
from graphs.network import CellGraphNet
from graphs.partition import Partition
from graphs.walks import walker
from neuralize.composites import Composite
from neuralize.errors import InputError

Array = np.ndarray


def phenotype_pairs(
    model: nn.Module,
    graph: CellGraph,
    covariates: pd.DataFrame | None = None,
    *,
    composite: Composite | str | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
) -> pd.DataFrame:
    """Relevance from phenotype to phenotype: one row per patient, source and readout.

    Returns
    -------
    DataFrame
        ``patient``, ``source`` (whose features), ``readout`` (which cells are read), ``relevance``.
    """
    names = [*graph.phenotype_names, "not known"]
    rows = []
    for member in members(model):
        for _, cells in each_patient(graph):
            codes = np.where(cells.phenotypes < 0, len(names) - 1, cells.phenotypes)
            with walker(member, cells, covariates, composite, dtype, device) as walk:
                for q in np.unique(codes):
                    mask = torch.from_numpy(codes == q).to(walk.free)
                    masks = {("readout", k): mask for k in range(1, walk.layers + 1)}
                    found = walk.through(masks).sum(1).double().cpu().numpy()
                    sums = np.bincount(codes, weights=found, minlength=len(names))
                    rows += [
                        (cells.patient_names[0], names[p], names[q], sums[p])
                        for p in np.unique(codes)
                    ]
    table = pd.DataFrame(rows, columns=["patient", "source", "readout", "relevance"])
    keys = ["patient", "source", "readout"]
    total = table.groupby(keys, sort=False).relevance.sum() / len(members(model))
    return total.reset_index()


def readout_shares(
    model: nn.Module,
    graph: CellGraph,
    covariates: pd.DataFrame | None = None,
    *,
    composite: Composite | str | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
) -> pd.DataFrame:
    """What arrives at each readout ``(p, layers x kinds)``: before biases below take their share.

    Columns are named as ``"layer 1 max"``.
    """
    total: pd.DataFrame | None = None
    for member in members(model):
        kinds = member.config.readouts
        rows = {}
        for _, cells in each_patient(graph):
            with walker(member, cells, covariates, composite, dtype, device) as walk:
                walk.through({})
                rows[cells.patient_names[0]] = {
                    f"layer {k} {kind}": float(part.sum())
                    for k in range(1, walk.layers + 1)
                    for kind, part in zip(
                        kinds, walk.route.seen[("read", k)].chunk(len(kinds), -1), strict=True
                    )
                }
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("patient")
        total = table if total is None else total + table
    assert total is not None
    return total / len(members(model))


def coupling(
    model: nn.Module,
    graph: CellGraph,
    partition: Partition,
    covariates: pd.DataFrame | None = None,
    *,
    composite: Composite | str | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    """What neighbouring parts carry together beyond each alone, ``R_{g+h} - R_g - R_h``.

    Pairs that share no part are merged in the same pass: as many passes as the busiest part has
    neighbours (four on a grid whose edges cross sides only), not one per pair.

    Returns
    -------
    DataFrame
        ``first``, ``second`` (parts), ``edges`` (between them), ``coupling``.
    """
    shown = partial(
        explain, model, graph, covariates, composite=composite, dtype=dtype, device=device,
        progress=progress,
    )  # fmt: skip
    alone = shown(partition=partition)
    single = partition.sums(alone.cells)
    pairs, counts = neighbouring(graph, partition)
    found = np.zeros(len(pairs))
    for chosen in matchings(pairs):
        merged = np.arange(len(partition))
        merged[pairs[chosen, 1]] = pairs[chosen, 0]
        codes = merged[partition.codes]
        joint = Partition(codes, partition.names, partition.images)
        both = shown(partition=joint)
        sums = joint.sums(both.cells)
        g, h = pairs[chosen].T
        found[chosen] = sums[g] - single[g] - single[h]
    names = np.array(partition.names, object)
    return pd.DataFrame(
        {
            "first": names[pairs[:, 0]],
            "second": names[pairs[:, 1]],
            "edges": counts,
            "coupling": found,
        }
    )


def members(model: nn.Module) -> list[CellGraphNet]:
    """The networks of an ensemble whose hazards are averaged, or the one network.

    Raises
    ------
    InputError
        A median, whose member differs from patient to patient.
    """
    found: list[CellGraphNet] = list(getattr(model, "members", [model]))
    if len(found) > 1 and getattr(model, "how", "mean") != "mean":
        raise InputError(
            "Expected one network or an ensemble by mean; for a median, ask the member that is it."
        )
    return found


def neighbouring(graph: CellGraph, partition: Partition) -> tuple[Array, Array]:
    """Pairs of parts with edges between them ``(k, 2)``, and how many edges."""
    ends = np.sort(partition.codes[graph.require_edges()], 0)
    between = ends[:, ends[0] != ends[1]]
    pairs, counts = np.unique(between.T, axis=0, return_counts=True)
    return pairs.reshape(-1, 2), counts


def matchings(pairs: Array) -> Iterator[Array]:
    """The pairs in rounds, none of which uses a part twice (greedy edge colouring).

    Examples
    --------
    >>> [chosen.tolist() for chosen in matchings(np.array([[0, 1], [1, 2], [2, 3]]))]
    [[0, 2], [1]]
    """
    used: dict[int, set[int]] = {}
    rounds: dict[int, list[int]] = {}
    for k, (g, h) in enumerate(pairs.tolist()):
        taken = used.setdefault(g, set()) | used.setdefault(h, set())
        number = next(r for r in range(len(taken) + 1) if r not in taken)
        used[g].add(number)
        used[h].add(number)
        rounds.setdefault(number, []).append(k)
    for number in sorted(rounds):
        yield np.array(rounds[number])
