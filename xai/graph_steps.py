"""What ``xai explain --graph`` does between reading its options and printing a result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch

from graphs.build import delaunay_graph, knn_graph, radius_graph
from graphs.cell_graph import CellGraph
from graphs.checkpoint import GraphManifest
from graphs.lrp import explain, graph_composite, grid_relevance, interaction_range
from graphs.names import as_name
from graphs.readers import Columns, read_cells
from graphs.readers.tables import PARQUET, TEXT, read_columns, table_header
from graphs.relevance import GraphRelevance
from graphs.survival import Outcome
from xai.errors import InputError
from xai.file_formats import require_file

if TYPE_CHECKING:
    from torch import nn

SATURATED = 0.99
TABLES = ("csv", "parquet")


@dataclass(frozen=True)
class CellFiles:
    """Files of cells, and what their columns are."""

    paths: list[Path]
    columns: dict[str, Any]
    unit: Literal["um", "mm", "px"] | None
    mpp: float | None
    unknown: Literal["error", "keep"]
    duplicates: Literal["error", "drop", "keep"]
    missing: Literal["error", "drop"]


@dataclass(frozen=True)
class Neighbours:
    """Which cells to join; lengths in the unit of the cells."""

    k: int | None
    max_edge: float | None
    radius: float | None
    delaunay: float | None

    def __post_init__(self) -> None:
        given = [self.k, self.radius, self.delaunay]
        if sum(value is not None for value in given) > 1:
            raise InputError("--k, --radius and --delaunay are three ways to join cells; give one.")
        if self.max_edge is not None and self.k is None:
            raise InputError("--max-edge limits the edges of --k; give both.")

    def __str__(self) -> str:
        if self.k is not None:
            limit = "" if self.max_edge is None else f", edges up to {self.max_edge:g}"
            return f"{self.k} nearest{limit}"
        if self.radius is not None:
            return f"radius {self.radius:g}"
        return "edges of the file" if self.delaunay is None else f"Delaunay to {self.delaunay:g}"

    def joined(self, cells: CellGraph) -> CellGraph:
        """The cells with edges.

        Raises
        ------
        InputError
            No way given, and no edges in the file.
        """
        if self.k is not None:
            return knn_graph(cells, self.k, self.max_edge, unit=cells.unit)
        if self.radius is not None:
            return radius_graph(cells, self.radius, unit=cells.unit)
        if self.delaunay is not None:
            return delaunay_graph(cells, self.delaunay, unit=cells.unit)
        if cells.edges is None:
            raise InputError(
                "Expected how to join the cells, as it was done for training: --k 3, --radius 20 "
                "or --delaunay 50."
            )
        return cells


def cells_for(files: CellFiles, manifest: GraphManifest, only: Sequence[str]) -> CellGraph:
    """The cells, with phenotypes and features in the order in which the network takes them.

    Raises
    ------
    InputError
        Features of other names than the network's, a phenotype it does not know, no such patient.
    """
    for path in files.paths:
        require_file(path)
    features = files.columns.get("features", ())
    names = manifest.input_names
    phenotypes = names[: len(names) - len(features)]
    if names[len(phenotypes) :] != tuple(features):
        raise InputError(
            f"Expected --column features={','.join(names[len(phenotypes) :])}, the last of the "
            f"network's inputs ({', '.join(names)}), got {','.join(features)}."
        )
    _require_no_feature_among(phenotypes, files)
    cells = read_cells(
        list(files.paths),
        Columns(**files.columns) if files.columns else None,
        unit=files.unit,
        mpp=files.mpp,
        phenotypes=phenotypes,
        unknown=files.unknown,
        duplicates=files.duplicates,
        missing=files.missing,
    )
    if cells.input_names != names:
        raise InputError(
            f"Expected the network's inputs {', '.join(names)}, got {', '.join(cells.input_names)}."
        )
    return cells.patient(*only) if only else cells


def _require_no_feature_among(phenotypes: Sequence[str], files: CellFiles) -> None:
    """Refuse to take a measurement for a phenotype that no cell happens to have."""
    chosen = files.columns.get("phenotype", "phenotype")
    taken = {chosen} if isinstance(chosen, str) else set(chosen)
    for path in files.paths:
        if not path.name.lower().endswith((*PARQUET, *TEXT)):
            continue
        also = [name for name in phenotypes if name in set(table_header(path)) - taken]
        if also:
            raise InputError(
                f"{also[0]!r} is an input of the network and a column of {path}: if it is a "
                f"measurement, say --column features={','.join(also)}; if it is a phenotype of its "
                "own column, name all of them with --column phenotype=..."
            )


def patient_table(
    path: Path | None, id_column: str | None, wanted: Sequence[str], patients: Sequence[str]
) -> pd.DataFrame | None:
    """Rows of the patients that have cells, in their order, with the columns ``wanted``.

    Raises
    ------
    InputError
        No table although columns are wanted, a column or a patient that is not there or twice.
    """
    wanted = list(dict.fromkeys(wanted))
    if path is None:
        if wanted:
            raise InputError(
                f"Expected --covariates FILE, a table with one row per patient and the columns "
                f"{', '.join(wanted)}."
            )
        return None
    require_file(path)
    if not path.name.lower().endswith((*PARQUET, *TEXT)):
        raise InputError(f"Expected a .csv, .tsv or .parquet table of patients, got {path}.")
    key = table_header(path)[0] if id_column is None else id_column
    if key in wanted:
        raise InputError(f"Expected names of patients in {key!r}, which is wanted as a number.")
    table = read_columns(path, [key, *wanted], [key])
    names = table[key].map(as_name)
    if not set(patients) <= set(names):  # 7 is the patient 7.0 of a column of numbers with gaps
        names = names.str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
    table = table.drop(columns=key).set_axis(pd.Index(names, name="patient"), axis=0)
    lacking = [name for name in patients if name not in set(names)]
    if lacking:
        raise InputError(
            f"Expected a row of patient {lacking[0]!r} in {path} ({len(lacking)} patients with "
            f"cells have none); its column {key!r} begins with {', '.join(map(repr, names[:3]))}."
        )
    found = table.loc[list(patients)]
    if len(found) > len(patients):
        twice = found.index[found.index.duplicated()][0]
        raise InputError(f"Expected one row per patient in {path}, got {twice!r} twice.")
    return found


def outcome_of(
    table: pd.DataFrame | None, time: str | None, event: str | None, unit: str
) -> Outcome | None:
    """The outcome, if its columns were named.

    Raises
    ------
    InputError
        One of the two columns without the other.
    """
    if (time is None) != (event is None):
        raise InputError("--time and --event belong together; give both.")
    if table is None or time is None or event is None:
        return None
    return Outcome.from_table(table, time, event, unit)


def require_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises
    ------
    InputError
        What torch says of it.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Cannot compute on device {device!r}: {reason}") from error


@dataclass(frozen=True)
class Method:
    """How to explain."""

    gamma: float
    grid: float | None
    offsets: int
    sizes: tuple[float, ...]
    dtype: torch.dtype
    device: str

    def __post_init__(self) -> None:
        if self.offsets > 1 and self.grid is None:
            raise InputError("--offsets shifts the squares of --grid; give both.")
        require_device(self.device)

    def relevance(
        self, model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None
    ) -> GraphRelevance:
        """Relevance of every cell."""
        composite = graph_composite(self.gamma)
        if self.grid is None:
            return explain(
                model, graph, covariates, composite=composite, dtype=self.dtype, device=self.device
            )
        return grid_relevance(
            model, graph, self.grid, covariates, offsets=self.offsets, composite=composite,
            dtype=self.dtype, device=self.device,
        )  # fmt: skip

    def interaction(
        self, model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None
    ) -> pd.DataFrame | None:
        """How much stays inside squares of the sizes asked for."""
        if not self.sizes:
            return None
        return interaction_range(
            model, graph, self.sizes, covariates, composite=graph_composite(self.gamma),
            dtype=self.dtype, device=self.device,
        )  # fmt: skip


def provenance(
    model: Path, manifest: GraphManifest, files: CellFiles, neighbours: Neighbours, method: Method
) -> dict[str, str]:
    """Digests, options and versions: what it takes to repeat an explanation."""
    found = {
        "model": model.name,
        "weights_sha256": manifest.weights_sha256,
        "members": str(len(manifest.configs)) + (f", {manifest.how}" if manifest.how else ""),
        "inputs": ", ".join(manifest.input_names),
    }
    for path in files.paths:
        with path.open("rb") as file:
            found[f"sha256 of {path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    found["neighbours"] = str(neighbours)
    if method.grid is not None:
        found["grid"] = f"{method.grid:g}, {method.offsets} offsets along each axis"
    found["precision"] = str(method.dtype).removeprefix("torch.")
    found |= {name: version(name) for name in ("unsupervised-xai", "torch", "numpy")}
    return found
