"""From tables of cells to one :class:`~graphs.cell_graph.CellGraph`, checked row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from graphs.cell_graph import Array, CellGraph, Unit
from graphs.readers.columns import Columns, categorical, joined, natural, phenotypes
from graphs.readers.treatment import Rows, Treatment
from graphs.readers.units import FileUnit, in_graph_unit
from neuralize.errors import InputError


@dataclass(frozen=True, eq=False)
class Table:
    """What every reader makes of a file.

    Parameters
    ----------
    frame
        One row a cell.
    columns
        Which column says what.
    source
        The file, for errors.
    image
        The image's name where no column says it.
    unit
        The unit of the positions, where the file or its format says it.
    usual
        The unit such files have where nobody says another.
    phenotypes
        All phenotypes there may be, where the file or the caller names its types.
    edges
        ``(2, e)`` row numbers, where the file holds neighbours.
    """

    frame: pd.DataFrame
    columns: Columns
    source: str
    image: str
    unit: FileUnit | None = None
    usual: FileUnit | None = None
    phenotypes: tuple[str, ...] | None = None
    edges: Array | None = None


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
    _different_images(tables)
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
    images = _union([_images(table) for table in tables])
    of_patient = _patients(tables, images, patients)
    labels = _union([phenotypes(t.frame, t.columns, t.source) for t in tables], ordered=True)
    cell_ids = _cell_ids(tables)

    keep = np.ones(len(rows), bool)
    broken, why = _incomplete(positions, features, feature_names, images, of_patient)
    treatment.complete(broken, why, rows)
    keep[broken] = False
    of_image = _one_patient_each(images, of_patient, keep)
    spread = np.full(len(rows), -1)
    if all(table.columns.phenotype is None for table in tables):
        names = tuple(map(str, treatment.phenotypes or ()))
    else:
        spread[keep], names = treatment.coded(labels[keep], rows.only(keep), _declared(tables))
    if treatment.duplicates != "keep":
        repeated, first, why = _repeated(keep, positions, spread, images, cell_ids)
        treatment.once(repeated, first, why, rows)
        keep[repeated] = False
    if not keep.any():
        raise InputError(f"Expected at least one cell left, got none of {len(rows)}.")

    image_codes, image_names, patient_names = _sorted_images(images, keep, of_image)
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


def _declared(tables: Sequence[Table]) -> tuple[str, ...] | None:
    """All phenotypes the files may hold, where every file says it."""
    lists = [table.phenotypes for table in tables]
    if any(names is None for names in lists):
        return None
    return tuple(dict.fromkeys(name for names in lists for name in names or ()))


def _counts(tables: Sequence[Table]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for table in tables:
        if table.source in counts:
            raise InputError(f"Expected every file once, got {table.source} twice.")
        counts[table.source] = len(table.frame)
    return counts


def _different_images(tables: Sequence[Table]) -> None:
    named: dict[str, str] = {}
    for table in tables:
        if table.columns.image is None:
            if table.image in named:
                raise InputError(
                    f"Expected files of different names, for each is the image of that name, got "
                    f"{named[table.image]} and {table.source}. Rename one, or name the images in a "
                    "column."
                )
            named[table.image] = table.source


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


def _images(table: Table) -> pd.Categorical:
    if table.columns.image is not None:
        return joined(table.frame, table.columns.image)
    codes = np.zeros(len(table.frame), np.int64)
    return categorical(codes, [table.image])


def _patients(
    tables: Sequence[Table], images: pd.Categorical, patients: Mapping[str, str] | None
) -> pd.Categorical:
    if patients is not None:
        if any(t.columns.patient is not None for t in tables):
            raise InputError("Expected patients= or a column of patients, got both.")
        known = {str(image): str(patient) for image, patient in patients.items()}
        lacking = [image for image in images.categories if image not in known]
        if lacking:
            raise InputError(
                f"Expected a patient for every image in patients=, got none for {lacking[0]!r} "
                f"({len(lacking)} images)."
            )
        unique = {name: k for k, name in enumerate(dict.fromkeys(known.values()))}
        codes = np.array([*(unique[known[i]] for i in images.categories), -1])[images.codes]
        return categorical(codes, list(unique))
    parts, start = [], 0
    for table in tables:
        own = images[start : start + len(table.frame)]
        column = table.columns.patient
        parts.append(own if column is None else joined(table.frame, column))
        start += len(table.frame)
    return _union(parts)


def _regions(tables: Sequence[Table]) -> pd.Categorical | None:
    if all(table.columns.region is None for table in tables):
        return None
    missing = [
        categorical(np.full(len(t.frame), -1), [])
        if t.columns.region is None
        else joined(t.frame, t.columns.region)
        for t in tables
    ]
    return _union(missing, ordered=True)


def _union(parts: Sequence[pd.Categorical], ordered: bool = False) -> pd.Categorical:
    whole: pd.Categorical = parts[0] if len(parts) == 1 else union_categoricals(list(parts))
    if not ordered or all(list(part.categories) == list(whole.categories) for part in parts):
        return whole
    return whole.reorder_categories(sorted(whole.categories, key=natural))


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


def _incomplete(
    positions: Array,
    features: Array | None,
    feature_names: tuple[str, ...],
    images: pd.Categorical,
    patients: pd.Categorical,
) -> tuple[Array, Array]:
    """Rows that lack something, and what."""
    reasons = [(~np.isfinite(positions).all(1), "coordinates that are not finite"),
               (images.codes < 0, "no image"), (patients.codes < 0, "no patient")]  # fmt: skip
    if features is not None:
        for k, name in enumerate(feature_names):
            reasons.append((~np.isfinite(features[:, k]), f"{name!r} is not finite"))
    why = np.full(len(positions), "", object)
    for lacking, reason in reversed(reasons):
        why[lacking] = reason
    broken = np.flatnonzero(why != "")
    return broken, why[broken]


def _repeated(
    keep: Array,
    positions: Array,
    phenotype: Array,
    images: pd.Categorical,
    cell_ids: Array | None,
) -> tuple[Array, Array, Array]:
    """Rows that repeat another, the first they repeat, and in what."""
    rows = np.flatnonzero(keep)
    place = pd.DataFrame(positions[rows]).assign(image=images.codes[rows], kind=phenotype[rows])
    keys = {"the same place and phenotype": place}
    if cell_ids is not None:
        ids = pd.DataFrame({"image": images.codes[rows], "id": cell_ids[rows]})
        keys["the same image and cell id"] = ids
    first = np.full(len(keep), -1)
    why = np.full(len(keep), "", object)
    for reason, key in keys.items():
        again = np.flatnonzero(key.duplicated().to_numpy())
        if len(again):
            groups = key.groupby(list(key.columns), sort=False).ngroup().to_numpy()
            _, begins = np.unique(groups, return_index=True)
            first[rows[again]] = rows[begins[groups[again]]]
            why[rows[again]] = reason
    repeated = np.flatnonzero(first >= 0)
    return repeated, first[repeated], why[repeated]


def _one_patient_each(
    images: pd.Categorical, patients: pd.Categorical, keep: Array
) -> dict[int, str]:
    """The patient of every image, by the image's code."""
    pairs = np.unique(images.codes[keep].astype(np.int64) * len(patients.categories)
                      + patients.codes[keep])  # fmt: skip
    image, patient = np.divmod(pairs, max(1, len(patients.categories)))
    twice = np.flatnonzero(np.diff(image) == 0)
    if len(twice):
        a, b = (patients.categories[patient[twice[0] + k]] for k in (0, 1))
        raise InputError(
            f"Expected images of one patient each, got {images.categories[image[twice[0]]]!r} of "
            f"{a!r} and of {b!r} ({len(twice)} such). If images are numbered within a patient, "
            "name both columns: Columns(image=(<patient>, <image>), ...)."
        )
    return {int(i): patients.categories[p] for i, p in zip(image, patient, strict=True)}


def _sorted_images(
    images: pd.Categorical, keep: Array, of_image: Mapping[int, str]
) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
    """Codes ``(n,)`` of the images in the order of patients and names, their names and patients."""
    used = np.unique(images.codes[keep])

    def place(image: int) -> tuple[object, ...]:
        patient, name = of_image[image], images.categories[image]
        return natural(patient), patient, natural(name), name

    known = sorted(used, key=place)
    number = np.full(len(images.categories) + 1, -1)
    number[known] = np.arange(len(known))
    names = tuple(images.categories[i] for i in known)
    return number[images.codes], names, tuple(of_image[i] for i in known)


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
