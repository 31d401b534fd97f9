"""From what people hold (arrays, tensors, DataFrames) to rows, with the names they came with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import issparse
from torch import Tensor

from xai.errors import InputError
from xai.file_formats import listed

Names = tuple[str, ...] | None


def to_rows(x: Any) -> tuple[Tensor, tuple[str, ...] | None, tuple[str, ...] | None]:
    """Array-like or DataFrame to a tensor, with column and row names where there are some.

    Raises
    ------
    InputError
        Text, objects or ragged rows.
    """
    if isinstance(x, Tensor):
        if x.layout != torch.strided or x.is_complex() or x.dtype == torch.bfloat16 or x.ndim < 2:
            raise InputError(
                f"Expected rows (n, d) as a dense real tensor, got {x.dtype} of shape "
                f"{tuple(x.shape)}, layout {x.layout}."
            )
        return x.detach(), None, None
    if issparse(x):
        raise InputError("Expected dense rows, got a sparse matrix; pass x.toarray().")
    names = rows = None
    if isinstance(x, pd.DataFrame):
        twice = x.columns[x.columns.duplicated()]
        if len(twice):
            raise InputError(f"Expected column names of their own, got {twice[0]!r} twice.")
        missing = x.columns[x.isna().any()]
        if len(missing):
            raise InputError(
                f"Expected finite values, got missing ones (NaN) in {listed(list(missing))}. "
                "Impute or drop these rows first."
            )
        text = [str(c) for c in x.columns if not pd.api.types.is_numeric_dtype(x[c])]
        if text:
            raise InputError(
                f"Expected numeric columns, got {', '.join(map(repr, text))} of type "
                f"{x[text[0]].dtype}; encode or drop them."
            )
        names, rows = tuple(map(str, x.columns)), tuple(map(str, x.index))
        x = x.to_numpy()
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InputError(f"Expected rows of equal length, got: {error}") from error
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"Expected numbers, got {error}.") from error
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise InputError(f"Expected numbers, got dtype {array.dtype}.")
    if np.iscomplexobj(array):
        raise InputError("Expected real numbers, got complex ones.")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.ndim < 2:
        raise InputError(
            f"Expected rows (n, d), got an array of shape {array.shape}; reshape to (1, d) for one "
            "row."
        )
    # Rows of a DataFrame may be read-only, which torch does not take.
    return torch.from_numpy(np.require(array, requirements=["C", "W"])), names, rows


def match_columns(x: Any, names: Sequence[str] | None, source: object = "the data") -> Any:
    """A DataFrame's columns in the order the model was fitted on, where both have names.

    Anything else comes back as it is; so does a table whose columns have no names of their own
    (``"feature 0"``, ``"feature 1"``, ... or numbers).

    Raises
    ------
    InputError
        A column of the model that is missing, or one it does not know.

    Examples
    --------
    >>> turned = pd.DataFrame({"hue": [1.0], "ash": [2.0]})
    >>> list(match_columns(turned, ["ash", "hue"]).columns)
    ['ash', 'hue']
    """
    if names is None or not isinstance(x, pd.DataFrame) or list(names) == list(x.columns):
        return x
    if all(column in (i, f"feature {i}") for i, column in enumerate(x.columns)):
        return x
    missing = [name for name in names if name not in x.columns]
    unknown = [column for column in x.columns if column not in names]
    if missing:
        raise InputError(
            f"The model was fitted on {listed(missing)}, which {source} does not have."
        )
    if unknown:
        raise InputError(
            f"The model was not fitted on {listed(unknown)} of {source}; leave such columns out "
            "(--drop), or name them with --id or --labels if that is what they are."
        )
    return x[list(names)]
