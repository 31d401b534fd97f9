"""CellViT's ``cells.json``: ``{"wsi_metadata", "type_map", "cells": [{centroid, type, ...}]}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from graphs.readers.typed import by_number, typed_table
from neuralize.errors import InputError


def from_cellvit(
    content: Mapping[str, Any],
    columns: Columns | None,
    type_names: Mapping[Any, Any] | None,
    *,
    source: str,
    image: str,
) -> Table:
    """Cells in pixels, named by ``type_names`` or else by the file's own ``type_map``.

    Raises
    ------
    InputError
        Cells that are not a list.
    """
    cells = content["cells"]
    if not isinstance(cells, list):
        raise InputError(f"Expected a list of 'cells' in {source}, got {type(cells).__name__}.")
    given = type_names if type_names is not None else content.get("type_map") or {}
    names = by_number(given, "type_names" if type_names is not None else source)
    numbered = ((str(k), cell) for k, cell in enumerate(cells))
    return typed_table(numbered, names, columns, source=source, image=image)
