"""QuPath's measurement tables (TSV or CSV): their columns, found by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graphs.readers.columns import Columns
from neuralize.errors import InputError

_CENTROID = re.compile(r"^Centroid ([XYZ])(?: (?:µm|μm|um|px))?$")
_ORDER = ("µm", "μm", "um", "px", "")


def qupath_columns(header: Sequence[str], where: str) -> Columns | None:
    """The column map of a QuPath table; None for a table that is not one.

    Centroids in micrometres are preferred to those in pixels. The phenotype is ``Classification``
    (``Class`` in older versions), the region ``Parent``, the cell id ``Object ID``.

    Raises
    ------
    InputError
        Centroids without a column of classes.

    Examples
    --------
    >>> qupath_columns(["Image", "Class", "Parent", "Centroid X µm", "Centroid Y µm"], "a.tsv")
    Columns(x='Centroid X µm', y='Centroid Y µm', z=None, phenotype='Class', image='Image',
            patient=None, cell_id=None, region='Parent', features=())
    """
    found = {name: match[1] for name in header if (match := _CENTROID.match(name))}

    def axis(letter: str) -> str | None:
        names = [name for name in found if found[name] == letter]
        ends = {name: name.removeprefix(f"Centroid {letter}").strip() for name in names}
        return min(names, key=lambda name: _ORDER.index(ends[name])) if names else None

    x, y = axis("X"), axis("Y")
    if x is None or y is None:
        return None

    def first(*names: str) -> str | None:
        return next((name for name in names if name in header), None)

    phenotype = first("Classification", "Class")
    if phenotype is None:
        raise InputError(
            f"Expected 'Classification' or 'Class' beside the centroids of {where}, got neither. "
            "Classify the cells before exporting, or pass columns=Columns(..., phenotype=None)."
        )
    return Columns(x=x, y=y, phenotype=phenotype, image=first("Image"),
                   cell_id=first("Object ID"), region=first("Parent"))  # fmt: skip
