"""What an audit is given, checked and brought into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from xai.errors import InputError
from xai.explainer import to_rows
from xai.plot.images import channel_axis
from xai.relevance import Array


def rows_of(data: Any) -> tuple[Array, tuple[str, ...] | None, tuple[str, ...] | None]:
    """The data in memory ``(n, ...)``, with the names columns and rows had.

    Of a loader's batches that are tuples, the first entry counts.

    Raises
    ------
    InputError
        Nothing, or what :func:`xai.explainer.to_rows` refuses.
    """
    listed = isinstance(data, list | tuple)
    if isinstance(data, Iterable) and not hasattr(data, "shape") and not listed:
        entries = [batch[0] if isinstance(batch, list | tuple) else batch for batch in data]
        if not entries:
            raise InputError("Expected at least one batch, got an empty loader.")
        return np.concatenate([to_rows(entry)[0].cpu().numpy() for entry in entries]), None, None
    rows, feature_names, row_names = to_rows(data)
    if not len(rows):
        raise InputError(f"Expected at least one row, got shape {tuple(rows.shape)}.")
    return rows.cpu().numpy(), feature_names, row_names


def column_of(values: Any, n: int, name: str) -> Array | None:
    """Labels or groups as an array ``(n,)``.

    Raises
    ------
    InputError
        Not one per row.
    """
    if values is None:
        return None
    column = np.asarray(values)
    if column.shape != (n,):
        raise InputError(f"Expected {n} {name}, one per row, got shape {column.shape}.")
    return column


def anomalies(labels: Array | None) -> Array | None:
    """Which rows are anomalous ``(n,)``, where labels are 0 (normal) and 1; None where not.

    Examples
    --------
    >>> anomalies(np.array([0, 1, 0])).tolist(), anomalies(np.array(["cat", "dog"]))
    ([False, True, False], None)
    """
    if labels is None or set(np.unique(labels).tolist()) != {0, 1}:
        return None
    found: Array = labels == 1
    return found


def masks_of(masks: Any, shape: Sequence[int]) -> Array | None:
    """Masks as booleans ``(n, h, w)``.

    Raises
    ------
    InputError
        For tables, for other shapes, and for values other than True and False.
    """
    if masks is None:
        return None
    array = np.asarray(masks)
    if len(shape) < 3:
        raise InputError(
            f"Masks say where in a picture evidence may lie, and the data are a table {shape}; "
            "pass pictures (n, h, w), or leave masks out."
        )
    axis = channel_axis(tuple(shape[1:]))
    picture = [
        size for i, size in enumerate(shape[1:]) if axis is None or i - len(shape) + 1 != axis
    ]
    if array.shape != (shape[0], *picture):
        raise InputError(f"Expected masks {(shape[0], *picture)}, got {array.shape}.")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise InputError("Expected masks of True and False, or 1 and 0, got other values.")
    empty = np.flatnonzero(~array.any((1, 2)))
    if len(empty):
        raise InputError(
            f"Expected masks with something inside, got an empty one in row {empty[0]}."
        )
    return array.astype(bool)
