"""What every reader makes of a file: a table, and which of its columns says what."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from graphs.cell_graph import Array
from graphs.readers.columns import Columns
from graphs.readers.units import FileUnit


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
