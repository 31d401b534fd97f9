"""Which column of a table says what about a cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from neuralize.errors import InputError

POSITIVE = {"true", "1", "1.0", "positive", "yes"}
NEGATIVE = {"false", "0", "0.0", "negative", "no"}


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns.

    Parameters
    ----------
    x, y, z
        Coordinates of the centre; ``z`` None for cells in a plane.
    phenotype
        One column of names; or several columns of which at most one is positive in a cell
        (booleans, 0/1, or strings such as ``"CK+"``/``"CK-"``), as ``[column, ...]`` or, to name
        the phenotypes otherwise, as ``{column: phenotype}``; None for cells without phenotypes.
    image, patient
        None: the whole table is one image (named after the file); every image its own patient.
        Several columns are joined by ``_``, for images that are numbered within their patient.
    cell_id
        The cell's own name; None if it has none.
    region
        The tissue region it lies in.
    features
        Further measurements.

    Examples
    --------
    >>> Columns(x="X", y="Y", phenotype={"phenotype_ck": "tumour", "phenotype_cd8": "T cell"},
    ...         image=("patient", "field"), patient="patient").needed
    ('X', 'Y', 'phenotype_ck', 'phenotype_cd8', 'patient', 'field')
    """

    x: str = "x"
    y: str = "y"
    z: str | None = None
    phenotype: str | Sequence[str] | Mapping[str, str] | None = "phenotype"
    image: str | Sequence[str] | None = None
    patient: str | Sequence[str] | None = None
    cell_id: str | None = None
    region: str | None = None
    features: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.features, str):
            raise InputError(f"Expected features as a list of columns, got {self.features!r}.")

    @property
    def positions(self) -> tuple[str, ...]:
        """The two or three columns of coordinates."""
        return (self.x, self.y) if self.z is None else (self.x, self.y, self.z)

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column, once, in the order of the fields."""
        found: dict[str, None] = {}
        for field in fields(self):
            found.update(dict.fromkeys(_several(getattr(self, field.name))))
        return tuple(found)

    @property
    def names(self) -> frozenset[str]:
        """Columns of names, which are read as text even where they look like numbers."""
        named = (self.image, self.patient, self.cell_id, self.region)
        single = [self.phenotype] if isinstance(self.phenotype, str) else []
        return frozenset(c for value in (*named, *single) for c in _several(value))

    def require(self, found: Sequence[str], where: str) -> None:
        """Refuse a table that lacks a column.

        Raises
        ------
        InputError
            Naming the columns that are missing, what they are for, and those that are there.
        """
        lacking = {
            column: field.name
            for field in fields(self)
            for column in _several(getattr(self, field.name))
            if column not in set(found)
        }
        if lacking:
            wanted = ", ".join(f"{column!r} ({use})" for column, use in lacking.items())
            there = ", ".join(map(repr, list(found)[:30])) + (" ..." if len(found) > 30 else "")
            raise InputError(
                f"Expected the column {wanted} in {where}, which has {there or 'none'}. Say which "
                "column is which: columns=Columns(x=..., y=..., phenotype=..., image=...)."
            )


def _several(value: str | Sequence[str] | Mapping[str, str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def named(series: pd.Series) -> pd.Categorical:
    """A column of names: text categories, whole numbers without ``.0``; missing stays missing.

    Sorted, numbers by value; the categories of a categorical column stay, used or not, in their
    order.

    Examples
    --------
    >>> named(pd.Series([10.0, None, 9.0]))
    ['10', NaN, '9']
    Categories (2, str): ['9', '10']
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, values = series.cat.codes.to_numpy(), series.cat.categories
        texts = [_text(value) for value in values]
        unique = {name: k for k, name in enumerate(dict.fromkeys(texts))}
    else:
        codes, values = pd.factorize(series)
        texts = [_text(value) for value in values]
        unique = {name: k for k, name in enumerate(sorted(set(texts), key=natural))}
    again = np.array([*(unique[name] for name in texts), -1], np.int64)
    return categorical(again[codes], list(unique))


def categorical(codes: np.ndarray, names: Sequence[str]) -> pd.Categorical:
    """Names by code ``(n,)``; -1 is missing."""
    index: Any = pd.Index(list(names), dtype=str)
    found: pd.Categorical = pd.Categorical.from_codes(codes, categories=index)
    return found


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sorts numbers inside names by value.

    Examples
    --------
    >>> sorted(["10_1", "2_10", "2_9", "b"], key=natural)
    ['2_9', '2_10', '10_1', 'b']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts)


def _text(value: object) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def joined(frame: pd.DataFrame, column: str | Sequence[str]) -> pd.Categorical:
    """One column of names, or several joined by ``_``; missing where one of them is."""
    first, *others = [named(frame[name]) for name in _several(column)]
    for other in others:
        names = [f"{a}_{b}" for a in first.categories for b in other.categories]
        codes = first.codes.astype(np.int64) * len(other.categories) + other.codes
        codes[(first.codes < 0) | (other.codes < 0)] = -1
        used = np.unique(codes[codes >= 0])
        codes = np.where(codes < 0, -1, np.searchsorted(used, codes))
        first = named(pd.Series(categorical(codes, [names[k] for k in used])))
    return first


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
