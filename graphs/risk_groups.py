"""Patients in groups of risk: Kaplan-Meier curves and the log-rank test.

``S(t) = prod_{t_k <= t} (1 - d_k / n_k)``, ``d_k`` deaths among ``n_k`` patients at risk (Kaplan,
Meier, JASA 1958); the band has Greenwood's variance on the log(-log) scale. Both by lifelines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from graphs.optional import lifelines, quiet
from graphs.survival import Outcome
from neuralize.errors import InputError

Array = np.ndarray
Groups = Literal["median", "tertiles"]
NAMES: dict[str, tuple[str, ...]] = {
    "median": ("low", "high"),
    "tertiles": ("low", "middle", "high"),
}


def risk_groups(log_hazard: Any, by: Groups = "median", reference: Any = None) -> pd.Categorical:
    """Groups of equal size by log hazard ``(p,)``: ``low`` and ``high``, or with ``middle``.

    Parameters
    ----------
    by
        ``"median"`` or ``"tertiles"``.
    reference
        Log hazards to take the limits from, those of the training patients; then groups of new
        patients need not be of equal size. The patients' own when missing.

    Raises
    ------
    InputError
        Another ``by``; log hazards that are not finite, or so alike that a group would be empty.

    Examples
    --------
    >>> list(risk_groups([0.1, -1.0, 2.0, 0.5]))
    ['low', 'low', 'high', 'high']
    >>> list(risk_groups([0.1, 2.0], reference=[-3.0, -2.0]))
    ['high', 'high']
    """
    if by not in NAMES:
        raise InputError(f"Expected groups by 'median' or 'tertiles', got {by!r}.")
    values = np.asarray(log_hazard, np.float64)
    limits_of = values if reference is None else np.asarray(reference, np.float64)
    if not len(values) or not np.isfinite(values).all() or not np.isfinite(limits_of).all():
        raise InputError("Expected finite log hazards of at least one patient.")
    k = len(NAMES[by])
    limits = np.quantile(limits_of, np.arange(1, k) / k)
    codes = np.searchsorted(limits, values)
    if reference is None and len(np.unique(codes)) < k:
        raise InputError(
            f"Expected log hazards that can be put into {k} groups, got {len(np.unique(values))} "
            f"different values of {len(values)} patients."
        )
    names = np.array(NAMES[by], object)
    return pd.Categorical(names[codes], list(NAMES[by]), ordered=True)


def kaplan_meier(outcome: Outcome, level: float = 0.95) -> pd.DataFrame:
    """The curve as a table: ``time``, ``survival``, ``lower``, ``upper``, ``at_risk``, ``events``.

    One row at time 0 and at every time in the outcome; the curve is constant from each on.

    Parameters
    ----------
    level
        Of the band, pointwise.

    Raises
    ------
    InputError
        A level that is not between 0 and 1.

    Examples
    --------
    >>> outcome = Outcome(("1", "2", "3", "4"), np.array([1.0, 2, 2, 3]), np.array([1, 1, 0, 1]))
    >>> kaplan_meier(outcome)["survival"].round(3).tolist()
    [1.0, 0.75, 0.5, 0.0]
    """
    if not 0 < level < 1:
        raise InputError(f"Expected a level between 0 and 1, got {level}.")
    with quiet():
        fitted = lifelines().KaplanMeierFitter(alpha=1 - level)
        fitted.fit(outcome.time, outcome.event)
        table = fitted.event_table
        band = fitted.confidence_interval_survival_function_
    return pd.DataFrame(
        {
            "time": table.index.to_numpy(np.float64),
            "survival": fitted.survival_function_.iloc[:, 0].to_numpy(),
            "lower": band.iloc[:, 0].to_numpy(),
            "upper": band.iloc[:, 1].to_numpy(),
            "at_risk": table["at_risk"].to_numpy(),
            "events": table["observed"].to_numpy(),
        }
    )


@dataclass(frozen=True)
class LogRank:
    """The log-rank test of groups that survive alike.

    Attributes
    ----------
    statistic
        Chi-squared, with one degree of freedom less than groups.
    p_value
        Its tail.
    """

    statistic: float
    p_value: float


def log_rank(outcome: Outcome, groups: Sequence[Any]) -> LogRank:
    """Whether groups of patients differ in survival (Mantel, 1966).

    Groups that were formed by risks of a model that saw these very patients differ by construction:
    the p-value then means nothing.

    Parameters
    ----------
    groups
        ``(p,)``, what each patient belongs to.

    Raises
    ------
    InputError
        Fewer than two groups, another number of patients, no events.

    Examples
    --------
    >>> outcome = Outcome(tuple("abcd"), np.array([1.0, 2, 8, 9]), np.ones(4))
    >>> round(log_rank(outcome, ["high", "high", "low", "low"]).p_value, 3)
    0.09
    """
    labels = pd.Series(list(groups))
    if len(labels) != len(outcome) or labels.isna().any():
        raise InputError(f"Expected a group for each of {len(outcome)} patients.")
    if labels.nunique() < 2:
        raise InputError("Expected at least two groups to compare, got one.")
    outcome.require_events("The log-rank test")
    test = lifelines().statistics.multivariate_logrank_test
    codes = pd.factorize(labels)[0]
    with quiet():
        found = test(outcome.time, codes, outcome.event)
    return LogRank(float(found.test_statistic), float(found.p_value))
