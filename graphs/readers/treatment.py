"""What to do with rows that are not cells as they should be: by default, refuse them by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from graphs.cell_graph import Array
from neuralize.errors import InputError


class DroppedCellsWarning(UserWarning):
    """Rows were left out, because the caller asked for it; says how many, and why."""


@dataclass(frozen=True)
class Treatment:
    """How strictly rows are read.

    Parameters
    ----------
    phenotypes
        All phenotypes there may be, in the order of their codes; None for those found.
    unknown
        A phenotype that is not in the list, or no phenotype: an ``"error"``, or ``"keep"`` the
        cell with code -1.
    duplicates
        Cells of one image with the same id, or with the same place and phenotype: an ``"error"``,
        ``"drop"`` all but the first, or ``"keep"`` them.
    missing
        Coordinates or features that are not finite, no image or no patient: an ``"error"``, or
        ``"drop"`` the row.
    """

    phenotypes: Sequence[str] | None = None
    unknown: Literal["error", "keep"] = "error"
    duplicates: Literal["error", "drop", "keep"] = "error"
    missing: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        for name, known in (("unknown", ("error", "keep")), ("missing", ("error", "drop")),
                            ("duplicates", ("error", "drop", "keep"))):  # fmt: skip
            if getattr(self, name) not in known:
                raise InputError(f"Expected {name} as {known}, got {getattr(self, name)!r}.")
        if isinstance(self.phenotypes, str):
            raise InputError(f"Expected phenotypes as a list of names, got {self.phenotypes!r}.")

    def coded(
        self, labels: pd.Categorical, rows: Rows, declared: tuple[str, ...] | None = None
    ) -> tuple[Array, tuple[str, ...]]:
        """Codes ``(n,)`` of the phenotypes, and their names: listed, declared by files, or found.

        Raises
        ------
        InputError
            A phenotype that is not in the list, or none, unless unknown ones are kept.
        """
        found = tuple(labels.categories)
        listed = declared if self.phenotypes is None else self.phenotypes
        names = found if listed is None else tuple(map(str, listed))
        number = {name: k for k, name in enumerate(names)}
        codes = np.array([*(number.get(name, -1) for name in found), -1])[labels.codes]
        unknown = np.flatnonzero(codes < 0)
        if len(unknown) and self.unknown == "error":
            first = labels[unknown[0]]
            what = "no phenotype" if pd.isna(first) else repr(first)
            others = sorted({str(v) for v in labels[unknown].dropna()} - {str(first)})
            also = f", also {', '.join(map(repr, others[:5]))}" if others else ""
            known = ", ".join(map(repr, names)) or "(none)"
            raise InputError(
                f"Expected one of the phenotypes {known}, got {what} in {rows[unknown[0]]} "
                f"({len(unknown)} of {len(codes)} cells{also}). Add it to phenotypes=[...], or "
                "keep such cells as unknown: unknown='keep'."
            )
        return codes, names

    def complete(self, broken: Array, why: Array, rows: Rows) -> None:
        """Refuse or announce the rows ``broken`` (numbers), each for its reason ``why``."""
        if not len(broken):
            return
        shown = "; ".join(f"{rows[k]}: {w}" for k, w in list(zip(broken, why, strict=True))[:5])
        more = " ..." if len(broken) > 5 else ""
        if self.missing == "error":
            raise InputError(
                f"Expected finite coordinates and features, an image and a patient for every cell, "
                f"got {len(broken)} of {len(rows)} without ({shown}{more}). Mend the table, or "
                "leave these rows out: missing='drop'."
            )
        _announce(f"{len(broken)} of {len(rows)} cells left out, incomplete ({shown}{more}).")

    def once(self, repeated: Array, first: Array, why: Array, rows: Rows) -> None:
        """Refuse or announce the rows ``repeated``, the same cells as the rows ``first``."""
        if not len(repeated):
            return
        shown = "; ".join(
            f"{rows[b]} repeats {rows[a]}, {w}"
            for a, b, w in list(zip(first, repeated, why, strict=True))[:3]
        )
        more = " ..." if len(repeated) > 3 else ""
        if self.duplicates == "error":
            raise InputError(
                f"Expected every cell once, got {len(repeated)} again ({shown}{more}). "
                "Drop all but the first with duplicates='drop', or keep all with "
                "duplicates='keep'."
            )
        _announce(f"{len(repeated)} of {len(rows)} cells left out, repeated ({shown}{more}).")


class Rows:
    """How rows are called in messages: by file and number, counted from 0.

    Examples
    --------
    >>> rows = Rows({"a.csv": 2, "b.csv": 3})
    >>> len(rows), rows[3]
    (5, 'row 1 of b.csv')
    """

    def __init__(self, counts: dict[str, int], numbers: Array | None = None) -> None:
        self.counts, self.sources = counts, list(counts)
        self.starts = np.cumsum([0, *counts.values()])
        self.numbers = np.arange(self.starts[-1]) if numbers is None else numbers

    def only(self, keep: Array) -> Rows:
        """Those where ``keep`` is true."""
        return Rows(self.counts, self.numbers[keep])

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> str:
        row = int(self.numbers[number])
        part = int(np.searchsorted(self.starts, row, "right")) - 1
        return f"row {row - self.starts[part]} of {self.sources[part]}"


def _announce(message: str) -> None:
    import warnings

    warnings.warn(message, DroppedCellsWarning, stacklevel=5)
