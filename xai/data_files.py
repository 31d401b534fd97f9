"""Rows to explain or audit, from the files people keep them in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from xai.idx_files import is_idx, read_idx
from xai.picture_folders import Size, picture_names, printable, read_pictures
from xai.relevance import Array
from xai.row_columns import FOLDER, read_column, require_one_per_row, sub_folders


class Data(NamedTuple):
    """Rows from a file or folder, and what is known of each.

    Attributes
    ----------
    x
        A table or array ``(n, ...)``.
    labels, groups
        Class and origin of every row ``(n,)``, if asked for.
    names
        Of the rows, where they are pictures in a folder.
    chosen
        Numbers of the rows among ``total`` in the file, where only some were taken; else None.
    total
        Rows in the file.
    """

    x: pd.DataFrame | Array
    labels: Array | None = None
    groups: Array | None = None
    names: tuple[str, ...] | None = None
    chosen: Array | None = None
    total: int = 0


def read_data(
    path: Path | str,
    *,
    key: str | None = None,
    drop: Sequence[str] = (),
    id_column: str | None = None,
    labels: str | None = None,
    groups: str | None = None,
    size: Size | None = None,
    channels: int | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> Data:
    r"""Read rows from ``.npy``, ``.npz``, ``.csv``, ``.parquet``, IDX, or a folder of pictures.

    Parameters
    ----------
    path
        The file or folder. Tables keep their column names. Pictures of a folder are ``(n, h, w)``
        or ``(n, 3, h, w)`` from 0 to 1, those in an IDX file ``(n, h, w)`` as they are.
    key
        Array of an ``.npz`` file; when missing ``x``, ``X`` or the only one with two or more axes.
    drop
        Columns of a table to leave out.
    id_column
        Column of a table with the names of the rows.
    labels, groups
        Column of the table (it is then no feature), array of the ``.npz`` file, or another file;
        of a table ``FILE:COLUMN``, matched by names where it has them. Of pictures in a folder also
        ``"folder"``: their sub-folders.
    size, channels
        Of pictures in a folder, see :func:`xai.picture_folders.read_pictures`.
    rows, seed
        Take that many rows at random, in their order.

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
    if Path(path).is_dir():
        _require_no_columns(Path(path), drop, id_column, key)
        return _from_folder(Path(path), labels, groups, size, channels, rows, seed)
    path = require_file(path)
    suffix = path.suffix.lower()
    if suffix not in ARRAYS + TABLES and not is_idx(path):
        raise FileFormatError(
            f"Expected data as {', '.join(ARRAYS + TABLES)}, IDX or a folder of pictures, got "
            f"{path} ({suffix or 'no suffix'})."
        )
    x: pd.DataFrame | Array
    wanted = [name for name in (labels, groups) if name is not None]
    names = None
    if suffix in TABLES:
        if key is not None:
            raise InputError(f"--key names an array of an .npz file, and {path} is a table.")
        table = read_table(path)
        _require_rows(table, path)
        inside = {name: table[name].to_numpy() for name in wanted if name in table.columns}
        x = _features(table.drop(columns=list(inside)), path, drop, id_column)
        if not isinstance(x.index, pd.RangeIndex):
            names = tuple(map(str, x.index))
    else:
        _require_no_columns(path, drop, id_column)
        x = read_idx(path) if is_idx(path) else read_array(path, key=key)
        x = require_numbers(x, path)
        if x.ndim < 2:
            raise FileFormatError(
                f"Expected rows (n, d) in {path}, got the shape {x.shape}; save one row as (1, d)."
            )
        _require_rows(x, path)
        present = array_names(path) if suffix == ".npz" else ()
        inside = {name: read_array(path, key=name) for name in wanted if name in present}
    total = len(x)

    def column(name: str) -> Array:
        if name in inside:
            return require_one_per_row(inside[name], total, name)
        return read_column(name, path, total, names)

    chosen = chosen_rows(total, rows, seed)
    found = x
    if chosen is not None:
        found = x.iloc[chosen] if isinstance(x, pd.DataFrame) else x[chosen]
    columns = _per_row(labels, groups, column, chosen)
    return Data(found, *columns, chosen=chosen, total=total)


def chosen_rows(total: int, rows: int | None, seed: int) -> Array | None:
    """Numbers of ``rows`` rows drawn at random, in their order; None where all are taken.

    Examples
    --------
    >>> chosen_rows(5, 2, seed=0).tolist(), chosen_rows(5, 9, seed=0)
    ([3, 4], None)
    """
    if rows is None or rows >= total:
        return None
    drawn: Array = np.random.default_rng(seed).choice(total, rows, replace=False)
    return np.sort(drawn)


def _from_folder(
    folder: Path,
    labels: str | None,
    groups: str | None,
    size: Size | None,
    channels: int | None,
    rows: int | None,
    seed: int,
) -> Data:
    files = picture_names(folder)
    names = tuple(map(printable, files))

    def column(name: str) -> Array:
        if name == FOLDER:
            return sub_folders(names, folder)
        return read_column(name, folder, len(names), names, by_name=True)

    chosen = chosen_rows(len(files), rows, seed)
    columns = _per_row(labels, groups, column, chosen)  # before the pictures, which take long
    taken = range(len(files)) if chosen is None else chosen
    pictures = read_pictures(folder, [files[i] for i in taken], size=size, channels=channels)
    x = pictures.x[:, 0] if pictures.x.shape[1] == 1 else pictures.x
    return Data(x, *columns, pictures.names, chosen, len(files))


def _per_row(
    labels: str | None,
    groups: str | None,
    column: Callable[[str], Array],
    chosen: Array | None,
) -> tuple[Array | None, Array | None]:
    """Labels and groups of the chosen rows."""
    found = [None if name is None else column(name) for name in (labels, groups)]
    if chosen is not None:
        found = [None if values is None else values[chosen] for values in found]
    return found[0], found[1]


def _require_no_columns(
    path: Path, drop: Sequence[str], id_column: str | None, key: str | None = None
) -> None:
    if drop or id_column is not None:
        raise InputError(f"--drop and --id name columns of a table, and {path} is none.")
    if key is not None:
        raise InputError(f"--key names an array of an .npz file, and {path} is none.")


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
