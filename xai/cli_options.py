"""Options that the commands of ``xai`` share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xai.cli_given import given

FORMATS = ("npz", "csv", "parquet", "json", "png", "svg", "html")
DEFAULT_FORMATS = ("npz", "csv", "png")
REPORT_FORMATS = ("html", "json", "xml")
REPORT_DEFAULT_FORMATS = ("html", "json")
WORDS = "xai.words"
"""Where the context of a command keeps the words it was called with."""

MethodName = Literal[
    "lrp",
    "gradient",
    "gradient_x_input",
    "integrated_gradients",
    "nearest_neighbor_difference",
    "random",
]


def shape(text: str) -> tuple[int, ...]:
    """``28x28`` or ``32x32x3``; a single channel at the end is dropped."""
    sides = text.lower().split("x")
    if len(sides) not in (2, 3) or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise typer.BadParameter(f"expected HxW or HxWxC, like 28x28 or 32x32x3, got {text!r}")
    sizes = tuple(map(int, sides))
    return sizes[:2] if sizes[2:] == (1,) else sizes


def span(text: str) -> slice:
    """``START:STOP`` as Python counts, or one row."""
    try:
        bounds = [int(part) if part else None for part in text.split(":")]
    except ValueError:
        bounds = []
    if len(bounds) == 1 and bounds[0] is not None:
        return slice(bounds[0], bounds[0] + 1 or None)
    if len(bounds) != 2:
        raise typer.BadParameter(f"expected START:STOP, like 0:10, or one row, got {text!r}")
    return slice(*bounds)


def some_of(known: Sequence[str], text: str) -> tuple[str, ...]:
    """``npz,csv`` in the order given, each once."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"expected some of {', '.join(known)}, got {unknown[0]!r}")
    return names


def format_list(text: str) -> tuple[str, ...]:
    """Formats of what explains rows."""
    return some_of(FORMATS, text)


def setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value as a number where it is one."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name.isidentifier() and equals and value):
        raise typer.BadParameter(f"expected NAME=VALUE, like decision=outlier, got {text!r}")
    for number in (int, float):
        try:
            return name, number(value)
        except ValueError:
            continue
    return name, value


Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Fitted model: .skops; .npy, .npz or .csv with centroids (K, d); .safetensors with "
        "its manifest; .pt, .pth, .tar or .ckpt of another project, see --given; with --trust a "
        "pickle (.joblib, .pkl).",
        show_default=False,
    ),
]
Data = Annotated[Path, typer.Option("--data", metavar="FILE", help=".csv, .parquet, .npy or .npz.")]
Image = Annotated[
    Any,
    typer.Option(
        metavar="HxW[xC]", parser=shape, help="Rows are pictures of this shape, flattened."
    ),
]
Settings = Annotated[
    list[Any] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        parser=setting,
        help="Option of the model's network, e.g. decision=outlier; may be repeated.",
    ),
]
Given = Annotated[
    list[Any] | None,
    typer.Option(
        "--given",
        metavar="NAME=VALUE",
        parser=given,
        help="What a checkpoint of another project does not say, e.g. contrast=mnist:3; may be "
        "repeated.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER|FILE",
        help="Where results go: a folder, or a file whose suffix names its format.",
    ),
]
Key = Annotated[str | None, typer.Option(metavar="NAME", help="Array of an .npz data file.")]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Column of a table to leave out; may be repeated."),
]
Id = Annotated[
    str | None, typer.Option("--id", metavar="COLUMN", help="Column with names of the rows.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Let the model file run code; only if you know where it is from."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER|FILE",
        help="report.html, report.json, report.xml (JUnit), or a folder for the first two.",
    ),
]
Checks = Annotated[
    list[str] | None,
    typer.Option("--check", metavar="NAME", help="Ask only this; may be repeated."),
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Save answers here as they come; go on from those of an audit that was stopped.",
    ),
]
JUnit = Annotated[Path | None, typer.Option(metavar="FILE", help="Where JUnit XML for CI goes.")]
