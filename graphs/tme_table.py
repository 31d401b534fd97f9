"""OpenTME's tables, one row a slide: features with names that say what they are about.

Relevance over such features adds up, so it may be summed over all features of one cell class, of
one tissue, of one pair of neighbours: no feature counts twice, and no group is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graphs.cell_graph import Array
from graphs.readers.tables import read_columns, table_header
from graphs.tme_names import TmeName, TmeNames
from neuralize.errors import InputError

NONE = "(none)"
"""The group of features that name no class of the kind asked for."""


@dataclass(frozen=True, eq=False)
class TmeTable:
    """Slides and their readouts.

    Parameters
    ----------
    metadata
        One row a slide: what is known of it, and is no feature.
    features
        One row a slide, one column a readout, numbers or missing.
    names
        What every column of ``features`` is about.
    """

    metadata: pd.DataFrame
    features: pd.DataFrame
    names: Mapping[str, TmeName]

    @property
    def unread(self) -> tuple[str, ...]:
        """Columns in whose names no class was found."""
        return tuple(
            column
            for column, name in self.names.items()
            if name.cell is name.tissue is name.qc is None
        )


def read_tme_table(path: str | Path, names: TmeNames, *, metadata: int = 6) -> TmeTable:
    """A table of slides in OpenTME's layout (``tme_features_*.csv``).

    Parameters
    ----------
    path
        CSV, TSV or Parquet.
    names
        The classes the columns may name.
    metadata
        How many of the first columns are no features.

    Raises
    ------
    InputError
        A file without features, or a feature that is not a number.
    """
    path = Path(path)
    header = table_header(path)
    if not 0 <= metadata < len(header):
        raise InputError(
            f"Expected more than the {metadata} columns of metadata in {path}, got {len(header)}."
        )
    frame = read_columns(path, header, header[:metadata])[header]
    features = frame.iloc[:, metadata:]
    for column in features.columns:
        if not pd.api.types.is_numeric_dtype(features[column]):
            text = pd.to_numeric(features[column], errors="coerce").isna()
            row = int(np.flatnonzero(text & features[column].notna())[0])
            raise InputError(
                f"Expected numbers in {column!r} of {path}, got {features[column].iloc[row]!r} in "
                f"row {row}. If it is no feature, it belongs to the first columns: metadata=."
            )
    return TmeTable(
        frame.iloc[:, :metadata], features.astype(np.float64), names.parse_all(header[metadata:])
    )


def grouped_relevance(
    values: Array | pd.DataFrame,
    names: Mapping[str, TmeName] | Sequence[TmeName],
    by: str | Sequence[str] = "cell",
) -> pd.DataFrame:
    """Relevance of features ``(n, f)`` summed over features about the same.

    Parameters
    ----------
    values
        Relevance of every feature, signed.
    names
        What every feature is about, in the order of the columns.
    by
        ``"kind"``, ``"cell"``, ``"cell_b"``, ``"radius"``, ``"tissue"`` or ``"qc"``, or several.

    Returns
    -------
    One row per row of ``values``, one column per group; features that name nothing of the kind are
    the group ``"(none)"``. Every row adds up to what it added up to before.

    Raises
    ------
    InputError
        Names that are not as many as features, or a grouping that is not known.

    Examples
    --------
    >>> names = TmeNames(["Lymphocyte", "Macrophage"], ["Stroma"])
    >>> columns = ["CELL_DENSITY_LYMPHOCYTE_STROMA", "CELL_DENSITY_LYMPHOCYTE", "ABSOLUTE_AREA"]
    >>> grouped_relevance(np.array([[1.0, 2.0, -0.5]]), names.parse_all(columns), by="cell")
       (none)  Lymphocyte
    0    -0.5         3.0
    """
    table = values if isinstance(values, pd.DataFrame) else pd.DataFrame(np.asarray(values))
    about = list(names.values()) if isinstance(names, Mapping) else list(names)
    if len(about) != table.shape[1]:
        raise InputError(f"Expected {table.shape[1]} names, one per feature, got {len(about)}.")
    if isinstance(values, pd.DataFrame) and isinstance(names, Mapping):
        other = [column for column, name in zip(table.columns, names, strict=True)
                 if column != name]  # fmt: skip
        if other:
            raise InputError(f"Expected names in the order of the columns, got another at "
                             f"{other[0]!r}.")  # fmt: skip
    wanted = [by] if isinstance(by, str) else list(by)
    known = {"kind", *(field.name for field in fields(TmeName)[1:])}
    if not wanted or not set(wanted) <= known:
        raise InputError(f"Expected by as one or several of {sorted(known)}, got {by!r}.")

    def label(name: TmeName) -> str | tuple[str, ...]:
        parts = tuple(NONE if (v := getattr(name, w)) is None else str(v) for w in wanted)
        return parts[0] if isinstance(by, str) else parts

    labels = [label(name) for name in about]
    groups = sorted(set(labels))
    number = {group: k for k, group in enumerate(groups)}
    member = np.zeros((len(labels), len(groups)))
    member[np.arange(len(labels)), [number[g] for g in labels]] = 1
    columns: Any = pd.Index(groups, dtype=object)
    if not isinstance(by, str):
        columns = pd.MultiIndex.from_arrays(list(zip(*groups, strict=True)), names=wanted)
    return pd.DataFrame(table.to_numpy(np.float64) @ member, index=table.index, columns=columns)
