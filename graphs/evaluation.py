r"""Whether relevance finds what is true, and whether the network uses what relevance shows.

* Truth is known (planted data): how often a true cell ranks above another one of the same image,

  ``AUROC = P(R_i > R_j) + P(R_i = R_j) / 2`` for true ``i`` and other ``j``

  (Mann, Whitney 1947). Cells of one image are compared with one another only, since images differ
  in risk as a whole; patients are the unit of statistics.
* Truth is not known: cells are taken away in the order of their relevance, most risk-raising first
  and most risk-lowering first, and the log hazard ``f`` is read again after each step (Samek et
  al., Evaluating the visualization of what a deep neural network has learned, TNNLS 2017). With
  ``f_q`` after a share ``q`` of the cells has gone, the areas are

  ``raising = mean_q (f_0 - f_q)``, ``lowering = mean_q (f_q - f_0)``, ``both`` their sum,

  so that more is better. Any order that ignores the model takes both from nothing: ``both`` is 0 on
  average over random orders, whatever the removal itself does to the graph, and it compares signed
  and unsigned scores alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import nn
from tqdm import tqdm

from graphs.cell_graph import CellGraph
from graphs.inputs import graph_input
from graphs.lrp import covariate_names, prepared
from graphs.partition import Partition
from neuralize.errors import InputError

Array = np.ndarray
Removal = Literal["delete", "mean", "unknown"]


def log_hazards(
    model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None = None, x: Any = None
) -> Array:
    """Log hazards ``(p,)`` in evaluation mode, of other features ``x`` ``(n, f)`` if given."""
    with prepared(model, None, None) as (net, dtype), torch.no_grad():
        device = next((p.device for p in net.parameters()), None)
        data = graph_input(graph, covariates, covariate_names(net)).to(device, dtype)
        features = data.x if x is None else torch.as_tensor(x).to(data.x)
        found: Array = net.of_features(features, data).double().cpu().numpy()
    return found


# -- deletion ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DeletionCurves:
    """Log hazards while cells go, by the order of some score.

    Attributes
    ----------
    shares
        Share of each patient's cells that is gone ``(k + 1,)``, from 0.
    raising
        Log hazards ``(p, k + 1)`` while the cells of highest score go first.
    lowering
        The same, lowest score first.
    """

    shares: Array
    raising: Array
    lowering: Array

    def areas(self, patients: Sequence[str] | None = None) -> pd.DataFrame:
        """Areas per patient: ``raising``, ``lowering`` and ``both``; log hazard, more is better.

        ``raising`` is how far the log hazard is below its start on average over the shares
        (trapezoids), ``lowering`` how far it is above it.

        Examples
        --------
        >>> curves = DeletionCurves(np.array([0, 0.5, 1]), np.array([[2.0, 1, 1]]),
        ...                         np.array([[2.0, 3, 4]]))
        >>> curves.areas()[["raising", "lowering", "both"]].values.tolist()
        [[0.75, 1.0, 1.75]]
        """
        width = self.shares[-1] - self.shares[0]
        down = np.trapezoid(self.raising[:, :1] - self.raising, self.shares, axis=1) / width
        up = np.trapezoid(self.lowering - self.lowering[:, :1], self.shares, axis=1) / width
        index = pd.Index(range(len(down)) if patients is None else patients, name="patient")
        return pd.DataFrame({"raising": down, "lowering": up, "both": down + up}, index=index)


def deletion_curves(
    model: nn.Module,
    graph: CellGraph,
    scores: Array,
    covariates: pd.DataFrame | None = None,
    *,
    shares: Sequence[float] = tuple(np.linspace(0, 0.5, 21)),
    removal: Removal = "delete",
    mean: Array | None = None,
    progress: bool = True,
) -> DeletionCurves:
    """Take cells away by their score, from every patient the same share, and read again.

    Parameters
    ----------
    scores
        One per cell ``(n,)``; positive should mean that it raises the risk.
    shares
        From 0, ascending, below 1: a patient keeps at least one cell.
    removal
        ``"delete"`` takes the cell and its edges away, so that degrees and readouts are those of
        the smaller graph; ``"mean"`` keeps the graph and gives the cell the features ``mean``;
        ``"unknown"`` keeps it and gives it no phenotype and no features (zeros).
    mean
        Features ``(f,)`` for ``"mean"``, such as the training cohort's; the graph's own by default.

    Raises
    ------
    InputError
        Scores of another length or not finite, shares that do not ascend from 0 to below 1.

    Examples
    --------
    >>> from graphs import CellGraphNet
    >>> _ = torch.manual_seed(0)
    >>> cells = CellGraph(np.zeros((4, 2)), np.array([0, 1, 0, 1]), ("a", "b"), np.zeros(4, int),
    ...                   ("i",), ("p",), edges=np.array([[0, 1], [1, 0]]))
    >>> net = CellGraphNet(in_features=2, hidden=4)
    >>> deletion_curves(net, cells, np.arange(4), shares=(0, 0.25, 0.5)).raising.shape
    (1, 3)
    """
    scores = _checked(scores, graph)
    steps = np.asarray(shares, np.float64)
    if (
        steps.ndim != 1
        or len(steps) < 2
        or steps[0] != 0
        or (np.diff(steps) <= 0).any()
        or steps[-1] >= 1
    ):
        raise InputError(f"Expected shares that ascend from 0 to below 1, got {list(shares)}.")
    if removal not in ("delete", "mean", "unknown"):
        raise InputError(f"Expected removal 'delete', 'mean' or 'unknown', got {removal!r}.")
    fill = None
    if removal != "delete":
        inputs = graph.inputs()
        fill = np.zeros(inputs.shape[1]) if removal == "unknown" else inputs.mean(0)
        if removal == "mean" and mean is not None:
            fill = np.asarray(mean, np.float64)
        if fill.shape != (inputs.shape[1],):
            raise InputError(f"Expected a mean ({inputs.shape[1]},), got {fill.shape}.")
    curves = []
    bar = tqdm(total=2 * len(steps), desc="deleting cells", disable=not progress, delay=2)
    with bar:
        for order in (-scores, scores):
            ranks, sizes = ranks_in_patients(order, graph)
            columns = []
            for share in steps:
                gone = ranks < np.minimum(np.floor(share * sizes + 1e-9), sizes - 1)
                columns.append(_without(model, graph, covariates, gone, fill))
                bar.update()
            curves.append(np.stack(columns, 1))
    return DeletionCurves(steps, curves[0], curves[1])


def _without(
    model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None, gone: Array,
    fill: Array | None,
) -> Array:  # fmt: skip
    if fill is None:
        return log_hazards(model, graph.subset(~gone), covariates)
    x = graph.inputs()
    x[gone] = fill
    return log_hazards(model, graph, covariates, x)


def ranks_in_patients(order: Array, graph: CellGraph) -> tuple[Array, Array]:
    """Rank of every cell in its patient ``(n,)``, smallest first, and the patient's cells ``(n,)``.

    Equal values keep the order of the cells.
    """
    return _ranks(order, graph.patient_of_cell)


def _ranks(order: Array, groups: Array) -> tuple[Array, Array]:
    sizes = np.bincount(groups)
    by_group = np.lexsort((order, groups))
    ranks = np.empty(len(order), np.int64)
    ranks[by_group] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks, sizes[groups]


def part_effects(
    model: nn.Module,
    graph: CellGraph,
    partition: Partition,
    covariates: pd.DataFrame | None = None,
    *,
    progress: bool = True,
) -> Array:
    """What each part does to the log hazard ``(g,)``: ``f`` less ``f`` of the tissue without it.

    One forward pass per part of the patient with the most parts. A counterfactual beside relevance:
    a part that switches a protective unit of the head off has an effect, and a unit that is off has
    no relevance to hand on. Parts that can stand in for one another hide each other here.

    Raises
    ------
    InputError
        A partition of other cells, or a part that is all a patient has.

    Examples
    --------
    >>> from graphs import CellGraphNet, grid_partition
    >>> _ = torch.manual_seed(0)
    >>> cells = CellGraph(np.array([[0.0, 0], [5, 0], [15, 0]]), np.array([0, 1, 0]), ("a", "b"),
    ...                   np.zeros(3, int), ("i",), ("p",), edges=np.array([[0, 1], [1, 0]]))
    >>> part_effects(CellGraphNet(in_features=2, hidden=4), cells, grid_partition(cells, 10)).shape
    (2,)
    """
    if len(partition.codes) != len(graph):
        raise InputError(
            f"Expected a partition of {len(graph)} cells, got one of {len(partition.codes)}."
        )
    of_image = np.repeat(np.arange(len(graph.patient_names)), graph.images_per_patient)
    patients = of_image[partition.images]
    counts = np.bincount(patients, minlength=len(graph.patient_names))
    if (counts == 1).any():
        name = graph.patient_names[int(np.flatnonzero(counts == 1)[0])]
        raise InputError(f"Expected at least two parts per patient, got one of patient {name!r}.")
    turn, _ = _ranks(np.arange(len(partition)), patients)
    whole = log_hazards(model, graph, covariates)
    effects = np.empty(len(partition))
    for k in tqdm(range(counts.max()), "deleting parts", disable=not progress, delay=2):
        # one part of every patient that has as many
        gone = turn == k
        rest = log_hazards(model, graph.subset(~gone[partition.codes]), covariates)
        effects[gone] = (whole - rest)[patients[gone]]
    return effects


# -- truth ---------------------------------------------------------------------------------------


def cell_auroc(scores: Array, truth: Array, graph: CellGraph) -> pd.Series[float]:
    """How well scores tell true cells from the others of their image, per patient ``(p,)``.

    Which scores: where the truth raises the risk, signed relevance, since cells of negative
    relevance speak against it; take ``abs`` only where the truth has no direction.

    Parameters
    ----------
    scores
        One per cell ``(n,)``.
    truth
        Booleans ``(n,)``.

    Returns
    -------
    Series
        Mean AUROC of a patient's images; images whose cells are all true, or all not, do not count,
        and a patient without any other image is NaN.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((4, 2)), np.zeros(4, int), ("a",), np.zeros(4, int), ("i",),
    ...                   ("p",))
    >>> float(cell_auroc(np.array([3, 1, 2, 0]), np.array([1, 1, 0, 0], bool), cells)["p"])
    0.75
    """
    scores, truth = _checked(scores, graph), _truth(truth, graph)
    found = np.array(
        [
            auroc(scores[part], truth[part])
            for part in np.split(np.arange(len(graph)), np.cumsum(graph.cells_per_image)[:-1])
        ]
    )
    return _patients(found, graph)


def auroc(scores: Array, truth: Array) -> float:
    """Area under the ROC curve; NaN if all are true or none.

    Examples
    --------
    >>> auroc(np.array([1, 1, 0]), np.array([True, False, False]))
    0.75
    """
    m, n = int(truth.sum()), int((~truth).sum())
    if not m or not n:
        return float("nan")
    return float((rankdata(scores)[truth].sum() - m * (m + 1) / 2) / (m * n))


def relevance_share(
    scores: Array,
    chosen: Array,
    graph: CellGraph,
    sign: Literal["positive", "absolute"] = "positive",
) -> pd.Series[float]:
    """Share of a patient's relevance that lies on some cells ``(p,)``.

    Parameters
    ----------
    chosen
        Booleans ``(n,)``: true cells, or those of one phenotype.
    sign
        Shares of what is positive, or of absolute values.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((3, 2)), np.zeros(3, int), ("a",), np.zeros(3, int), ("i",),
    ...                   ("p",))
    >>> float(relevance_share(np.array([3.0, 1, -4]), np.array([1, 0, 0], bool), cells)["p"])
    0.75
    """
    scores, chosen = _checked(scores, graph), _truth(chosen, graph)
    size = np.abs(scores) if sign == "absolute" else np.maximum(scores, 0)
    patients, p = graph.patient_of_cell, len(graph.patient_names)
    whole = np.bincount(patients, size, p)
    part = np.bincount(patients, size * chosen, p)
    with np.errstate(invalid="ignore"):
        return pd.Series(part / whole, pd.Index(graph.patient_names, name="patient"))


def part_auroc(
    scores: Array, truth: Array, partition: Partition, graph: CellGraph
) -> pd.Series[float]:
    """The same for parts of the tissue: relevance should be higher where more of a part is true.

    ``P(R_g > R_h)`` over pairs of parts of one image of which ``g`` has more true cells than ``h``,
    ties of relevance counting half (Harrell's C of parts; AUROC, if each part has none or one).

    Parameters
    ----------
    scores
        Of the cells ``(n,)``; summed over parts.

    Returns
    -------
    Series
        Per patient ``(p,)``, mean over images that have such pairs.
    """
    scores, truth = _checked(scores, graph), _truth(truth, graph)
    if len(partition.codes) != len(graph):
        raise InputError(
            f"Expected a partition of {len(graph)} cells, got one of {len(partition.codes)}."
        )
    sums, counts = partition.sums(scores), partition.sums(truth)
    found = []
    for image in range(len(graph.image_names)):
        mine = partition.images == image
        more = counts[mine][:, None] > counts[mine]
        r = sums[mine]
        wins = (r[:, None] > r) + 0.5 * (r[:, None] == r)
        found.append(wins[more].mean() if more.any() else np.nan)
    return _patients(np.array(found), graph)


def _patients(of_images: Array, graph: CellGraph) -> pd.Series[float]:
    """Mean over the images of each patient that have a number."""
    return pd.Series(of_images).groupby(pd.Index(graph.patients, name="patient"), sort=False).mean()


def _checked(scores: Array, graph: CellGraph) -> Array:
    values = np.asarray(scores, np.float64)
    if values.shape != (len(graph),):
        raise InputError(
            f"Expected a score for each of {len(graph)} cells, got shape {values.shape}. Sum "
            "relevance over features: GraphRelevance.cells."
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"Expected finite scores, got {values[~np.isfinite(values)][0]} for cell "
            f"{int(np.flatnonzero(~np.isfinite(values))[0])}."
        )
    return values


def _truth(truth: Array, graph: CellGraph) -> Array:
    values = np.asarray(truth)
    if values.shape != (len(graph),) or values.dtype != bool:
        raise InputError(
            f"Expected {len(graph)} booleans, got shape {values.shape} of {values.dtype}."
        )
    return values
