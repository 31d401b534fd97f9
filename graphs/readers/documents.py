"""JSON files of cells, told apart by what is in them."""

from __future__ import annotations

import gc
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphs.readers.cellvit import from_cellvit
from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from graphs.readers.geojson import from_geojson
from graphs.readers.hovernet import from_hovernet
from graphs.readers.tables import stem
from neuralize.errors import InputError

TypeNames = Mapping[Any, Any]
ENDINGS = (".json", ".geojson", ".json.gz", ".geojson.gz")


def document(path: Path, columns: Columns | None, type_names: TypeNames | None) -> Table:
    """The cells of a GeoJSON, HoVer-Net or CellViT file.

    Raises
    ------
    InputError
        A file that is none of these.
    """
    with _without_collector():
        return _read(_load(path), path, columns, type_names)


def _read(content: Any, path: Path, columns: Columns | None, type_names: TypeNames | None) -> Table:
    read: Callable[..., Table]
    if isinstance(content, dict) and "nuc" in content:
        read = from_hovernet
    elif isinstance(content, dict) and "cells" in content:
        read = from_cellvit
    elif isinstance(content, list) or (isinstance(content, dict) and "type" in content):
        if type_names is not None:
            raise InputError(f"Expected type_names for HoVer-Net or CellViT only, got {path}.")
        return from_geojson(content, columns, source=str(path), image=stem(path))
    else:
        raise InputError(
            f"Expected GeoJSON ('type'), HoVer-Net ('nuc') or CellViT ('cells') in {path}, got "
            f"{sorted(content)[:10] if isinstance(content, dict) else type(content).__name__}."
        )
    return read(content, columns, type_names, source=str(path), image=stem(path))


def _load(path: Path) -> Any:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        try:
            return json.loads(file.read())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"Expected JSON in {path}, got none: {error}.") from error


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of small lists, none of them garbage: looking for cycles takes most of the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
