"""Relevance over cell graphs: which cells, in which parts of the tissue, drive a predicted risk.

Inspired by xCG's grid-based LRP (Sextro et al., arXiv 2411.07643), whose method section this does
not follow. For a partition of the cells, the relevance of every part comes from one forward and one
backward pass: a walk stays in its part iff each of its edges does, and closing the other edges to
relevance leaves every forward value, hence every denominator, as it is. So

    ``log hazard = sum_g R_g + R_across + R_covariates + R_bias``.

Rules are those of :mod:`neuralize.rules`, carried by the same engine as for any network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from graphs.cell_graph import CellGraph, each_patient
from graphs.inputs import GraphInput, graph_input
from graphs.network import CellGraphNet, ConvLinear
from graphs.partition import Partition, grid_partition
from graphs.relevance import GraphRelevance, averaged
from graphs.routes import Route, following
from neuralize.composites import AVERAGES, Composite
from neuralize.engine.operations.elementwise import SumKind
from neuralize.errors import InputError
from neuralize.lrp import LRP
from neuralize.rules.named import Epsilon, Gamma, Norm

Array = np.ndarray


def graph_composite(gamma: float = 0.25, epsilon: float = 1e-6) -> Composite:
    """Gamma in the convolutions' linear maps, Epsilon in encoder and head, sums by their shares.

    The head gets no gamma: a log hazard has no zero, and where it is nearly zero, gamma would take
    all relevance away from parts that balance one another.

    Examples
    --------
    >>> graph_composite(0.5).name
    'GraphGamma(0.5)'
    """
    return Composite(
        f"GraphGamma({gamma:g})",
        (
            (ConvLinear, Gamma(gamma, epsilon)),
            (nn.Linear, Epsilon(epsilon)),
            ((SumKind, *AVERAGES, nn.BatchNorm2d), Norm(epsilon)),
        ),
    )


def explain(
    model: nn.Module,
    graph: CellGraph,
    covariates: pd.DataFrame | None = None,
    *,
    partition: Partition | None = None,
    composite: Composite | str | None = None,
    reference: float | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    progress: bool = True,
) -> GraphRelevance:
    """Relevance of every cell for the log hazard of its patient.

    Patients are explained one by one, so memory is that of the largest.

    Parameters
    ----------
    model
        A :class:`~graphs.network.CellGraphNet`, or an ensemble with ``members`` and ``how``: the
        mean of relevances for a mean, those of the median member for a median.
    graph
        With edges.
    covariates
        A table with patients as index, if the model uses any.
    partition
        Only walks that stay in their part count for cells; the rest is absorbed as
        ``"across parts"``.
    composite
        Rules, :func:`graph_composite` by default.
    reference
        A log hazard to compare with, kept beside the result.
    dtype
        ``torch.float64`` explains a copy of the model in double precision.
    progress
        Whether to show a bar over the patients.

    Raises
    ------
    InputError
        A graph or covariates that do not fit, a partition of other cells.
    NoRuleError
        An operation of the model without a rule.

    Examples
    --------
    >>> from graphs import CellGraph, CellGraphNet
    >>> _ = torch.manual_seed(0)
    >>> cells = CellGraph(np.array([[0.0, 0], [5, 0], [5, 5]]), np.array([0, 1, 0]),
    ...                   ("T", "tumour"), np.zeros(3, int), ("image",), ("patient",),
    ...                   edges=np.array([[0, 1, 1, 2], [1, 0, 2, 1]]))
    >>> net = CellGraphNet(in_features=2, hidden=8)
    >>> found = explain(net, cells, dtype=torch.float64)
    >>> found.values.shape, bool(abs(found.conservation_error[0]) < 1e-12)
    ((3, 2), True)
    """
    if partition is not None and len(partition.codes) != len(graph):
        raise InputError(
            f"Expected a partition of the graph's {len(graph)} cells, got one of "
            f"{len(partition.codes)}."
        )
    members = list(getattr(model, "members", [model]))
    found = [
        _one(member, graph, covariates, partition, composite, dtype, device, progress, reference)
        for member in members
    ]
    if len(found) == 1:
        return found[0]
    return averaged(found, member_weights(found, getattr(model, "how", "mean")))


def _one(
    model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None,
    partition: Partition | None, composite: Any, dtype: torch.dtype | None, device: Any,
    progress: bool, reference: float | None,
) -> GraphRelevance:  # fmt: skip
    with prepared(model, dtype, device) as (net, of_type):
        names = covariate_names(net)
        graph_input(graph, covariates, names)  # refuses all that does not fit before any work
        hazards, values = [], []
        shares: list[dict[str, float]] = []
        composite = composite or graph_composite()
        rules: Composite | None = None
        patients = tqdm(
            each_patient(graph), "explaining patients", len(graph.patient_names),
            disable=not progress, delay=2,
        )  # fmt: skip
        with patients as bar:
            for mine, cells in bar:
                data = graph_input(cells, covariates, names).to(device, of_type)
                lrp = LRP(Bag(net, data), composite)
                rules = lrp.composite
                parts = None if partition is None else torch.from_numpy(partition.codes[mine])
                with following(Route(parts=None if parts is None else parts.to(data.x.device))):
                    trace = lrp.trace(data.x[None])
                    relevance, absorbed = trace.relevance(trace.output)
                hazards.append(float(trace.output))
                values.append(relevance[0].double().cpu().numpy())
                shares.append({named(k): float(v.detach()) for k, v in absorbed.items()})
    keys = list(dict.fromkeys(key for row in shares for key in row))
    return GraphRelevance(
        np.concatenate(values),
        graph,
        np.array(hazards),
        {key: np.array([row.get(key, 0.0) for row in shares]) for key in keys},
        partition,
        rules.name if rules is not None else "",
        reference,
    )


class Bag(nn.Module):
    """One patient as a batch of one row: ``(1, n, f) -> (1,)``."""

    def __init__(self, net: CellGraphNet, data: GraphInput) -> None:
        super().__init__()
        self.net, self.data = net, data

    def forward(self, x: Tensor) -> Tensor:
        """Log hazard ``(1,)`` of features ``x`` ``(1, n, f)``."""
        return self.net.of_features(x[0], self.data)


def named(share: str) -> str:
    """What an absorbed share is called: parameters of covariates by the covariate."""
    parts = share.split(".")
    if "covariates" in parts[:-1]:
        return f"covariate {parts[parts.index('covariates') + 1]}"
    return share


def covariate_names(net: nn.Module) -> tuple[str, ...]:
    """Names of the covariates a network wants."""
    config = getattr(net, "config", None)
    return tuple(getattr(config, "covariates", ()))


@contextmanager
def prepared(
    model: nn.Module, dtype: torch.dtype | None, device: Any
) -> Iterator[tuple[CellGraphNet, torch.dtype]]:
    """The model in eval mode, on the device; a copy if it has to be another type."""
    if not hasattr(model, "of_features"):
        raise InputError(
            f"Expected a CellGraphNet or an ensemble of them, got {type(model).__name__}. PyG "
            "models are explained by graphs.pyg."
        )
    own = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    target = torch.device(device) if device is not None else own.device
    kind = dtype or own.dtype
    if kind != own.dtype or target != own.device:
        model = copy.deepcopy(model).to(target, kind)
    training = model.training
    model.eval()
    try:
        # anything with the same method serves; ensembles have it as well
        yield cast(CellGraphNet, model), kind
    finally:
        model.train(training)


def member_weights(found: Sequence[GraphRelevance], how: str) -> Array:
    """How much each member counts for each patient ``(m, p)``: equally, or the median one.

    Of an even number of members, the two in the middle count half each.

    Raises
    ------
    InputError
        Neither ``"mean"`` nor ``"median"``.
    """
    hazards = np.stack([one.log_hazard for one in found])
    m, p = hazards.shape
    if how == "mean":
        return np.full((m, p), 1 / m)
    if how != "median":
        raise InputError(f"Expected an ensemble by 'mean' or 'median', got {how!r}.")
    order = np.argsort(hazards, 0, kind="stable")
    weights = np.zeros((m, p))
    for middle in {(m - 1) // 2, m // 2}:
        weights[order[middle], np.arange(p)] += 1
    total: Array = weights / weights.sum(0)
    return total


def grid_relevance(
    model: nn.Module,
    graph: CellGraph,
    cell_size: float,
    covariates: pd.DataFrame | None = None,
    *,
    offsets: int = 1,
    composite: Composite | str | None = None,
    reference: float | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    progress: bool = True,
) -> GraphRelevance:
    """Relevance of the squares of a grid, from walks that stay inside one.

    Parameters
    ----------
    cell_size
        Edge length of a square, in the graph's unit.
    offsets
        Number of shifts along each axis to average over, against the accident of where borders lie:
        ``offsets=2`` is four grids in two dimensions. Cells then hold the average; parts are those
        of the first grid.
    composite, reference, dtype, device, progress
        As :func:`explain` takes them.

    Examples
    --------
    >>> from graphs import CellGraph, CellGraphNet
    >>> _ = torch.manual_seed(0)
    >>> cells = CellGraph(np.array([[0.0, 0], [5, 0], [15, 0]]), np.array([0, 1, 0]),
    ...                   ("T", "tumour"), np.zeros(3, int), ("image",), ("patient",),
    ...                   edges=np.array([[0, 1, 1, 2], [1, 0, 2, 1]]))
    >>> found = grid_relevance(CellGraphNet(in_features=2, hidden=8), cells, 10)
    >>> found.parts()[["part", "cells"]].values.tolist()
    [['image (0, 0)', 2], ['image (1, 0)', 1]]
    """
    if offsets < 1:
        raise InputError(f"Expected at least one offset, got {offsets}.")
    found = []
    for shift in np.ndindex(*[offsets] * graph.positions.shape[1]):
        partition = grid_partition(graph, cell_size, [k * cell_size / offsets for k in shift])
        found.append(
            explain(
                model, graph, covariates, partition=partition, composite=composite,
                reference=reference, dtype=dtype, device=device, progress=progress,
            )
        )  # fmt: skip
    return found[0] if len(found) == 1 else averaged(found)


def interaction_range(
    model: nn.Module,
    graph: CellGraph,
    cell_sizes: Sequence[float],
    covariates: pd.DataFrame | None = None,
    *,
    composite: Composite | str | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    """How much of the explanation stays inside squares of growing size.

    Returns
    -------
    DataFrame
        Per size and patient: ``parts``; ``inside``, the sum of relevance from walks that stay in
        their square; ``across``, what walks between squares carry; ``agreement``,
        ``1 - sum_i |R_i - R_i^inside| / sum_i |R_i|``, which is 1 where borders change no cell's
        relevance and does not divide by a log hazard that may be zero.
    """
    shown = partial(
        explain, model, graph, covariates, composite=composite, dtype=dtype, device=device,
        progress=progress,
    )  # fmt: skip
    whole = shown()
    codes, p = graph.patient_of_cell, len(whole)
    size = np.bincount(codes, weights=np.abs(whole.cells), minlength=p)
    rows = []
    for cell_size in cell_sizes:
        partition = grid_partition(graph, cell_size)
        found = shown(partition=partition)
        lost = np.bincount(codes, weights=np.abs(whole.cells - found.cells), minlength=p)
        of_patient = codes[np.unique(partition.codes, return_index=True)[1]]
        rows.append(
            pd.DataFrame(
                {
                    "cell_size": float(cell_size),
                    "patient": graph.patient_names,
                    "parts": np.bincount(of_patient, minlength=p),
                    "inside": found.patient_sums,
                    "across": found.absorbed["across parts"],
                    "agreement": 1 - lost / np.maximum(size, np.finfo(np.float64).tiny),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)
