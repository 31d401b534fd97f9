"""The commands that work on reports: ``xai compare`` and ``xai schema``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xai import cli_options as options
from xai.cli_output import print_json, print_text


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="Report, as JSON.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="Another, as JSON.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="comparison.html or comparison.json."),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Put two reports side by side. Exit code 1 if the second has a new or a worse objection.

    An objection is a finding of severity warning or worse. The reports are of two checkpoints, or
    of one before and after a repair.

    Example: xai compare before.json after.json --out comparison.html
    """
    from xai import command_steps as steps
    from xai.errors import InputError
    from xai.printout import comparison_text
    from xai.report import compare as compared

    if out is not None and out.suffix.lower() not in (".html", ".json"):
        raise InputError(f"Expected a file name ending in .html or .json, got {out.name!r}.")
    where = None if out is None else steps.Destination(out.parent, (out.name,))
    with steps.results(where, overwrite=overwrite, inputs=[first, second]) as scratch:
        both = compared(first, second)
        if where is not None and scratch is not None:
            steps.write_report(both, scratch / where.names[0])
    if as_json:
        print_json(both.to_dict())
    else:
        print_text(comparison_text(both), [] if where is None else where.paths)
    raise typer.Exit(both.exit_code)


def schema(as_json: options.AsJson = False) -> None:
    """Print the JSON Schema of the JSON that audits write; with --json on one line.

    Example: xai schema > report.schema.json
    """
    from xai.report import report_schema
    from xai.report.twin import written_schema

    if as_json:
        print_json(report_schema())
    else:
        typer.echo(written_schema(), nl=False)
