"""From tables of cells to one :class:`~graphs.cell_graph.CellGraph`, checked row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from graphs.cell_graph import Array, CellGraph, Unit
from graphs.readers.contents import Table
from graphs.readers.faults import incomplete, repeated
from graphs.readers.images import images_of, one_patient_each, patients_of, sorted_images
from graphs.readers.names import categorical, joined, union
from graphs.readers.phenotypes import phenotypes
from graphs.readers.treatment import Rows, Treatment
from graphs.readers.units import FileUnit, in_graph_unit
from neuralize.errors import InputError


@dataclass(frozen=True)
class Scale:
    """What the caller says about lengths."""

    unit: FileUnit | None = None
    mpp: float | None = None


def assembled(
    tables: Sequence[Table],
    treatment: Treatment,
    scale: Scale,
    patients: Mapping[str, str] | None = None,
) -> CellGraph:
    """One graph of all tables, sorted by patient and image, rows of an image in their order.

    Raises
    ------
    InputError
        See :func:`graphs.readers.read_cells`.
    """
    for table in tables:
        table.columns.require(list(table.frame.columns), table.source)
        if not len(table.frame):
            raise InputError(f"Expected at least one cell in {table.source}, got none.")
    rows = Rows(_counts(tables))
    places = [_positions(table, scale) for table in tables]
    units = {unit for _, unit in places}
    dimensions = {part.shape[1] for part, _ in places}
    if len(units) > 1 or len(dimensions) > 1:
        raise InputError(
            "Expected files with one unit and as many coordinates, got "
            + "; ".join(f"{t.source}: {p.shape[1]} in {u}" for t, (p, u) in
                        zip(tables, places, strict=True))
        )  # fmt: skip
    positions = np.concatenate([part for part, _ in places])
    features, feature_names = _features(tables)
    images = images_of(tables)
    of_patient = patients_of(tables, images, patients)
    labels = union([phenotypes(t.frame, t.columns, t.source) for t in tables], in_order=True)
    cell_ids = _cell_ids(tables)

    keep = np.ones(len(rows), bool)
    broken, why = incomplete(positions, features, feature_names, images, of_patient)
    treatment.complete(broken, why, rows)
    keep[broken] = False
    of_image = one_patient_each(images, of_patient, keep)
    spread = np.full(len(rows), -1)
    if all(table.columns.phenotype is None for table in tables):
        names = tuple(map(str, treatment.phenotypes or ()))
    else:
        spread[keep], names = treatment.coded(labels[keep], rows.only(keep), _declared(tables))
    if treatment.duplicates != "keep":
        again, first, why = repeated(keep, positions, spread, images, cell_ids)
        treatment.once(again, first, why, rows)
        keep[again] = False
    if not keep.any():
        raise InputError(f"Expected at least one cell left, got none of {len(rows)}.")

    image_codes, image_names, patient_names = sorted_images(images, keep, of_image)
    order = np.flatnonzero(keep)
    order = order[np.argsort(image_codes[order], kind="stable")]
    regions = _regions(tables)
    return CellGraph(
        positions=positions[order],
        phenotypes=spread[order],
        phenotype_names=names,
        images=image_codes[order],
        image_names=image_names,
        patients=patient_names,
        edges=_edges(tables, order, len(rows)),
        features=None if features is None else features[order],
        feature_names=feature_names,
        regions=None if regions is None else regions.codes.astype(np.int64)[order],
        region_names=() if regions is None else tuple(regions.categories),
        cell_ids=None if cell_ids is None else cell_ids[order],
        unit=units.pop(),
    )


def _counts(tables: Sequence[Table]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for table in tables:
        if table.source in counts:
            raise InputError(f"Expected every file once, got {table.source} twice.")
        counts[table.source] = len(table.frame)
    return counts


def _declared(tables: Sequence[Table]) -> tuple[str, ...] | None:
    """All phenotypes the files may hold, where every file says it."""
    lists = [table.phenotypes for table in tables]
    if any(names is None for names in lists):
        return None
    return tuple(dict.fromkeys(name for names in lists for name in names or ()))


def _number(frame: pd.DataFrame, column: str, where: str) -> Array:
    series = frame[column]
    numbers = pd.to_numeric(series, errors="coerce")
    text = np.flatnonzero(numbers.isna() & series.notna())
    if len(text):
        raise InputError(
            f"Expected numbers in {column!r}, got {series.iloc[text[0]]!r} in row {text[0]} of "
            f"{where} ({len(text)} rows)."
        )
    found: Array = numbers.to_numpy(np.float64, na_value=np.nan)
    return found


def _positions(table: Table, scale: Scale) -> tuple[Array, Unit]:
    columns = table.columns.positions
    raw = np.stack([_number(table.frame, name, table.source) for name in columns], 1)
    return in_graph_unit(
        raw, claimed=scale.unit, said=table.unit, usual=table.usual, mpp=scale.mpp,
        where=table.source,
    )  # fmt: skip


def _features(tables: Sequence[Table]) -> tuple[Array | None, tuple[str, ...]]:
    names = tuple(tables[0].columns.features)
    for table in tables:
        if tuple(table.columns.features) != names:
            raise InputError(
                f"Expected files with the same features, got {names} and, in {table.source}, "
                f"{tuple(table.columns.features)}."
            )
    if not names:
        return None, ()
    parts = [
        np.stack([_number(t.frame, name, t.source) for name in names], 1).astype(np.float32)
        for t in tables
    ]
    return np.concatenate(parts), names


def _regions(tables: Sequence[Table]) -> pd.Categorical | None:
    if all(table.columns.region is None for table in tables):
        return None
    missing = [
        categorical(np.full(len(t.frame), -1), [])
        if t.columns.region is None
        else joined(t.frame, t.columns.region)
        for t in tables
    ]
    return union(missing, in_order=True)


def _cell_ids(tables: Sequence[Table]) -> Array | None:
    parts = [t.columns.cell_id for t in tables]
    if all(part is None for part in parts):
        return None
    if any(part is None for part in parts):
        raise InputError("Expected cell ids in all files or in none, got some without.")
    columns = [t.frame[str(t.columns.cell_id)] for t in tables]
    for table, column in zip(tables, columns, strict=True):
        if column.isna().any():
            row = int(np.flatnonzero(column.isna())[0])
            raise InputError(f"Expected a cell id in every row, got none in row {row} of "
                             f"{table.source}.")  # fmt: skip
    found: Array = (columns[0] if len(columns) == 1 else pd.concat(columns)).to_numpy()
    if np.issubdtype(found.dtype, np.floating) and (found == np.floor(found)).all():
        return found.astype(np.int64)
    return found


def _edges(tables: Sequence[Table], order: Array, total: int) -> Array | None:
    if all(table.edges is None for table in tables):
        return None
    starts = np.cumsum([0, *(len(t.frame) for t in tables)])
    parts = []
    for table, start in zip(tables, starts[:-1], strict=True):
        if table.edges is None:
            raise InputError(f"Expected edges in all files or in none, got none in {table.source}.")
        parts.append(table.edges + start)
    number = np.full(total, -1)
    number[order] = np.arange(len(order))
    edges = number[np.concatenate(parts, 1)]
    found: Array = edges[:, (edges >= 0).all(0)]
    return found[:, np.lexsort((found[1], found[0]))]
