"""Parquet, CSV and TSV tables, QuPath's measurement tables among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from graphs.readers.qupath import qupath_columns
from graphs.readers.units import unit_of
from neuralize.errors import InputError

PARQUET = (".parquet", ".pq")
NOT_NUMBERS = ["", "nan", "NaN", "NAN", "NA", "N/A", "null", "NULL", "None"]
TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


def table(path: Path, columns: Columns | None) -> Table:
    """The columns asked for, and no others, of a table on disk.

    Raises
    ------
    InputError
        A column that is not there.
    """
    header = table_header(path)
    columns = _chosen(columns, header, str(path))
    columns.require(header, str(path))
    frame = read_columns(path, columns.needed, columns.names)
    return Table(frame, columns, str(path), stem(path), unit_of(columns.positions))


def read_columns(path: Path, wanted: Sequence[str], names: Collection[str]) -> pd.DataFrame:
    """The columns ``wanted`` of a file; those in ``names`` as text.

    Raises
    ------
    InputError
        Columns that are not there.
    """
    header = table_header(path)
    lacking = [name for name in wanted if name not in header]
    if lacking:
        raise InputError(
            f"Expected the column {lacking[0]!r} in {path}, which has "
            f"{', '.join(map(repr, header[:30]))}. Say which is which: columns=Columns(...)."
        )
    if path.name.lower().endswith(PARQUET):
        return pd.read_parquet(path, columns=list(wanted))
    separator, encoding = _dialect(path)
    text = [name for name in wanted if name in names]
    return pd.read_csv(
        path,
        sep=separator,
        encoding=encoding,
        usecols=list(wanted),
        dtype=dict.fromkeys(text, "str"),
        # In a column of names "NA" and "None" are names, and only an empty field is missing.
        na_values={name: [""] if name in text else NOT_NUMBERS for name in wanted},
        keep_default_na=False,
    )


def from_frame(frame: pd.DataFrame, columns: Columns | None) -> Table:
    """A table in memory."""
    header = [str(name) for name in frame.columns]
    columns = _chosen(columns, header, "the table")
    columns.require(header, "the table")
    return Table(frame, columns, "the table", "image", unit_of(columns.positions))


def stem(path: Path) -> str:
    """The name of a file without its endings.

    Examples
    --------
    >>> stem(Path("a/slide 1.v2.csv.gz"))
    'slide 1.v2'
    """
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.with_suffix("").name if plain.suffix else plain.name


def _chosen(columns: Columns | None, header: list[str], where: str) -> Columns:
    if columns is not None:
        return columns
    return qupath_columns(header, where) or Columns()


def table_header(path: Path) -> list[str]:
    """The names of a file's columns."""
    if path.name.lower().endswith(PARQUET):
        import pyarrow.parquet as parquet

        return list(parquet.read_schema(path).names)
    separator, encoding = _dialect(path)
    return list(pd.read_csv(path, sep=separator, encoding=encoding, nrows=0).columns)


def _dialect(path: Path) -> tuple[str, str]:
    """Separator and encoding: QuPath writes tabs, and its micro sign once came as Latin-1."""
    import gzip

    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        line = file.readline()
    encoding = "utf-8-sig"
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError:
        encoding = "latin-1"
        text = line.decode(encoding)
    if not text.strip():
        raise InputError(f"Expected a line of column names in {path}, got nothing.")
    return max("\t;,", key=text.count), encoding
