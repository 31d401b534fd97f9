"""Cells of a numbered type: what HoVer-Net's and CellViT's files have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from neuralize.errors import InputError

COLUMNS = Columns(cell_id="cell_id")


def typed_table(
    cells: Iterable[tuple[str, Mapping[str, Any]]],
    names: Mapping[int, str],
    columns: Columns | None,
    *,
    source: str,
    image: str,
) -> Table:
    """A table of ``x``, ``y``, ``phenotype``, ``cell_id``, ``type_prob``.

    A type that has no name is called ``type <number>``: unknown where others have names.

    Raises
    ------
    InputError
        A cell without a centroid of two numbers.
    """
    centres, types, probabilities, ids = [], [], [], []
    for name, cell in cells:
        centre = cell.get("centroid")
        if not isinstance(centre, list | tuple) or len(centre) != 2:
            raise InputError(f"Expected a centroid [x, y], got {centre!r} in cell {name} of "
                             f"{source}.")  # fmt: skip
        centres.append(centre)
        types.append(cell.get("type"))
        probabilities.append(cell.get("type_prob"))
        ids.append(name)
    places = np.array(centres, np.float64).reshape(-1, 2)
    labels = [None if t is None else names.get(int(t), f"type {int(t)}") for t in types]
    frame = pd.DataFrame(
        {
            "x": places[:, 0],
            "y": places[:, 1],
            "phenotype": pd.Series(labels, dtype="str"),
            "cell_id": ids,
            "type_prob": np.array(probabilities, np.float64),
        }
    )
    declared = tuple(dict.fromkeys(names.values())) or None
    return Table(frame, columns or COLUMNS, source, image, unit="px", phenotypes=declared)


def by_number(type_names: Mapping[Any, Any], where: str) -> dict[int, str]:
    """Names by number.

    From any of ``{1: name}``, ``{"1": name}``, ``{"1": [name, colour]}`` and ``{name: 1}``: the
    third is HoVer-Net's ``type_info.json``, the last CellViT's ``nuclei_types``.

    Raises
    ------
    InputError
        Anything else.

    Examples
    --------
    >>> by_number({"0": ["background", [0, 0, 0]], "1": ["tumour", [255, 0, 0]]}, "types")
    {0: 'background', 1: 'tumour'}
    >>> by_number({"Neoplastic": 1}, "types")
    {1: 'Neoplastic'}
    """
    found = {}
    for key, value in type_names.items():
        number, name = (value, key) if isinstance(value, int) else (key, value)
        if isinstance(name, list | tuple) and name:
            name = name[0]
        if not isinstance(name, str) or not str(number).isdigit():
            raise InputError(
                f"Expected names of types as {{1: 'tumour', ...}} in {where}, got {key!r}: "
                f"{value!r}."
            )
        found[int(number)] = name
    return found
