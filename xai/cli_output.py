"""What commands print on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

NAMED = 20
"""Files up to which each is named."""


def print_json(document: Any) -> None:
    """One JSON document and nothing else."""
    typer.echo(json.dumps(document, allow_nan=False))


def print_text(text: str, files: list[Path]) -> None:
    """Text, and a line for every file that was written, or their number if they are many."""
    written = [f"Wrote {path}" for path in files]
    if len(files) > NAMED:
        written = [f"Wrote {len(files)} files into {files[0].parent}"]
    typer.echo("\n".join([text, *written]))
