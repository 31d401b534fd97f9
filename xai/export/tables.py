"""Relevance of cells and parts as CSV or Parquet, one line each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from xai.errors import FileFormatError
from xai.storage import replacing

if TYPE_CHECKING:
    from graphs.relevance import GraphRelevance

SUFFIXES = (".csv", ".parquet")


def cells_to_table(relevance: GraphRelevance, path: str | Path) -> Path:
    """Write one line per cell: patient, image, cell, place, phenotype, relevance, part; the path.

    Raises
    ------
    FileFormatError
        A name that ends neither in ``.csv`` nor in ``.parquet``.
    """
    return write_table(relevance.to_frame(), path)


def parts_to_table(relevance: GraphRelevance, path: str | Path) -> Path:
    """Write one line per part: image, patient, number of cells, relevance; the path.

    Raises
    ------
    FileFormatError
        A name that ends neither in ``.csv`` nor in ``.parquet``.
    InputError
        Relevance without a partition.
    """
    return write_table(relevance.parts(), path)


def write_table(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table without its index, whole or not at all; the path."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise FileFormatError(f"Expected a name ending in {' or '.join(SUFFIXES)}, got {path}.")
    with replacing(path) as file:
        if path.suffix.lower() == ".csv":
            frame.to_csv(file, mode="wb", index=False)
        else:
            frame.to_parquet(file, index=False)
    return path
