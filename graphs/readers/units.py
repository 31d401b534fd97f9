"""Lengths: micrometres where anything says how long a pixel is, else pixels and no pretence."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from graphs.cell_graph import Array, Unit
from neuralize.errors import InputError

FileUnit = Literal["um", "px", "mm"]

_SUFFIX = re.compile(r"(?:^|[\s_.(\[])(µm|μm|um|micron|microns|px|pixel|pixels|mm)[\])]?$", re.I)
_UNITS: dict[str, FileUnit] = {"px": "px", "pixel": "px", "pixels": "px", "mm": "mm"}


def unit_of(names: Sequence[str]) -> FileUnit | None:
    """The unit that the names of columns end with, if they all agree.

    Examples
    --------
    >>> unit_of(["Centroid X µm", "Centroid Y µm"]), unit_of(["x_px", "y_px"]), unit_of(["x", "y"])
    ('um', 'px', None)
    """
    found = {match[1].lower() if (match := _SUFFIX.search(name)) else "" for name in names}
    units = {_UNITS.get(name, "um") if name else None for name in found}
    return units.pop() if len(units) == 1 else None


def in_graph_unit(
    positions: Array,
    *,
    claimed: FileUnit | None,
    said: FileUnit | None,
    usual: FileUnit | None = None,
    mpp: float | None,
    where: str,
) -> tuple[Array, Unit]:
    """Positions in micrometres; in pixels where nothing says how long a pixel is.

    Parameters
    ----------
    positions
        ``(n, d)`` as read.
    claimed
        The unit the caller named.
    said
        The unit the file or its format names.
    usual
        The unit such files have where nobody says another.
    mpp
        Micrometres per pixel.
    where
        The file, for errors.

    Raises
    ------
    InputError
        No unit at all, two units, micrometres per pixel for what is not in pixels.
    """
    if claimed not in (None, "um", "px", "mm"):
        raise InputError(f"Expected unit 'um', 'px' or 'mm', got {claimed!r}.")
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        raise InputError(f"Expected mpp, micrometres per pixel, above 0, got {mpp}.")
    if claimed is not None and said is not None and claimed != said:
        advice = "Leave unit out and give mpp=<micrometres per pixel>" if said == "px" else (
            "Leave unit out"
        )  # fmt: skip
        raise InputError(
            f"Expected positions in {claimed!r}, and those of {where} are in {said!r}. {advice}."
        )
    unit = claimed or said or usual or (None if mpp is None else "px")
    if unit is None:
        raise InputError(
            f"Expected the unit of the positions in {where}, which does not say it. Pass "
            "unit='um', unit='mm', mpp=<micrometres per pixel>, or unit='px' if the pixel size is "
            "not known."
        )
    if unit == "px":
        return (positions, "px") if mpp is None else (positions * mpp, "um")
    if mpp is not None:
        raise InputError(
            f"Expected mpp for positions in pixels only, got mpp={mpp} and positions in {unit!r} "
            f"({where}), which it would scale once more. Leave mpp out, or pass unit='px'."
        )
    return (positions * 1000 if unit == "mm" else np.asarray(positions)), "um"
