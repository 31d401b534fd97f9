"""``GraphInput``: what a graph network reads, made of cells and a table of patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphs.adjacency import Adjacency
from graphs.cell_graph import CellGraph
from graphs.names import as_name
from neuralize.errors import InputError


@dataclass(frozen=True)
class GraphInput:
    """What a graph network reads: cells of one or many patients, images one after the other.

    Attributes
    ----------
    x
        Features of the cells ``(n, f)``.
    adjacency
        ``(n, n)``.
    image_sizes
        Cells of every image, in order.
    images_per_patient
        Images of every patient, in order.
    covariates
        ``(p, c)``, in the network's order; ``(p, 0)`` without.
    """

    x: Tensor
    adjacency: Adjacency
    image_sizes: tuple[int, ...]
    images_per_patient: tuple[int, ...]
    covariates: Tensor

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> GraphInput:
        """The same on another device or in another floating type."""
        return replace(
            self,
            x=self.x.to(device, dtype),
            adjacency=self.adjacency.to(device, dtype),
            covariates=self.covariates.to(device, dtype),
        )


def graph_input(graph: CellGraph, covariates: Any = None, names: Sequence[str] = ()) -> GraphInput:
    """The input of a network.

    Parameters
    ----------
    graph
        With edges.
    covariates
        A DataFrame with one row per patient, patients as index.
    names
        Which of its columns, in order.

    Raises
    ------
    InputError
        No edges; a patient or a covariate that is missing, or not a finite number.
    """
    patients = graph.patient_names
    values = torch.zeros(len(patients), len(names))
    if names:
        if covariates is None:
            raise InputError(
                f"Expected covariates {', '.join(names)} as a table with patients as index, got "
                "None."
            )
        values = torch.from_numpy(covariate_values(covariates, patients, names))
    edges = torch.from_numpy(graph.require_edges())
    return GraphInput(
        torch.from_numpy(graph.inputs()),
        Adjacency.from_edges(edges, len(graph), dtype=torch.float32),
        tuple(map(int, graph.cells_per_image)),
        tuple(map(int, graph.images_per_patient)),
        values,
    )


def covariate_values(
    table: pd.DataFrame, patients: Sequence[str], names: Sequence[str]
) -> NDArray[np.float32]:
    """Covariates ``(p, c)`` of the patients, in their order.

    Raises
    ------
    InputError
        A patient or a covariate that is missing, twice, or not a finite number.
    """
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError(
            f"Expected a covariate {missing[0]!r}, got columns {', '.join(map(str, table))}."
        )
    by_name = table.set_axis(table.index.map(as_name), axis=0)
    twice = by_name.index[by_name.index.duplicated()].intersection(list(patients))
    if len(twice):
        raise InputError(f"Expected one row of covariates per patient, got {twice[0]!r} twice.")
    absent = [p for p in patients if p not in by_name.index]
    if absent:
        raise InputError(
            f"Expected covariates of patient {absent[0]!r}, which has images ({len(absent)} such "
            "patients); the table's index must hold the patients' names."
        )
    found = by_name.loc[list(patients), list(names)].to_numpy(np.float32, copy=True)
    if not np.isfinite(found).all():
        row, column = np.argwhere(~np.isfinite(found))[0]
        raise InputError(
            f"Expected finite covariates, got {found[row, column]} for {names[column]!r} of "
            f"patient {patients[row]!r}."
        )
    return found
