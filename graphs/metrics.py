"""How well log hazards order patients by survival, and how well survival curves are calibrated.

With risk ``r``, times ``t``, events ``d`` and ``G`` the Kaplan-Meier curve of censoring:

* Harrell's C: among pairs in which ``i`` had the event and ``j`` was still followed, the share with
  ``r_i > r_j``, ties in risk counting half (JAMA 1982).
* Uno's C: the same with pairs weighted ``1 / G(t_i)^2`` and ``t_i < tau``, which does not depend on
  the censoring (Statistics in Medicine 2011).
* AUC at a time: cases died until then, weighted ``1 / G(t_i)``, controls are followed longer (Uno
  et al., JASA 2007).
* Brier score at a time: the mean of ``S_i(t)^2 / G(t_i)`` over those who died until then and of
  ``(1 - S_i(t))^2 / G(t)`` over those followed longer, of all patients (Graf et al., Statistics in
  Medicine 1999).

In 64 bits and on numpy: torchsurv's concordance rounds the risk to 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import trapezoid

from graphs.survival import Outcome
from neuralize.errors import InputError

Array = np.ndarray
PAIRS_AT_ONCE = 2**22


def harrell(risk: Any, outcome: Outcome) -> float:
    """Harrell's C-index of ``risk`` ``(p,)``, higher for the sooner death; 0.5 is chance.

    Raises
    ------
    InputError
        Risks of another number or not finite, no pair that can be compared.

    Examples
    --------
    >>> outcome = Outcome(("1", "2", "3"), np.array([1.0, 2, 3]), np.array([1, 1, 0]))
    >>> harrell([3.0, 1.0, 2.0], outcome)
    0.6666666666666666
    """
    risk = _risks(risk, outcome)
    return _concordance(risk, outcome, outcome.event.astype(float))


def uno(
    risk: Any, outcome: Outcome, train: Outcome | None = None, tau: float | None = None
) -> float:
    """Uno's C-index of ``risk`` ``(p,)``.

    Parameters
    ----------
    train
        The patients to estimate censoring on; those of ``outcome`` themselves when missing.
    tau
        Only deaths before this time count; needed where nobody is followed long enough.

    Raises
    ------
    InputError
        As :func:`harrell`; a death that the estimate of censoring does not reach.
    """
    risk = _risks(risk, outcome)
    counts = outcome.event & (outcome.time < (math.inf if tau is None else tau))
    weights = np.zeros(len(risk))
    weights[counts] = _censoring(train or outcome, outcome.time[counts]) ** -2.0
    return _concordance(risk, outcome, weights)


def time_dependent_auc(
    risk: Any, outcome: Outcome, times: Any, train: Outcome | None = None
) -> Array:
    """AUC of ``risk`` ``(p,)`` for death until each of ``times`` ``(m,)``.

    NaN at times by which nobody died, or after which nobody is followed.

    Raises
    ------
    InputError
        As :func:`uno`.
    """
    risk = _risks(risk, outcome)
    found = []
    for t in np.atleast_1d(np.asarray(times, np.float64)):
        cases = outcome.event & (outcome.time <= t)
        controls = outcome.time > t
        if not cases.any() or not controls.any():
            found.append(math.nan)
            continue
        weights = 1 / _censoring(train or outcome, outcome.time[cases])
        rank = _wins(risk[cases][:, None], risk[controls][None]).mean(1)
        found.append(float(weights @ rank / weights.sum()))
    return np.array(found)


def brier(survival: Any, outcome: Outcome, times: Any, train: Outcome | None = None) -> Array:
    """Brier score ``(m,)`` of survival curves ``(p, m)`` at ``times`` ``(m,)``; 0.25 for a coin.

    Raises
    ------
    InputError
        Curves of another shape or beyond 0 to 1, times that the estimate of censoring does not
        reach.

    Examples
    --------
    >>> outcome = Outcome(("1", "2"), np.array([1.0, 3]), np.array([1, 1]))
    >>> brier([[0.2], [0.9]], outcome, [2.0]).round(3).tolist()  # (0.2^2 + 0.1^2) / 2
    [0.025]
    """
    times = np.atleast_1d(np.asarray(times, np.float64))
    curves = np.asarray(survival, np.float64)
    if curves.shape != (len(outcome), len(times)):
        raise InputError(
            f"Expected survival ({len(outcome)}, {len(times)}), patients by times, got "
            f"{curves.shape}."
        )
    if not ((curves >= 0) & (curves <= 1)).all():
        raise InputError("Expected survival from 0 to 1, got values beyond, or NaN.")
    weights = np.zeros(len(outcome))
    early = outcome.event & (outcome.time <= times.max())
    weights[early] = 1 / _censoring(train or outcome, outcome.time[early])
    later = 1 / _censoring(train or outcome, times)
    died = (outcome.time[:, None] <= times) & outcome.event[:, None]
    alive = outcome.time[:, None] > times
    scores = curves**2 * died * weights[:, None] + (1 - curves) ** 2 * alive * later
    found: Array = scores.mean(0)
    return found


def integrated_brier(
    survival: Any, outcome: Outcome, times: Any, train: Outcome | None = None
) -> float:
    """The Brier score averaged over ``times`` ``(m,)``, ascending, by the trapezoidal rule.

    Raises
    ------
    InputError
        As :func:`brier`; fewer than two times.
    """
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or len(times) < 2 or (np.diff(times) <= 0).any():
        raise InputError("Expected at least two times, ascending, to integrate over.")
    area = trapezoid(brier(survival, outcome, times, train), times)
    return float(area / (times[-1] - times[0]))


@dataclass(frozen=True)
class Interval:
    """A measure and its bootstrap interval.

    Attributes
    ----------
    value
        On all patients.
    low, high
        Quantiles over resampled patients.
    skipped
        Resamples on which the measure does not exist, such as those without events.
    """

    value: float
    low: float
    high: float
    skipped: int = 0


def bootstrap(
    risk: Any,
    outcome: Outcome,
    metric: Callable[[Array, Outcome], float] = harrell,
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a measure over resampled patients (Efron, 1979).

    Only the patients at hand are resampled: the interval leaves out that another training set
    would have given another model.

    Parameters
    ----------
    metric
        ``metric(risk, outcome)``, a number.

    Raises
    ------
    InputError
        As the metric; a level beyond 0 to 1; no resample on which the measure exists.

    Examples
    --------
    >>> outcome = Outcome(tuple("abcd"), np.array([1.0, 2, 3, 4]), np.array([1, 1, 1, 0]))
    >>> bootstrap([4.0, 3, 2, 1], outcome, samples=50).low
    1.0
    """
    if not 0 < level < 1 or samples < 1:
        raise InputError(f"Expected 0 < level < 1 and samples, got {level} and {samples}.")
    risk = _risks(risk, outcome)
    value = metric(risk, outcome)
    rng = np.random.default_rng(seed)
    names = tuple(map(str, range(len(risk))))
    found, skipped = [], 0
    for _ in range(samples):
        rows = rng.integers(0, len(risk), len(risk))
        drawn = Outcome(names, outcome.time[rows], outcome.event[rows], outcome.unit)
        try:
            found.append(metric(risk[rows], drawn))
        except InputError:
            skipped += 1
    if not found:
        raise InputError(f"The measure does not exist on any of {samples} resamples.")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), skipped)


def _risks(risk: Any, outcome: Outcome) -> Array:
    values = np.asarray(risk, np.float64)
    if values.shape != (len(outcome),):
        raise InputError(
            f"Expected a risk for each of {len(outcome)} patients, got {values.shape}."
        )
    if not np.isfinite(values).all():
        name = outcome.patients[int(np.argmin(np.isfinite(values)))]
        raise InputError(f"Expected finite risks, got NaN or infinity for patient {name!r}.")
    return values


def _wins(a: Array, b: Array) -> Array:
    """1 where ``a > b``, a half where they tie."""
    found: Array = (a > b) + 0.5 * (a == b)
    return found


def _concordance(risk: Array, outcome: Outcome, weights: Array) -> float:
    """``sum_ij w_i win_ij / sum_ij w_i`` over the pairs that can be compared, in blocks."""
    time, event = outcome.time, outcome.event
    above = total = 0.0
    rows = np.flatnonzero(weights)
    for some in np.array_split(rows, math.ceil(len(rows) * len(risk) / PAIRS_AT_ONCE) or 1):
        t = time[some, None]
        # who is censored at the time of a death was followed beyond it
        later = (time > t) | ((time == t) & ~event)
        total += float(weights[some] @ later.sum(1))
        above += float(weights[some] @ (_wins(risk[some, None], risk) * later).sum(1))
    if not total:
        raise InputError(
            f"Expected pairs of patients that can be compared, got none among {len(risk)} with "
            f"{int(event.sum())} events: nobody is followed beyond a death."
        )
    return above / total


def _censoring(train: Outcome, times: Array) -> Array:
    """``G`` ``(m,)``: the chance of not being censored until then; deaths come before censoring."""
    if len(times) and times.max() > train.time.max():
        raise InputError(
            f"Expected times up to {train.time.max():g}, the longest follow-up that censoring is "
            f"estimated from, got {times.max():g}. Pass an earlier tau, or earlier times."
        )
    grid, slot = np.unique(train.time, return_inverse=True)
    censored = np.bincount(slot, ~train.event, len(grid))
    died = np.bincount(slot, train.event, len(grid))
    at_risk = len(train) - np.cumsum(censored + died) + censored
    curve = np.cumprod(1 - censored / np.maximum(at_risk, 1))
    found: Array = np.concatenate([[1.0], curve])[np.searchsorted(grid, times, "right")]
    if (found <= 0).any():
        raise InputError(
            f"Everybody is censored by time {times[found <= 0].min():g}, so nothing is known of "
            "survival from then on. Pass an earlier tau, or earlier times."
        )
    return found
