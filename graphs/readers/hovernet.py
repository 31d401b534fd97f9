"""HoVer-Net's JSON: ``{"mag", "nuc": {id: {bbox, centroid [x, y], contour, type_prob, type}}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from graphs.readers.typed import by_number, typed_table
from neuralize.errors import InputError


def from_hovernet(
    content: Mapping[str, Any],
    columns: Columns | None,
    type_names: Mapping[Any, Any] | None,
    *,
    source: str,
    image: str,
) -> Table:
    """Nuclei in pixels of the magnification the network ran at; ``mpp`` is that one's.

    Raises
    ------
    InputError
        Nuclei that are not kept by id.
    """
    nuclei = content["nuc"]
    if not isinstance(nuclei, Mapping):
        raise InputError(f"Expected 'nuc' by id in {source}, got {type(nuclei).__name__}.")
    names = by_number(type_names or {}, "type_names")
    return typed_table(nuclei.items(), names, columns, source=source, image=image)
