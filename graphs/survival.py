"""Survival outcomes of patients, and the loss of Cox's model.

With log hazards ``f_i``, the negative partial log likelihood per event is

    ``-1/|D| sum_k [ sum_{i in D_k} f_i - sum_{r<m_k} log(risk_k - r/m_k died_k) ]``,
    ``risk_k = sum_{j: t_j >= t_k} e^{f_j}``, ``died_k = sum_{i in D_k} e^{f_i}``

over the event times ``t_k``, at which the ``m_k`` patients of ``D_k`` died (Cox, JRSS B 1972; ties
by Efron, JASA 1977). It does not change when a constant is added to all ``f``: a log hazard has no
zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphs.names import as_name
from graphs.optional import torchsurv_likelihood
from neuralize.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from graphs.cell_graph import CellGraph

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of patients: how long each was followed, and whether that ended with the event.

    Parameters
    ----------
    patients
        Names, all different.
    time
        Positive times ``(p,)``, in ``unit``.
    event
        ``(p,)``: 1 where the event happened at that time, 0 where only the follow-up ended.
    unit
        Of the times, for captions.

    Raises
    ------
    InputError
        Times that are not positive and finite, events other than 0 and 1, other lengths, a patient
        twice; the patient is named.

    Examples
    --------
    >>> outcome = Outcome(("1", "2", "3"), np.array([10.0, 25, 40]), np.array([1, 0, 1]), "months")
    >>> outcome
    <Outcome 3 patients, 2 events, 10 to 40 months>
    >>> outcome.of(["3", "1"]).time.tolist()
    [40.0, 10.0]
    """

    patients: tuple[str, ...]
    time: Array
    event: Array
    unit: str = ""

    def __post_init__(self) -> None:
        names = tuple(map(as_name, self.patients))
        time, event = np.asarray(self.time), np.asarray(self.event)
        if not names or time.shape != (len(names),) or event.shape != (len(names),):
            raise InputError(
                f"Expected a time and an event for each of {len(names)} patients (at least one), "
                f"got {time.shape} and {event.shape}."
            )
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"Expected one outcome per patient, got {twice!r} twice.")
        time = _numbers(time, "times")
        event = _numbers(event, "events")
        wrong = np.flatnonzero(~(np.isfinite(time) & (time > 0)))
        if len(wrong):
            raise InputError(
                f"Expected positive times, got {time[wrong[0]]:g} for patient {names[wrong[0]]!r} "
                f"({len(wrong)} such patients)."
            )
        wrong = np.flatnonzero((event != 0) & (event != 1))
        if len(wrong):
            raise InputError(
                f"Expected events 0 or 1, got {event[wrong[0]]:g} for patient "
                f"{names[wrong[0]]!r} ({len(wrong)} such patients)."
            )
        object.__setattr__(self, "patients", names)
        object.__setattr__(self, "time", time)
        object.__setattr__(self, "event", event.astype(bool))

    @classmethod
    def from_table(cls, table: pd.DataFrame, time: str, event: str, unit: str = "") -> Outcome:
        """From a table with patients as index.

        Raises
        ------
        InputError
            No such column, or what does not hold for an outcome.
        """
        missing = [name for name in (time, event) if name not in table.columns]
        if missing:
            raise InputError(
                f"Expected a column {missing[0]!r}, got {', '.join(map(str, table.columns))}."
            )
        values = table[time].to_numpy(), table[event].to_numpy()
        return cls(tuple(table.index.map(as_name)), *values, unit=unit)

    def __len__(self) -> int:
        return len(self.patients)

    def __repr__(self) -> str:
        low, high = self.time.min(), self.time.max()
        return (
            f"<Outcome {len(self)} patients, {int(self.event.sum())} events, {low:g} to {high:g}"
            f"{' ' + self.unit if self.unit else ''}>"
        )

    def __getitem__(self, rows: Any) -> Outcome:
        """Patients by number ``(m,)`` or mask ``(p,)``."""
        chosen = np.arange(len(self))[rows]
        names = tuple(self.patients[k] for k in chosen)
        return Outcome(names, self.time[chosen], self.event[chosen], self.unit)

    def of(self, patients: Sequence[str]) -> Outcome:
        """The outcome of some patients, in their order.

        Raises
        ------
        InputError
            Patients without outcome, by name.
        """
        number = {name: k for k, name in enumerate(self.patients)}
        lost = [name for name in patients if name not in number]
        if lost:
            raise InputError(
                f"Expected an outcome of every patient, got none of {_named(lost)}. Leave their "
                "images out: graph.patient(*outcome.patients)."
            )
        return self[[number[name] for name in patients]]

    def matched(self, graph: CellGraph) -> Outcome:
        """The outcome of the graph's patients, in the graph's order.

        Raises
        ------
        InputError
            Patients with images and without outcome, or with outcome and without images, by name.
        """
        found = self.of(graph.patient_names)
        without = sorted(set(self.patients) - set(graph.patient_names))
        if without:
            raise InputError(
                f"Expected images of every patient with an outcome, got none of {_named(without)}. "
                "If they are meant to be left out: outcome.of(graph.patient_names)."
            )
        return found

    def require_events(self, what: str) -> Outcome:
        """Itself, if anybody had the event.

        Raises
        ------
        InputError
            Nobody had.
        """
        if not self.event.any():
            raise InputError(
                f"{what} needs at least one event, got {len(self)} patients who are all censored "
                f"({_named(self.patients)})."
            )
        return self


def cox_loss(log_hazard: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative partial log likelihood per event, ties by Efron; a scalar.

    Parameters
    ----------
    log_hazard
        ``(p,)``. Computed in torch's default floating type. NaN or infinity among them make the
        loss NaN.
    time, event
        ``(p,)`` each.

    Raises
    ------
    InputError
        No events: the likelihood is 1 whatever the log hazards are.

    Examples
    --------
    >>> time, event = torch.tensor([1.0, 2, 3]), torch.tensor([True, False, True])
    >>> round(float(cox_loss(torch.zeros(3), time, event)), 4)  # (log 3 + log 1) / 2
    0.5493
    """
    events = int(event.sum())
    if not events:
        raise InputError(f"Cox's loss needs events, got {len(event)} censored patients.")
    likelihood = torchsurv_likelihood()
    # torchsurv exponentiates as it is; the shift keeps that finite and changes no likelihood
    shifted = (log_hazard - log_hazard.detach().max()).to(torch.get_default_dtype())
    if not bool(torch.isfinite(shifted).all()):
        return shifted.sum()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Ties in")  # which is why Efron is asked for
        total: Tensor = likelihood(
            shifted, event.bool(), time.to(shifted.dtype), ties_method="efron", reduction="sum"
        )
    return total / events


def _numbers(values: Array, what: str) -> Array:
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected {what} as numbers, got {values.dtype}: {error}.") from error


def _named(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
