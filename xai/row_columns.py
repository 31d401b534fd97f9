"""One value per row (its class, its site) from a file of its own, matched by name where it can be.

A table that names the rows is matched by these names; without them, order is all there is, and the
number of values must be that of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from xai.errors import InputError
from xai.file_formats import ARRAYS, TABLES, listed, read_array, read_table, require_file
from xai.idx_files import is_idx, read_idx
from xai.relevance import Array

FOLDER = "folder"
"""Labels or groups of this name are the sub-folders that pictures lie in."""


def read_column(
    name: str,
    data_path: Path,
    n: int,
    row_names: Sequence[str] | None = None,
    *,
    by_name: bool = False,
) -> Array:
    r"""Values ``(n,)`` of all rows of ``data_path``.

    Parameters
    ----------
    name
        A file: ``.npy``, ``.npz``, IDX, or a table; of a table with several columns,
        ``FILE:COLUMN``.
    data_path
        Where the rows are from, for messages.
    n, row_names
        How many rows there are, and what they are called: ids, or paths in a folder of pictures.
    by_name
        Whether a table has to name the rows: the order of files is nobody's choice.

    Raises
    ------
    InputError
        Another number of values, a row without one or with two, or a choice that is not clear.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "sites.csv")
    ...     _ = path.write_text("file,scanner\nb.png,S2\na.png,S1\n")
    ...     read_column(f"{path}:scanner", Path(folder), 2, ["a.png", "b.png"]).tolist()
    ['S1', 'S2']
    """
    path, column = _file_and_column(name)
    suffix = path.suffix.lower()
    if suffix in TABLES:
        values = _from_table(read_table(require_file(path)), path, column, row_names, by_name)
    elif column is not None:
        raise InputError(f"{name}: only a table has columns ({', '.join(TABLES)}).")
    elif suffix in ARRAYS:
        values = read_array(require_file(path), names=("y", "labels", "groups"))
    elif is_idx(path):
        values = read_idx(require_file(path))
    else:
        raise InputError(
            f"Expected a column or array of {data_path}, or another file "
            f"({', '.join(ARRAYS + TABLES)}, of a table FILE:COLUMN), got {name!r}."
        )
    return require_one_per_row(values, n, name)


def require_one_per_row(values: Array, n: int, name: str) -> Array:
    """The values, if there are ``n`` and none is missing.

    Raises
    ------
    InputError
        Another number, several per row, or gaps.
    """
    if values.shape != (n,):
        raise InputError(
            f"Expected {n} values in {name}, one for each row, got the shape {values.shape}."
        )
    gaps = np.flatnonzero(pd.isna(values))
    if len(gaps):
        raise InputError(
            f"Expected a value for every row in {name}, got none for {len(gaps)} of {n}, the first "
            f"of them row {gaps[0]}. Name what is unknown, or leave these rows out."
        )
    return values


def sub_folders(names: Sequence[str], folder: Path) -> Array:
    """The sub-folder of every picture ``(n,)``.

    Raises
    ------
    InputError
        All pictures lie in the folder itself.

    Examples
    --------
    >>> sub_folders(["cat/1.png", "dog/a/2.png"], Path("pets")).tolist()
    ['cat', 'dog/a']
    """
    parents = [PurePosixPath(name).parent.as_posix() for name in names]
    if set(parents) == {"."}:
        raise InputError(
            f"--labels {FOLDER} takes the names of sub-folders, and the pictures lie in {folder} "
            "itself; give a table of file names and labels, FILE:COLUMN."
        )
    return np.array(parents)


def _file_and_column(name: str) -> tuple[Path, str | None]:
    path, colon, column = name.rpartition(":")
    if colon and path and column and not Path(name).exists() and len(path) > 1:
        return Path(path), column
    return Path(name), None


def _from_table(
    table: pd.DataFrame,
    path: Path,
    column: str | None,
    row_names: Sequence[str] | None,
    by_name: bool,
) -> Array:
    if column is not None and column not in table.columns:
        raise InputError(f"No column {column!r} in {path}; it has {listed(list(table.columns))}.")
    named = None if row_names is None else _matching(table, row_names, column)
    if named is None:
        if by_name:
            assert row_names is not None
            raise InputError(
                f"No column of {path} names the pictures, such as {row_names[0]!r}; it has "
                f"{listed(list(table.columns))}."
            )
        if column is None and table.shape[1] != 1:
            raise InputError(
                f"Expected one column in {path}, got {listed(list(table.columns))}. Name one with "
                f"{path}:COLUMN"
                + ("." if row_names is None else ", and the rows by their names in another.")
            )
        return table[column or table.columns[0]].to_numpy()
    keys, wanted = named
    if column is None:
        others = [c for c in table.columns if c != keys.name]
        if len(others) != 1:
            raise InputError(
                f"Expected one column beside {keys.name!r} in {path}, got {listed(others)}. Name "
                f"one with {path}:COLUMN."
            )
        column = others[0]
    twice = keys[keys.duplicated() & keys.isin(wanted)]
    if len(twice):
        raise InputError(f"{path} names {twice.iloc[0]!r} more than once.")
    missing = [row for row in wanted if row not in set(keys)]
    if missing:
        raise InputError(
            f"{path} has no line for {len(missing)} of {len(wanted)} rows, the first of them "
            f"{missing[0]!r}."
        )
    found: Array = pd.Series(table[column].to_numpy(), keys.to_numpy())[list(wanted)].to_numpy()
    return found


def _matching(
    table: pd.DataFrame, row_names: Sequence[str], column: str | None
) -> tuple[pd.Series[str], list[str]] | None:
    """The column, or the index, that names rows, and what it should hold for every row.

    Rows go by their whole names or else by the last parts of their paths, as many as find most
    rows and tell all apart: a table may be older than the place where the files lie.
    """
    if table.shape[1] == 1 and isinstance(table.index, pd.RangeIndex):
        return None  # values, even where they look like names
    candidates = [table[c] for c in table.columns if c != column]
    if not isinstance(table.index, pd.RangeIndex):
        candidates.insert(0, pd.Series(table.index, name=None))
    depth = max(len(PurePosixPath(name).parts) for name in row_names)
    best: tuple[pd.Series[str], list[str]] | None = None
    most = 0
    for parts in (None, *range(depth, 0, -1)):
        wanted = [_last(str(name), parts) for name in row_names]
        if len(set(wanted)) < len(wanted):
            continue
        for candidate in candidates:
            text = pd.Series([_last(str(v), parts) for v in candidate], name=candidate.name)
            hits = len(set(text) & set(wanted))
            if hits > most:
                best, most = (text, wanted), hits
    return best


def _last(name: str, parts: int | None) -> str:
    """The last parts of a path.

    Examples
    --------
    >>> _last("a/b/c.png", 2), _last("c.png", 2), _last("a/b", None)
    ('b/c.png', 'c.png', 'a/b')
    """
    return name if parts is None else "/".join(name.replace("\\", "/").split("/")[-parts:])
