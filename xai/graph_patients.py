"""One value per patient (a site, a class): a column of the cells, or of a table of patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from graphs.names import as_name
from graphs.readers.columns import several
from graphs.readers.names import joined
from graphs.readers.tables import PARQUET, TEXT, read_columns, table_header
from xai.errors import InputError
from xai.graph_steps import CellFiles
from xai.relevance import Array
from xai.row_columns import read_column, require_one_per_row


def patient_column(name: str, files: CellFiles, patients: Sequence[str], what: str) -> Array:
    """The value of every patient ``(p,)``, in the order of ``patients``.

    Parameters
    ----------
    name
        A column of the cells, or ``FILE:COLUMN`` of a table that names the patients.
    files
        The cells.
    patients
        Names.
    what
        ``"labels"`` or ``"groups"``, for messages.

    Raises
    ------
    InputError
        No such column, a patient without a value, or with several.
    """
    tables = [path for path in files.paths if path.name.lower().endswith((*PARQUET, *TEXT))]
    if any(name in table_header(path) for path in tables):
        values = _of_cells(name, files, tables, what)
        lacking = [patient for patient in patients if patient not in values.index]
        if lacking:
            raise InputError(
                f"--{what} {name}: expected a value for every patient, got none for "
                f"{lacking[0]!r} ({len(lacking)} such patients)."
            )
        return require_one_per_row(values.loc[list(patients)].to_numpy(object), len(patients), name)
    if not Path(name.rpartition(":")[0] or name).exists():
        raise InputError(
            f"--{what} {name}: expected a column of the cells, or FILE:COLUMN of a table with one "
            "row per patient."
        )
    return read_column(name, files.paths[0], len(patients), patients, by_name=True)


def _of_cells(name: str, files: CellFiles, tables: Sequence[Path], what: str) -> pd.Series:
    """The value by patient."""
    key = files.columns.get("patient", files.columns.get("image"))
    if key is None:
        raise InputError(
            f"--{what} {name} is a column of the cells; say which one names their patient: "
            f"--column patient=..."
        )
    parts = []
    for path in tables:
        frame = read_columns(
            path, list(dict.fromkeys([*several(key), name])), [*several(key), name]
        )
        who = pd.Series(joined(frame, key).astype(object), name="patient")
        value = frame[name].map(as_name, na_action="ignore")
        parts.append(pd.DataFrame({"patient": who.to_numpy(), "value": value.to_numpy()}))
    pairs = pd.concat(parts).dropna().drop_duplicates()
    twice = pairs[pairs["patient"].duplicated(keep=False)]
    if len(twice):
        first = twice["patient"].iloc[0]
        values = ", ".join(map(repr, twice.loc[twice["patient"] == first, "value"][:3]))
        raise InputError(
            f"--{what} {name}: expected one value per patient, got {values} for patient "
            f"{first!r}; patients are what is audited."
        )
    found: pd.Series = pairs.set_index("patient")["value"]
    return found
