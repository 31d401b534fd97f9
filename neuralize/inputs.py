"""What a network's input must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralize.errors import InputError


def as_rows(X: Any, dtype: type[np.floating[Any]] | None = None, what: str = "row") -> Tensor:
    """Array-like to a finite, non-empty batch ``(n, ...)``, copied.

    Parameters
    ----------
    X
        Anything numpy or torch takes for numbers.
    dtype
        Precision; the rows' own when missing, float64 for integers.
    what
        What a row is, for messages.

    Raises
    ------
    InputError
        Text, ragged rows, none, NaN or infinity.

    Examples
    --------
    >>> as_rows([[1, 2]]).dtype, as_rows([[1, 2]], np.float32).dtype
    (torch.float64, torch.float32)
    """
    try:
        array = X.detach().cpu().numpy() if isinstance(X, Tensor) else np.asarray(X)
        own = array.dtype if array.dtype in (np.float32, np.float64) else np.float64
        x = torch.from_numpy(np.array(array, dtype=dtype or own))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Expected numbers, every {what} of the same shape; got: {error}"
        ) from error
    if x.ndim < 2 or len(x) == 0:
        raise InputError(f"Expected at least one {what} (n, ...), got shape {tuple(x.shape)}.")
    require_finite(x)
    return x


def require_width(x: Tensor, n_features: int | None, model_name: str) -> None:
    """Raise :class:`InputError` unless ``x`` is ``(n, n_features)``."""
    if x.ndim != 2 or x.shape[1] != n_features:
        raise InputError(
            f"Expected {n_features} features per row, the width {model_name or 'the model'} was "
            f"fitted on, got shape {tuple(x.shape)}."
        )


def require_rows(x: Tensor) -> None:
    """Raise :class:`InputError` for a batch ``(n, ...)`` without rows."""
    if x.ndim == 0 or len(x) == 0:
        raise InputError(f"Expected at least one row, got shape {tuple(x.shape)}.")


def require_finite(x: Tensor, first_row: int = 0) -> None:
    """Raise :class:`InputError` for NaN or infinity in rows ``x`` ``(n, ...)``.

    Rows are counted from ``first_row`` in the message, where ``x`` is a part of a batch.

    Examples
    --------
    >>> require_finite(torch.tensor([[0.0], [float("nan")]]))
    Traceback (most recent call last):
    ...
    neuralize.errors.InputError: Expected finite values, got 1 NaN or infinite ones, the first in
    row 1. Impute or drop these rows first.
    """
    if bool(torch.isfinite(x.sum())):  # one cheap pass; an overflowing sum is looked into
        return
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        row, count = first_row + int((~finite).nonzero()[0, 0]), int((~finite).sum())
        raise InputError(
            f"Expected finite values, got {count} NaN or infinite ones, the first in row {row}. "
            "Impute or drop these rows first."
        )


def require_finite_answer(
    evidence: Tensor, values: Tensor, first_row: int, model_name: str
) -> None:
    """Raise :class:`InputError` where finite rows gave an evidence or relevance that is not."""
    if bool(torch.isfinite(evidence.sum() + values.sum())):
        return
    bad = ~(torch.isfinite(evidence) & torch.isfinite(values).flatten(1).all(1))
    if bool(bad.any()):
        row = first_row + int(bad.nonzero()[0, 0])
        raise InputError(
            f"{model_name} has no finite answer for {int(bad.sum())} rows, the first of them row "
            f"{row}: their values are too large for its arithmetic, or outside of what its "
            "preprocessing is defined on. Compare them with the data it was fitted on."
        )


def cluster_targets(target: Tensor | int, n_rows: int, n_clusters: int) -> Tensor:
    """One cluster per row ``(n,)``, from one for all or one each.

    Examples
    --------
    >>> cluster_targets(1, 3, 2).tolist()
    [1, 1, 1]
    """
    rows = torch.as_tensor(target)
    if rows.is_floating_point() or rows.dtype == torch.bool:
        raise InputError(f"Expected integer cluster targets, got {rows.dtype}.")
    if rows.ndim == 0:
        rows = rows.expand(n_rows)
    if rows.shape != (n_rows,):
        raise InputError(f"Expected {n_rows} targets, one per row, got {tuple(rows.shape)}.")
    if bool(((rows < 0) | (rows >= n_clusters)).any()):
        raise InputError(
            f"Expected clusters 0 to {n_clusters - 1}, got {int(rows.min())} to {int(rows.max())}."
        )
    return rows.long().contiguous()
