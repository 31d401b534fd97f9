"""What a check of a graph network gets to see: patients, their cells, risks, and what-ifs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from graphs.batches import PatientBatches
from graphs.cell_graph import CellGraph
from graphs.inputs import GraphInput
from graphs.lrp import explain
from graphs.relevance import GraphRelevance
from xai.audit.check import Question
from xai.audit.context import Rescored
from xai.relevance import Array

if TYPE_CHECKING:
    import pandas as pd

CELLS_AT_ONCE = 20_000
"""Cells that go through the network at a time, unless one patient has more."""

DECISIONS = "risk groups"
"""What a decision is here: whether a patient's risk is above the median."""


@dataclass(eq=False)
class GraphContext:
    """Everything checks of a graph network share; what is costly is computed once.

    Attributes
    ----------
    net
        A :class:`~graphs.network.CellGraphNet` or an ensemble.
    graph
        The cells of all patients, with edges.
    covariates
        A table with patients as index, if the network uses any.
    labels, groups
        Class of every patient, and where their tissue comes from (site, scanner) ``(p,)``; or None.
    suspects
        Phenotypes or features that should not matter, by name.
    join
        What joins cells with their neighbours, to do it again after cells have moved; or None.
    seed
        Of everything random.
    progress
        Whether to show a bar on work that takes longer than two seconds.
    """

    net: nn.Module
    graph: CellGraph
    covariates: pd.DataFrame | None = None
    labels: Array | None = None
    groups: Array | None = None
    suspects: tuple[str, ...] = ()
    join: Callable[[CellGraph], CellGraph] | None = None
    seed: int = 0
    progress: bool = True

    def __len__(self) -> int:
        return len(self.graph.patient_names)

    @property
    def rng(self) -> np.random.Generator:
        """A fresh generator, so that no check depends on which ran before it."""
        return np.random.default_rng(self.seed)

    @cached_property
    def relevance(self) -> GraphRelevance:
        """Relevance of every cell, in double precision."""
        return explain(
            self.net, self.graph, self.covariates, dtype=torch.float64, progress=self.progress
        )

    # -- risks -------------------------------------------------------------------------------

    @cached_property
    def risks(self) -> Array:
        """Log hazard of every patient ``(p,)``, in float64."""
        return self._risks(self.batches, np.arange(len(self)))

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the log hazards over the patients."""
        return float(self.risks.std())

    @cached_property
    def threshold(self) -> float:
        """The median log hazard, which divides the patients into two risk groups."""
        return float(np.median(self.risks))

    @cached_property
    def decision(self) -> Array:
        """Whether a patient's risk is above the median ``(p,)``."""
        above: Array = self.risks > self.threshold
        return above

    # -- what if -----------------------------------------------------------------------------

    @cached_property
    def batches(self) -> PatientBatches:
        """The cohort, cut into images."""
        return self._cut(self.graph)

    def rescore(self, rows: Array, altered: Array | CellGraph) -> Rescored:
        """Ask about other inputs of the same cells ``(c, f)``, or about another graph.

        Parameters
        ----------
        rows
            Patients ``(k,)``, ascending.
        altered
            Inputs of all their cells, in the order of :meth:`cells_of`; or a graph of these
            patients.
        """
        if isinstance(altered, CellGraph):
            risks = self._risks(self._cut(altered), np.arange(len(rows)))
        else:
            risks = self._risks(self.batches, rows, altered)
        changed = (risks > self.threshold) != self.decision[rows]
        return Rescored(risks - self.risks[rows], changed)

    def _cut(self, graph: CellGraph) -> PatientBatches:
        config = getattr(self.net, "config", None)
        return PatientBatches(
            graph,
            self.covariates,
            getattr(config, "covariates", ()),
            getattr(config, "conv", "gin"),
        )

    def _risks(self, batches: PatientBatches, rows: Array, x: Array | None = None) -> Array:
        own = next(self.net.parameters())
        found, first = [], 0
        self.net.eval()
        with torch.inference_mode():
            for chosen in _together(batches, rows):
                data = self._batch(batches, chosen).to(own.device, own.dtype)
                inputs = data.x
                if x is not None:
                    part = x[first : first + len(inputs)]
                    inputs = torch.as_tensor(part).to(own.device, own.dtype)
                    first += len(inputs)
                answer = self.net.of_features(inputs, data)  # type: ignore[operator]
                found.append(answer.double().cpu().numpy())
        risks: Array = np.concatenate(found)
        return risks

    def _batch(self, batches: PatientBatches, chosen: tuple[int, ...]) -> GraphInput:
        """Inputs of some patients; those of the cohort as it is are put together once."""
        if batches is not self.batches:
            return batches.batch(chosen)
        kept: dict[tuple[int, ...], GraphInput] = self.__dict__.setdefault("_kept", {})
        if chosen not in kept:
            kept[chosen] = batches.batch(chosen)
        return kept[chosen]

    # -- cells -------------------------------------------------------------------------------

    @cached_property
    def inputs(self) -> Array:
        """What the network reads of every cell ``(n, f)``."""
        return self.graph.inputs()

    @cached_property
    def patient_of_cell(self) -> Array:
        """Number of the patient of every cell ``(n,)``."""
        return self.graph.patient_of_cell

    def cells_of(self, rows: Array) -> Array:
        """Numbers of the cells of these patients ``(c,)``, ascending."""
        return np.flatnonzero(np.isin(self.patient_of_cell, rows))

    @cached_property
    def mean_inputs(self) -> Array:
        """Every patient's mean cell ``(p, f)``."""
        return self.per_patient(self.inputs)

    def per_patient(self, values: Array) -> Array:
        """Mean over the cells of every patient ``(p, ...)`` of values ``(n, ...)``."""
        counts = np.bincount(self.patient_of_cell, minlength=len(self))
        sums = np.zeros((len(self), *values.shape[1:]))
        np.add.at(sums, self.patient_of_cell, values.astype(np.float64))
        means: Array = sums / counts.reshape(-1, *[1] * (values.ndim - 1))
        return means

    @cached_property
    def relevance_share(self) -> Array:
        """Share of every cell in the absolute relevance of its patient ``(n,)``."""
        size = np.abs(self.relevance.cells)
        total = np.bincount(self.patient_of_cell, size, len(self))
        share: Array = size / np.where(total > 0, total, 1.0)[self.patient_of_cell]
        return share

    def names(self, rows: Array) -> tuple[str, ...]:
        """Names of patients."""
        return tuple(self.graph.patient_names[int(i)] for i in rows)


class GraphCheck(Question[GraphContext]):
    """One question an audit of a graph network asks; see :class:`xai.audit.Check`."""


def _together(batches: PatientBatches, rows: Sequence[int] | Array) -> Iterator[tuple[int, ...]]:
    """Patients, as many at a time as :data:`CELLS_AT_ONCE` takes."""
    chosen: list[int] = []
    cells = 0
    for row in rows:
        size = sum(len(batches.x[image]) for image in batches.images[row])
        if chosen and cells + size > CELLS_AT_ONCE:
            yield tuple(chosen)
            chosen, cells = [], 0
        chosen.append(int(row))
        cells += size
    if chosen:
        yield tuple(chosen)
