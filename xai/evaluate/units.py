"""What is removed together: a column, a pixel with all its channels, or a patch of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuralize.errors import InputError

Index = NDArray[np.intp]


def pixels(shape: Sequence[int]) -> Index:
    """Positions of a picture's values in the flattened row, as ``(h, w, channels)``.

    Parameters
    ----------
    shape
        Of one picture: ``(h, w)``, ``(h, w, 3)`` or ``(c, h, w)``.

    Raises
    ------
    InputError
        The rows are no pictures.

    Examples
    --------
    >>> pixels((2, 2)).tolist()
    [[[0], [1]], [[2], [3]]]
    >>> pixels((3, 1, 2)).tolist()
    [[[0, 2, 4], [1, 3, 5]]]
    """
    if len(shape) not in (2, 3):
        raise InputError(
            f"Expected pictures (n, h, w), (n, h, w, 3) or (n, c, h, w), got rows of shape "
            f"{tuple(shape)}. Reshape the data, or leave patches and inpainting to pictures."
        )
    flat = np.arange(math.prod(shape)).reshape(shape)
    if len(shape) == 2:
        return flat[:, :, None]
    return flat if shape[-1] == 3 else np.moveaxis(flat, 0, -1)


def feature_units(shape: Sequence[int], patch: int = 1) -> Index:
    """Flat positions of every unit ``(n_units, size)``, padded with ``d`` where a unit has fewer.

    Parameters
    ----------
    shape
        Of one row: ``(d,)``, or that of a picture.
    patch
        Side of the square patches of a picture, from the upper left; smaller at the far edges.

    Raises
    ------
    InputError
        Patches of a table, or none that fit.

    Examples
    --------
    >>> feature_units((3,)).tolist()
    [[0], [1], [2]]
    >>> feature_units((2, 3), 2).tolist()
    [[0, 1, 3, 4], [2, 5, 6, 6]]
    """
    if patch < 1:
        raise InputError(f"Expected patch >= 1, got {patch}.")
    if len(shape) == 1:
        if patch != 1:
            raise InputError(f"Expected patch=1 for the columns of a table, got {patch}.")
        return np.arange(shape[0])[:, None]
    grid = pixels(shape)
    h, w = grid.shape[:2]
    squares = [
        grid[i : i + patch, j : j + patch].ravel()
        for i in range(0, h, patch)
        for j in range(0, w, patch)
    ]
    units = np.full((len(squares), max(map(len, squares))), grid.size)
    for row, square in zip(units, squares, strict=True):
        row[: len(square)] = square
    return units
