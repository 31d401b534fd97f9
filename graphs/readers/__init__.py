"""Cells from files: tables, AnnData, GeoJSON, HoVer-Net, CellViT, QuPath and label masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np
import pandas as pd

from graphs.cell_graph import CellGraph
from graphs.readers import ann_data, documents, tables
from graphs.readers import mask as masks
from graphs.readers.ann_data import to_anndata
from graphs.readers.assemble import Scale, assembled
from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from graphs.readers.treatment import DroppedCellsWarning, Treatment
from graphs.readers.units import FileUnit
from neuralize.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

Source = Union[str, Path, pd.DataFrame, np.ndarray, "AnnData"]

__all__ = ["Columns", "DroppedCellsWarning", "read_cells", "to_anndata"]


def read_cells(
    source: Source | Sequence[str | Path],
    columns: Columns | None = None,
    *,
    unit: FileUnit | None = None,
    mpp: float | None = None,
    phenotypes: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
    labels: pd.DataFrame | str | Path | None = None,
    type_names: Mapping[Any, Any] | None = None,
    unknown: Literal["error", "keep"] = "error",
    duplicates: Literal["error", "drop", "keep"] = "error",
    missing: Literal["error", "drop"] = "error",
) -> CellGraph:
    """Cells of one or several files, sorted by patient and image; no edges but a file's own.

    Parameters
    ----------
    source
        A file, or several: ``.parquet``, ``.csv``, ``.tsv`` (QuPath's are recognised), ``.h5ad``,
        ``.geojson``, ``.json`` (GeoJSON, HoVer-Net or CellViT), and with ``labels`` a label mask
        ``.npy``, ``.tif``, ``.png``. Or a DataFrame, AnnData object, or mask ``(rows, columns)``.
    columns
        Which column says what. Left out: ``x``, ``y``, ``phenotype`` of a table, and what a format
        fixes.
    unit
        Of the positions as read: ``"um"``, ``"mm"``, or ``"px"``. Left out where column names or
        the format say it.
    mpp
        Micrometres per pixel, for positions in pixels; the graph is then in micrometres.
    phenotypes
        All phenotypes there may be, in the order of their codes. Left out: those found, sorted.
    patients
        Patient of every image by name, where no column says it. Without either, every image is a
        patient of its own.
    labels
        Table of a mask's labels and phenotypes.
    type_names
        Names of HoVer-Net's or CellViT's types: ``{1: "tumour", ...}``.
    unknown
        A phenotype that is not listed, or none at all: an ``"error"``, or ``"keep"`` with code -1.
    duplicates
        Cells of one image with the same id, or the same place and phenotype: an ``"error"``,
        ``"drop"`` all but the first (with a :class:`DroppedCellsWarning`), or ``"keep"``.
    missing
        Coordinates or features that are not finite, no image, no patient: an ``"error"``, or
        ``"drop"`` the cell (with a :class:`DroppedCellsWarning`).

    Raises
    ------
    InputError
        What is wrong, with the file and row: a missing column, an unknown phenotype, a repeated or
        incomplete cell, a unit that is missing or contradicts the file, an image of two patients.

    Examples
    --------
    >>> table = pd.DataFrame({"x_um": [0.0, 9.0], "y_um": [0.0, 0.0], "type": ["T", "B"],
    ...                       "slide": ["s2", "s1"]})
    >>> cells = read_cells(table, Columns("x_um", "y_um", phenotype="type", image="slide"))
    >>> cells
    <CellGraph 2 cells, 2 images, 2 patients, no edges yet, 2 phenotypes, um>
    >>> cells.image_names, cells.phenotype_names, cells.phenotypes.tolist()
    (('s1', 's2'), ('B', 'T'), [0, 1])
    """
    sources: list[Any] = list(source) if isinstance(source, list | tuple) else [source]
    if not sources:
        raise InputError("Expected at least one file of cells, got none.")
    treatment = Treatment(phenotypes, unknown, duplicates, missing)
    read = [_table(one, columns, labels, type_names) for one in sources]
    return assembled(read, treatment, Scale(unit, mpp), patients)


def _table(
    source: Source,
    columns: Columns | None,
    labels: pd.DataFrame | str | Path | None,
    type_names: Mapping[Any, Any] | None,
) -> Table:
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"Expected a file of cells, and there is none at {path}.")
        name = path.name.lower()
        is_mask, is_document = name.endswith(masks.ENDINGS), name.endswith(documents.ENDINGS)
    else:
        path, name, is_document = None, "", False
        is_mask = isinstance(source, np.ndarray)
    if is_mask != (labels is not None):
        raise InputError(
            "Expected labels= (a table of labels and phenotypes) with a label mask, and only "
            f"there; got {path or type(source).__name__} {'without' if is_mask else 'with'} it."
        )
    if type_names is not None and not is_document:
        raise InputError("Expected type_names with HoVer-Net or CellViT files only.")
    if is_mask and labels is not None:
        return masks.mask(path if path is not None else np.asarray(source), labels, columns)
    if isinstance(source, pd.DataFrame):
        return tables.from_frame(source, columns)
    if path is None:
        if hasattr(source, "obsm"):
            return ann_data.from_anndata(source, columns)
        raise InputError(f"Expected a file, DataFrame, AnnData or mask, got {type(source)}.")
    if is_document:
        return documents.document(path, columns, type_names)
    if name.endswith((*tables.PARQUET, *tables.TEXT)):
        return tables.table(path, columns)
    if name.endswith(".h5ad"):
        return ann_data.from_anndata(path, columns)
    raise InputError(
        f"Expected .parquet, .csv, .tsv, .h5ad, .geojson, .json, .npy, .tif or .png, got {path}."
    )
