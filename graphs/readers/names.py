"""Columns of names: images, patients, regions, phenotypes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from graphs.names import as_name
from graphs.readers.columns import several
from neuralize.errors import InputError


def named(series: pd.Series) -> pd.Categorical:
    """A column of names: text categories, whole numbers without ``.0``; missing stays missing.

    Sorted, numbers by value; the categories of a categorical column stay, used or not, in their
    order.

    Examples
    --------
    >>> named(pd.Series([10.0, None, 9.0]))
    ['10', NaN, '9']
    Categories (2, str): ['9', '10']
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, values = series.cat.codes.to_numpy(), series.cat.categories
        texts = [as_name(value) for value in values]
        unique = {name: k for k, name in enumerate(dict.fromkeys(texts))}
    else:
        codes, values = pd.factorize(series)
        texts = [as_name(value) for value in values]
        unique = {name: k for k, name in enumerate(sorted(set(texts), key=natural))}
    again = np.array([*(unique[name] for name in texts), -1], np.int64)
    return categorical(again[codes], list(unique))


def categorical(codes: np.ndarray, names: Sequence[str]) -> pd.Categorical:
    """Names by code ``(n,)``; -1 is missing."""
    index: Any = pd.Index(list(names), dtype=str)
    found: pd.Categorical = pd.Categorical.from_codes(codes, categories=index)
    return found


def joined(frame: pd.DataFrame, column: str | Sequence[str]) -> pd.Categorical:
    """One column of names, or several joined by ``_``; missing where one of them is.

    Raises
    ------
    InputError
        Two different rows of names that look the same when joined.
    """
    first, *others = [named(frame[name]) for name in several(column)]
    for other in others:
        names = [f"{a}_{b}" for a in first.categories for b in other.categories]
        codes = first.codes.astype(np.int64) * len(other.categories) + other.codes
        codes[(first.codes < 0) | (other.codes < 0)] = -1
        used = np.unique(codes[codes >= 0])
        codes = np.where(codes < 0, -1, np.searchsorted(used, codes))
        chosen = [names[k] for k in used]
        if len(set(chosen)) < len(chosen):
            twice = next(name for name in chosen if chosen.count(name) > 1)
            raise InputError(
                f"Expected rows of {', '.join(map(repr, several(column)))} that differ when joined "
                f"by '_', got {twice!r} from two. Make one column of them."
            )
        first = categorical(codes, chosen)
    return first


def union(parts: Sequence[pd.Categorical], *, in_order: bool = False) -> pd.Categorical:
    """Columns one after another; sorted if asked, unless all agree on an order."""
    whole: pd.Categorical = parts[0] if len(parts) == 1 else union_categoricals(list(parts))
    if not in_order or all(list(part.categories) == list(whole.categories) for part in parts):
        return whole
    return whole.reorder_categories(sorted(whole.categories, key=natural))


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sorts numbers inside names by value.

    Examples
    --------
    >>> sorted(["10_1", "2_10", "2_9", "b"], key=natural)
    ['2_9', '2_10', '10_1', 'b']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts)
