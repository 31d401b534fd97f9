"""Rows to explain or audit, from the files people keep them in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from xai.errors import FileFormatError, InputError
from xai.file_formats import (
    ARRAYS,
    TABLES,
    array_names,
    listed,
    read_array,
    read_table,
    require_file,
    require_numbers,
)
from xai.relevance import Array


class Data(NamedTuple):
    """A table or array ``(n, ...)``; class and origin of every row ``(n,)`` if asked for."""

    x: pd.DataFrame | Array
    labels: Array | None = None
    groups: Array | None = None


def read_data(
    path: Path | str,
    *,
    key: str | None = None,
    drop: Sequence[str] = (),
    id_column: str | None = None,
    labels: str | None = None,
    groups: str | None = None,
) -> Data:
    r"""Read rows from ``.npy``, ``.npz``, ``.csv`` or ``.parquet``.

    Parameters
    ----------
    path
        The file. Tables keep their column names.
    key
        Array of an ``.npz`` file; when missing ``x``, ``X`` or the only one with two or more axes.
    drop
        Columns of a table to leave out.
    id_column
        Column of a table with the names of the rows.
    labels, groups
        Column of the table (it is then no feature), array of the ``.npz`` file, or another file.

    Raises
    ------
    FileFormatError
        A file that is missing, empty, damaged, of unknown type, or does not hold numbers.
    InputError
        A column or array that is not there, or columns that hold no numbers.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "wine.csv")
    ...     _ = path.write_text("bottle,alcohol,hue,kind\nA7,13.2,1.04,1\nB2,12.4,0.86,2\n")
    ...     data = read_data(path, id_column="bottle", labels="kind")
    >>> data.x
            alcohol   hue
    bottle
    A7         13.2  1.04
    B2         12.4  0.86
    >>> data.labels
    array([1, 2])
    """
    path = require_file(path)
    suffix = path.suffix.lower()
    if suffix not in ARRAYS + TABLES:
        raise FileFormatError(
            f"Expected data as {', '.join(ARRAYS + TABLES)}, got {path} ({suffix or 'no suffix'})."
        )
    x: pd.DataFrame | Array
    wanted = [name for name in (labels, groups) if name is not None]
    if suffix in TABLES:
        if key is not None:
            raise InputError(f"--key names an array of an .npz file, and {path} is a table.")
        table = read_table(path)
        _require_rows(table, path)
        inside = {name: table[name].to_numpy() for name in wanted if name in table.columns}
        x = _features(table.drop(columns=list(inside)), path, drop, id_column)
    else:
        if drop or id_column is not None:
            raise InputError(f"--drop and --id name columns of a table, and {path} is an array.")
        x = require_numbers(read_array(path, key=key), path)
        if x.ndim < 2:
            raise FileFormatError(
                f"Expected rows (n, d) in {path}, got the shape {x.shape}; save one row as (1, d)."
            )
        _require_rows(x, path)
        present = array_names(path) if suffix == ".npz" else ()
        inside = {name: read_array(path, key=name) for name in wanted if name in present}
    per_row = {}
    for name in wanted:
        values = inside[name] if name in inside else _read_column(name, path)
        if values.shape != (len(x),):
            raise InputError(
                f"Expected {len(x)} values in {name}, one for each row, got the shape "
                f"{values.shape}."
            )
        per_row[name] = values
    return Data(
        x,
        None if labels is None else per_row[labels],
        None if groups is None else per_row[groups],
    )


def read_masks(path: Path | str) -> Array:
    """Masks of pictures from ``.npy``, or from ``.npz`` as the array ``masks`` or the only one.

    Raises
    ------
    FileFormatError
        A file that is missing, damaged, or holds no numbers.
    """
    path = require_file(path)
    if path.suffix.lower() not in ARRAYS:
        raise FileFormatError(f"Expected masks as {' or '.join(ARRAYS)}, got {path}.")
    return require_numbers(read_array(path, names=("masks",)), path)


def _require_rows(x: pd.DataFrame | Array, path: Path) -> None:
    if len(x) == 0:
        raise FileFormatError(f"Expected at least one row in {path}, got the shape {x.shape}.")


def _features(
    table: pd.DataFrame, path: Path, drop: Sequence[str], id_column: str | None
) -> pd.DataFrame:
    wanted = [*drop] if id_column is None else [*drop, id_column]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise InputError(
            f"No column {listed(missing)} in {path}; it has {listed(list(table.columns))}."
        )
    if id_column is not None:
        table = table.set_index(id_column)
    table = table.drop(columns=[column for column in drop if column != id_column])
    text = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    if text:
        raise InputError(
            f"Expected numbers in {path}, got other values in {listed(text)}. Encode them, or "
            "leave them out with --drop; a column of row names goes to --id."
        )
    if table.shape[1] == 0:
        raise FileFormatError(f"Expected columns of numbers in {path}, and none is left.")
    numbers = table.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.DataFrame(numbers, index=table.index, columns=table.columns)


def _read_column(name: str, data_path: Path) -> Array:
    """One value per row from a file of its own."""
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix not in ARRAYS + TABLES:
        raise InputError(
            f"Expected a column or array of {data_path}, or another file "
            f"({', '.join(ARRAYS + TABLES)}), got {name!r}."
        )
    require_file(path)
    if suffix in ARRAYS:
        return read_array(path, names=("y", "labels", "groups"))
    table = read_table(path)
    if table.shape[1] != 1:
        raise InputError(f"Expected one column in {path}, got {listed(list(table.columns))}.")
    return table.iloc[:, 0].to_numpy()
