"""Options of ``xai explain --graph``, and how their texts are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xai.cli_options import some_of

GRAPH_FORMATS = ("npz", "csv", "parquet", "json", "geojson", "png", "svg")
GRAPH_DEFAULT_FORMATS = ("npz", "csv", "png")
FIELDS = ("x", "y", "z", "phenotype", "image", "patient", "cell_id", "region", "features")
SEVERAL = ("phenotype", "image", "patient", "features")


def column(text: str) -> tuple[str, Any]:
    """``FIELD=COLUMN``, or several columns with commas; phenotypes as ``COLUMN:NAME``, too.

    Raises
    ------
    typer.BadParameter
        An unknown field, or several columns for one that takes one.

    Examples
    --------
    >>> column("x=X_um"), column("features=size,stain")
    (('x', 'X_um'), ('features', ('size', 'stain')))
    >>> column("phenotype=CK:tumour,CD8:T cell")
    ('phenotype', {'CK': 'tumour', 'CD8': 'T cell'})
    """
    field, equals, value = (part.strip() for part in text.partition("="))
    if field not in FIELDS or not (equals and value):
        raise typer.BadParameter(
            f"expected FIELD=COLUMN with one of {', '.join(FIELDS)}, got {text!r}"
        )
    names = tuple(part.strip() for part in value.split(","))
    if not all(names) or (len(names) > 1 and field not in SEVERAL):
        raise typer.BadParameter(f"expected one column for {field}, got {value!r}")
    if field == "features":
        return field, names
    if len(names) == 1:
        return field, names[0]
    if field == "phenotype" and all(":" in name for name in names):
        pairs = [name.partition(":") for name in names]
        return field, {before.strip(): after.strip() for before, _, after in pairs}
    return field, names


def lengths(text: str) -> tuple[float, ...]:
    """``25,50,100``: numbers above 0, each once, ascending.

    Examples
    --------
    >>> lengths("100,25")
    (25.0, 100.0)
    """
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(math.isfinite(length) and length > 0 for length in found):
        raise typer.BadParameter(f"expected lengths above 0, like 25,50,100, got {text!r}")
    return tuple(found)


def graph_formats(text: str) -> tuple[str, ...]:
    """Formats of what explains cells."""
    return some_of(GRAPH_FORMATS, text)


Network = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Graph network or ensemble: .safetensors with its manifest beside it.",
        show_default=False,
    ),
]
Cells = Annotated[
    list[Path],
    typer.Option(
        "--graph",
        metavar="FILE",
        help="Cells: .parquet, .csv, .tsv, .h5ad, .geojson or .json; may be repeated.",
    ),
]
Column = Annotated[
    list[Any] | None,
    typer.Option(
        "--column",
        metavar="FIELD=COLUMN",
        parser=column,
        help=f"What a column of the cells is: {', '.join(FIELDS)}; may be repeated.",
    ),
]
UnitName = Annotated[
    Literal["um", "mm", "px"] | None,
    typer.Option("--unit", help="Of the positions, where the file does not say it."),
]
Mpp = Annotated[float | None, typer.Option(help="Micrometres per pixel, for positions in pixels.")]
Unknown = Annotated[
    Literal["error", "keep"], typer.Option(help="Cells of a phenotype the model does not know.")
]
Duplicates = Annotated[
    Literal["error", "drop", "keep"], typer.Option(help="Cells that are there twice.")
]
Missing = Annotated[
    Literal["error", "drop"], typer.Option(help="Cells with values that are missing.")
]
Nearest = Annotated[int | None, typer.Option("--k", min=1, help="Join each cell to its k nearest.")]
MaxEdge = Annotated[float | None, typer.Option(metavar="LENGTH", help="Longest edge of --k.")]
Radius = Annotated[
    float | None, typer.Option(metavar="LENGTH", help="Join cells that are at most so far apart.")
]
Triangles = Annotated[
    float | None,
    typer.Option("--delaunay", metavar="LENGTH", help="Join by triangles, edges at most so long."),
]
Grid = Annotated[
    float | None, typer.Option(metavar="LENGTH", help="Squares that relevance stays in.")
]
Offsets = Annotated[
    int, typer.Option(min=1, help="Shifts of the grid along each axis to average over.")
]
Range = Annotated[
    Any,
    typer.Option(
        "--range", metavar="LENGTHS", parser=lengths,
        help="Measure how much stays inside squares of these sizes, e.g. 25,50,100.",
    ),
]  # fmt: skip
Patients = Annotated[
    Path | None,
    typer.Option(
        "--covariates", metavar="FILE",
        help="Table with one row per patient: what the model wants, and the outcome.",
    ),
]  # fmt: skip
PatientId = Annotated[
    str | None,
    typer.Option("--id", metavar="COLUMN", help="The patient in that table; unless given, the "
                 "first column."),
]  # fmt: skip
Time = Annotated[str | None, typer.Option(metavar="COLUMN", help="Survival times in that table.")]
Event = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="1 where the event happened, 0 where not.")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--patient", metavar="NAME", help="Only this patient; may be repeated."),
]
Gamma = Annotated[float, typer.Option(min=0, help="Of the rule in the convolutions.")]
SlideMpp = Annotated[
    float | None,
    typer.Option(help="Micrometres per pixel of the slides GeoJSON lies on; --mpp unless given."),
]
WithReport = Annotated[
    bool, typer.Option("--report", help="Write report.html and report.json, too.")
]
