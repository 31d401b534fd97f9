"""Survival curves from log hazards: the baseline by Breslow (JRSS B 1972).

``S(t | f) = exp(-H_0(t) e^f)``, ``H_0(t) = sum_{t_k <= t} d_k / sum_{j: t_j >= t_k} e^{f_j}`` over
the training patients, of whom ``d_k`` died at ``t_k``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphs.metrics import _risks
from graphs.survival import Outcome

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class BaselineHazard:
    """The cumulative hazard of a patient with log hazard 0, a step function.

    Attributes
    ----------
    times
        Of the steps ``(k,)``, ascending.
    cumulative
        The hazard from each step on ``(k,)``.

    Examples
    --------
    >>> outcome = Outcome(("1", "2"), np.array([1.0, 3]), np.array([1, 1]))
    >>> baseline = BaselineHazard.of([0.0, 0.0], outcome)
    >>> baseline.cumulative.tolist()
    [0.5, 1.5]
    >>> baseline.survival([0.0], [0.5, 1.0]).round(3).tolist()
    [[1.0, 0.607]]
    """

    times: Array
    cumulative: Array

    @classmethod
    def of(cls, log_hazard: Any, outcome: Outcome) -> BaselineHazard:
        """From the log hazards ``(p,)`` and the outcome of training patients.

        Raises
        ------
        InputError
            No events, log hazards of another number or not finite.
        """
        outcome.require_events("A baseline hazard")
        hazard = np.exp(_risks(log_hazard, outcome))
        times = np.unique(outcome.time[outcome.event])
        died = np.array([(outcome.event & (outcome.time == t)).sum() for t in times])
        at_risk = np.array([hazard[outcome.time >= t].sum() for t in times])
        return cls(times, np.cumsum(died / at_risk))

    def survival(self, log_hazard: Any, times: Any) -> Array:
        """Survival curves ``(p, m)`` of log hazards ``(p,)`` at ``times`` ``(m,)``."""
        steps = np.searchsorted(self.times, np.asarray(times, np.float64), "right")
        cumulative = np.concatenate([[0.0], self.cumulative])[steps]
        hazard = np.exp(np.asarray(log_hazard, np.float64))
        found: Array = np.exp(-hazard[:, None] * cumulative)
        return found
