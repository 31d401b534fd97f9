"""The phenotype of every row, from one column of names or from one column per phenotype."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from graphs.readers.columns import Columns
from graphs.readers.names import categorical, named
from neuralize.errors import InputError

POSITIVE = {"true", "1", "1.0", "positive", "yes"}
NEGATIVE = {"false", "0", "0.0", "negative", "no"}


def phenotypes(frame: pd.DataFrame, columns: Columns, where: str) -> pd.Categorical:
    """The phenotype of every row, missing where it has none.

    Raises
    ------
    InputError
        Two positive columns in one row, or a value that is neither positive nor negative.
    """
    chosen = columns.phenotype
    if chosen is None:
        return categorical(np.full(len(frame), -1), [])
    if isinstance(chosen, str):
        return named(frame[chosen])
    names = dict(chosen) if isinstance(chosen, Mapping) else {column: column for column in chosen}
    if len(set(names.values())) < len(names):
        raise InputError(f"Expected a phenotype for each column, got {names}.")
    codes = np.full(len(frame), -1)
    for k, column in enumerate(names):
        positive = _positive(frame[column], where)
        twice = np.flatnonzero(positive & (codes >= 0))
        if len(twice):
            other = list(names)[codes[twice[0]]]
            raise InputError(
                f"Expected at most one positive phenotype in a row of {where}, got {other!r} and "
                f"{column!r} in row {twice[0]} ({len(twice)} rows). Make one column of their "
                "combinations first."
            )
        codes[positive] = k
    return categorical(codes, list(names.values()))


def _positive(series: pd.Series, where: str) -> np.ndarray:
    codes, values = pd.factorize(series)
    signs = []
    for k, value in enumerate(values):
        text = str(value).strip().lower()
        if not (text in POSITIVE | NEGATIVE or text.endswith(("+", "-"))):
            row = int(np.flatnonzero(codes == k)[0])
            raise InputError(
                f"Expected {series.name!r} as true/false, 1/0, or text ending in + or -, got "
                f"{value!r} in row {row} of {where}."
            )
        signs.append(text in POSITIVE or text.endswith("+"))
    found: np.ndarray = np.array([*signs, False])[codes]
    return found
