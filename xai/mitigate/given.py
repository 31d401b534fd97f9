"""What repairs are fitted on: features of rows, and which rows carry the artefact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xai.errors import InputError

Array = NDArray[Any]


def as_features(values: ArrayLike) -> Array:
    """Finite features ``(n, q)`` of at least two rows, in float64.

    Raises
    ------
    InputError
        Anything else.

    Examples
    --------
    >>> as_features([[1], [2]]).shape
    (2, 1)
    """
    a = np.asarray(values, np.float64)
    if a.ndim != 2 or len(a) < 2 or not np.isfinite(a).all():
        raise InputError(f"Expected finite features (n, q) of at least two rows, got {a.shape}.")
    return a


def as_carriers(has_artefact: ArrayLike, n: int) -> Array:
    """Which of ``n`` rows carry the artefact, boolean, of both kinds.

    Raises
    ------
    InputError
        Not one boolean per row, or rows of only one kind.

    Examples
    --------
    >>> as_carriers([True, False], 2)
    array([ True, False])
    """
    y = np.asarray(has_artefact)
    if y.shape != (n,) or y.dtype != bool:
        raise InputError(f"Expected {n} booleans, one per row, got {y.shape} of {y.dtype}.")
    if y.all() or not y.any():
        raise InputError("Expected rows with the artefact and rows without, got one kind.")
    return y


def as_columns(groups: ArrayLike, labels: ArrayLike | None, n: int) -> tuple[Array, Array]:
    """Group and label of each of ``n`` rows; without labels they are all alike.

    Raises
    ------
    InputError
        Of other lengths.

    Examples
    --------
    >>> as_columns(["a", "b"], None, 2)[1]
    array([0, 0])
    """
    group = np.asarray(groups)
    label = np.zeros(n, int) if labels is None else np.asarray(labels)
    if group.shape != (n,) or label.shape != (n,):
        raise InputError(f"Expected {n} groups and labels, one per row.")
    return group, label
