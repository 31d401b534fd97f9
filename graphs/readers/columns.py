"""Which column of a table says what about a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from neuralize.errors import InputError


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
            found.update(dict.fromkeys(several(getattr(self, field.name))))
        return tuple(found)

    @property
    def names(self) -> frozenset[str]:
        """Columns of names, which are read as text even where they look like numbers."""
        named = (self.image, self.patient, self.cell_id, self.region)
        single = [self.phenotype] if isinstance(self.phenotype, str) else []
        return frozenset(c for value in (*named, *single) for c in several(value))

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
            for column in several(getattr(self, field.name))
            if column not in set(found)
        }
        if lacking:
            wanted = ", ".join(f"{column!r} ({use})" for column, use in lacking.items())
            there = ", ".join(map(repr, list(found)[:30])) + (" ..." if len(found) > 30 else "")
            raise InputError(
                f"Expected the column {wanted} in {where}, which has {there or 'none'}. Say which "
                "column is which: columns=Columns(x=..., y=..., phenotype=..., image=...)."
            )


def several(value: str | Sequence[str] | Mapping[str, str] | None) -> tuple[str, ...]:
    """None, one name or several, as several."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
