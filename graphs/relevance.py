"""``GraphRelevance``: what of a patient's log hazard each cell carries, and what no cell does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from graphs.cell_graph import CellGraph
from graphs.partition import Partition
from neuralize.errors import InputError

Array = np.ndarray
TINY = np.finfo(np.float64).tiny
Group = Literal["phenotype", "region", "image", "part"]


@dataclass(frozen=True, eq=False)
class GraphRelevance:
    """Relevance of cells for the log hazard of their patients.

    ``log_hazard = sum of values over the patient's cells + sum of absorbed + conservation error``.
    Positive relevance raises the risk. A log hazard has no zero of its own: only differences
    between patients matter, so :attr:`reference` says what risk may be compared with.

    Attributes
    ----------
    values
        Relevance of every feature of every cell ``(n, f)``.
    graph
        The cells.
    log_hazard
        ``(p,)``, patients as in the graph.
    absorbed
        ``(p,)`` by name: ``covariate <name>``, ``bias``, ``stabilizer``, and with a partition
        ``across parts``, what walks between parts carried.
    partition
        The parts that walks had to stay in, or None.
    composite
        Which rules.
    reference
        A log hazard to compare with, such as the mean over a cohort; None if none was given.
    """

    values: Array
    graph: CellGraph
    log_hazard: Array
    absorbed: dict[str, Array]
    partition: Partition | None = None
    composite: str = ""
    reference: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> Array:
        """Relevance of every cell ``(n,)``."""
        total: Array = self.values.sum(1)
        return total

    @property
    def patient_sums(self) -> Array:
        """Relevance of all cells of every patient ``(p,)``."""
        codes = self.graph.patient_of_cell
        sums: Array = np.bincount(codes, weights=self.cells, minlength=len(self.log_hazard))
        return sums

    @property
    def conservation_error(self) -> Array:
        """``log_hazard`` less everything that was explained ``(p,)``."""
        explained = self.patient_sums + sum(self.absorbed.values())
        error: Array = self.log_hazard - explained
        return error

    @property
    def relative_conservation_error(self) -> Array:
        """The error over the largest of what it is made of ``(p,)``."""
        codes, n = self.graph.patient_of_cell, len(self.log_hazard)
        scale = np.bincount(codes, weights=np.abs(self.cells), minlength=n)
        for share in (self.log_hazard, *self.absorbed.values()):
            scale = np.maximum(scale, np.abs(share))
        relative: Array = np.abs(self.conservation_error) / np.maximum(scale, TINY)
        return relative

    def parts(self, partition: Partition | None = None) -> pd.DataFrame:
        """One row per part: its image and patient, cells and relevance.

        Raises
        ------
        InputError
            No partition.
        """
        partition = partition or self.partition
        if partition is None:
            raise InputError(
                "Expected a partition, got relevance without one; use grid_relevance or pass one."
            )
        images = np.array(self.graph.image_names, object)[partition.images]
        patients = np.array(self.graph.patients, object)[partition.images]
        return pd.DataFrame(
            {
                "part": partition.names,
                "image": images,
                "patient": patients,
                "cells": partition.cells,
                "relevance": partition.sums(self.cells),
            }
        )

    def by(self, group: Group, how: Literal["sum", "mean"] = "sum") -> pd.DataFrame:
        """Relevance per patient ``(p, groups)``: patients are the unit of statistics.

        Parameters
        ----------
        group
            ``"phenotype"``, ``"region"``, ``"image"`` or ``"part"`` (of the partition).
        how
            Summed over the cells of a group, or per cell (NaN where a patient has none).

        Raises
        ------
        InputError
            Regions or parts where there are none.
        """
        codes, names = self._group(group)
        patients = self.graph.patient_of_cell
        p, g = len(self.log_hazard), len(names)
        slot = patients * g + codes
        sums = np.bincount(slot, weights=self.cells, minlength=p * g).reshape(p, g)
        if how == "mean":
            counts = np.bincount(slot, minlength=p * g).reshape(p, g)
            sums = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return pd.DataFrame(sums, index=pd.Index(self.graph.patient_names, name="patient"),
                            columns=pd.Index(names, name=group))  # fmt: skip

    def _group(self, group: Group) -> tuple[Array, tuple[str, ...]]:
        graph = self.graph
        if group == "image":
            return graph.images, graph.image_names
        if group == "part":
            if self.partition is None:
                raise InputError("Expected relevance with a partition, got one without.")
            return self.partition.codes, self.partition.names
        codes, names = (
            (graph.phenotypes, graph.phenotype_names)
            if group == "phenotype"
            else (graph.regions, graph.region_names)
        )
        if codes is None:
            raise InputError("Expected a graph with regions, got one without.")
        if (codes < 0).any():
            return np.where(codes < 0, len(names), codes), (*names, "not known")
        return codes, names

    def to_frame(self) -> pd.DataFrame:
        """One row per cell: patient, image, id, place, phenotype, relevance, and its part."""
        graph = self.graph
        axes = ("x", "y", "z")[: graph.positions.shape[1]]
        table = {
            "patient": np.array(graph.patients, object)[graph.images],
            "image": np.array(graph.image_names, object)[graph.images],
            "cell": np.arange(len(graph)) if graph.cell_ids is None else graph.cell_ids,
            **{f"{axis}_{graph.unit}": graph.positions[:, k] for k, axis in enumerate(axes)},
            "phenotype": np.array([*graph.phenotype_names, ""], object)[graph.phenotypes],
            "relevance": self.cells,
        }
        if graph.regions is not None:
            table["region"] = np.array([*graph.region_names, ""], object)[graph.regions]
        if self.partition is not None:
            table["part"] = np.array(self.partition.names, object)[self.partition.codes]
        return pd.DataFrame(table)

    def accounts(self) -> pd.DataFrame:
        """Per patient: log hazard, what the cells carry, what was absorbed by name, the error."""
        return pd.DataFrame(
            {
                "log_hazard": self.log_hazard,
                "cells": self.patient_sums,
                **self.absorbed,
                "error": self.conservation_error,
            },
            index=pd.Index(self.graph.patient_names, name="patient"),
        )

    def __len__(self) -> int:
        return len(self.log_hazard)

    def __repr__(self) -> str:
        parts = "" if self.partition is None else f", {len(self.partition)} parts"
        error = float(self.relative_conservation_error.max(initial=0.0))
        return (
            f"<GraphRelevance {len(self.graph)} cells of {len(self)} patients{parts}, "
            f"{self.composite}, log hazard {self.log_hazard.min():.3g} to "
            f"{self.log_hazard.max():.3g}, absorbed {', '.join(map(repr, self.absorbed))}, "
            f"conservation error <= {error:.1e}>"
        )


def averaged(found: Sequence[GraphRelevance], weights: Array | None = None) -> GraphRelevance:
    """The (weighted) mean of several explanations of the same cells: relevance is linear.

    Parameters
    ----------
    weights
        ``(k,)`` or ``(k, p)``, adding up to 1 over the explanations.
    """
    first = found[0]
    p = len(first)
    if weights is None:
        weights = np.full(len(found), 1 / len(found))
    w = np.broadcast_to(np.asarray(weights, np.float64).reshape(len(found), -1), (len(found), p))
    codes = first.graph.patient_of_cell
    names = list(dict.fromkeys(name for one in found for name in one.absorbed))
    zero = np.zeros(p)
    return GraphRelevance(
        sum(one.values * w[k][codes, None] for k, one in enumerate(found)),
        first.graph,
        sum(one.log_hazard * w[k] for k, one in enumerate(found)),
        {
            name: sum(one.absorbed.get(name, zero) * w[k] for k, one in enumerate(found))
            for name in names
        },
        first.partition,
        first.composite,
        first.reference,
        first.settings,
    )
