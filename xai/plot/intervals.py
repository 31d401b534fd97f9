r"""Means over patients with an interval: patients are what was sampled, never cells.

By Student, :math:`\bar x \pm t_{n-1} s / \sqrt n`, or by a percentile bootstrap, which draws
patients with replacement (Efron, Annals of Statistics 1979). Each interval stands for itself:
several of them are not corrected for their number.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from xai.errors import InputError

Interval = Literal["t", "bootstrap"]


def mean_intervals(
    table: pd.DataFrame,
    interval: Interval = "t",
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of every column over patients, its interval, and of how many.

    Parameters
    ----------
    table
        ``(p, k)``, one row per patient; NaN where a patient says nothing about a column.
    interval
        ``"t"`` or ``"bootstrap"``.
    level
        Of each interval.
    draws, seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        ``mean``, ``lower``, ``upper``, ``patients`` per column; no interval for a single patient.

    Raises
    ------
    InputError
        Another kind of interval, a level outside (0, 1), no draws, no patients.

    Examples
    --------
    >>> mean_intervals(pd.DataFrame({"T cell": [1.0, 2.0, 3.0]})).round(2)
            mean  lower  upper  patients
    T cell   2.0  -0.48   4.48         3
    """
    if interval not in get_args(Interval):
        raise InputError(f"Expected interval 't' or 'bootstrap', got {interval!r}.")
    if not 0 < level < 1:
        raise InputError(f"Expected a level between 0 and 1, got {level}.")
    if draws < 1:
        raise InputError(f"Expected at least one draw, got {draws}.")
    if not len(table):
        raise InputError("Expected at least one patient, got none.")
    rng = np.random.default_rng(seed)
    rows = {}
    for name in table.columns:
        values = table[name].to_numpy(np.float64)
        values = values[~np.isnan(values)]
        n = len(values)
        low = high = np.nan
        mean = values.mean() if n else np.nan
        if n > 1 and interval == "t":
            half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
            low, high = mean - half, mean + half
        elif n > 1:
            means = values[rng.integers(0, n, (draws, n))].mean(1)
            low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        rows[name] = (mean, low, high, n)
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["mean", "lower", "upper", "patients"]
    )


def interval_words(interval: Interval, level: float) -> str:
    """What an interval is, for captions.

    Examples
    --------
    >>> interval_words("t", 0.95)
    "95% interval over patients (Student's t)"
    """
    how = "Student's t" if interval == "t" else "percentile bootstrap"
    return f"{100 * level:g}% interval over patients ({how})"
