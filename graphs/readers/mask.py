"""Label masks: an image in which every cell's pixels hold its number, and a table of phenotypes."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from graphs.cell_graph import Array
from graphs.readers.columns import Columns
from graphs.readers.contents import Table
from graphs.readers.names import joined
from graphs.readers.tables import read_columns, stem
from neuralize.errors import InputError

ENDINGS = (".npy", ".tif", ".tiff", ".png")
COLUMNS = Columns(cell_id="label")


def mask(source: Path | Array, labels: pd.DataFrame | str | Path, columns: Columns | None) -> Table:
    """Centres of the labels of a mask, with the phenotypes a table gives them.

    ``columns`` names the table's columns (``cell_id`` is the label, by default ``label``); its
    ``x`` and ``y`` are not read. Where ``columns.image`` is given, the rows of this mask's image
    count. ``x`` is the column and ``y`` the row, from 0 at the centre of the first pixel.

    Raises
    ------
    InputError
        A mask that is not a plane of whole numbers; a label without a row, or a row without label.
    """
    where = str(source) if isinstance(source, Path) else "the mask"
    image = stem(source) if isinstance(source, Path) else "image"
    numbers, centres = centres_of(load(source) if isinstance(source, Path) else source, where)
    columns = columns or COLUMNS
    if columns.cell_id is None:
        raise InputError("Expected the column of labels: Columns(cell_id=..., phenotype=...).")
    table = _labels(labels, columns)
    if columns.image is not None:
        table = table[np.asarray(joined(table, columns.image) == image)]
    label = pd.to_numeric(table[columns.cell_id])
    if label.duplicated().any():
        raise InputError(f"Expected one row per label of {where}, got several for "
                         f"{label[label.duplicated()].iloc[0]}.")  # fmt: skip
    for name, found, other in (("labels of the mask in the table", numbers, label),
                               ("labels of the table in the mask", label, numbers)):  # fmt: skip
        lacking = np.setdiff1d(found, other)
        if len(lacking):
            raise InputError(
                f"Expected all {name}, got none of {lacking[:5].tolist()} ({len(lacking)} of "
                f"{len(np.unique(found))}; {where}). Cut the table and the mask to the same cells."
            )
    frame = table.set_index(label.to_numpy()).loc[numbers].reset_index(drop=True)
    frame = frame.assign(**{columns.x: centres[:, 0], columns.y: centres[:, 1]})
    return Table(frame, replace(columns, z=None), where, image, "px")


def centres_of(labels: Array, where: str = "the mask") -> tuple[Array, Array]:
    """Labels above 0 ``(n,)`` and the centres of mass ``(n, 2)`` of their pixels, as x, y.

    Raises
    ------
    InputError
        Not a plane of whole numbers, or none above 0.

    Examples
    --------
    >>> centres_of(np.array([[0, 7, 7], [3, 0, 0]]))
    (array([3, 7]), array([[0. , 1. ], [1.5, 0. ]]))
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
        raise InputError(
            f"Expected a plane of whole numbers from 0 in {where}, got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    rows, columns = np.nonzero(labels)
    numbers, codes, counts = np.unique(labels[rows, columns], return_inverse=True,
                                       return_counts=True)  # fmt: skip
    if not len(numbers):
        raise InputError(f"Expected at least one label above 0 in {where}, got none.")
    centres = np.stack([np.bincount(codes, axis) / counts for axis in (columns, rows)], 1)
    return numbers, centres


def load(path: Path) -> Array:
    """A label mask from ``.npy``, ``.tif`` (with tifffile) or ``.png`` (8 or 16 bits).

    Raises
    ------
    InputError
        tifffile is not installed, or the picture has colours.
    """
    ending = path.suffix.lower()
    if ending == ".npy":
        found: Array = np.load(path, allow_pickle=False)
        return found
    if ending == ".png":
        from PIL import Image

        with Image.open(path) as picture:
            if not picture.mode.startswith(("I", "L", "1")):
                raise InputError(f"Expected a grey picture of labels in {path}, got "
                                 f"{picture.mode}.")  # fmt: skip
            return np.asarray(picture).astype(np.int64)
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError as error:
        raise InputError(
            f"Reading {path} needs tifffile (pip install tifffile); or save the mask as .npy."
        ) from error
    read = np.asarray(tifffile.imread(path))
    return read.squeeze() if read.ndim > 2 else read


def _labels(labels: pd.DataFrame | str | Path, columns: Columns) -> pd.DataFrame:
    wanted = [name for name in columns.needed if name not in columns.positions]
    if not isinstance(labels, pd.DataFrame):
        return read_columns(Path(labels), wanted, columns.names - {columns.cell_id})
    lacking = [name for name in wanted if name not in labels.columns]
    if lacking:
        raise InputError(
            f"Expected the column {lacking[0]!r} in the table of labels, which has "
            f"{', '.join(map(repr, labels.columns))}. Say which is which: columns=Columns(cell_id="
            "..., phenotype=...)."
        )
    return labels
