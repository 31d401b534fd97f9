"""What a graph network has to beat: ridge Cox models on stage, age and cell counts.

``h(t | x) = h_0(t) e^{b x}`` with a penalty on ``|b|^2`` (Cox, JRSS B 1972; lifelines).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from graphs.cell_graph import CellGraph
from graphs.inputs import covariate_values
from graphs.optional import lifelines, quiet
from graphs.survival import Outcome
from neuralize.errors import InputError

PENALTY = 0.05


class CoxModel:
    """Ridge regression by Cox's model on columns of a table.

    Parameters
    ----------
    penalty
        On standardised columns, as lifelines scales it.

    Attributes
    ----------
    coefficients_
        Of the columns, per unit; a column that is constant in training has 0.

    Examples
    --------
    >>> outcome = Outcome(tuple("abcd"), np.array([1.0, 2, 3, 4]), np.array([1, 1, 1, 0]))
    >>> table = pd.DataFrame({"stage": [3, 3, 2, 1]}, index=list("abcd"))
    >>> bool(CoxModel().fit(table, outcome).coefficients_["stage"] > 0)
    True
    """

    def __init__(self, penalty: float = PENALTY) -> None:
        self.penalty = penalty

    def fit(self, table: pd.DataFrame, outcome: Outcome) -> CoxModel:
        """Fit on the patients of ``outcome``, whose rows ``table`` must hold.

        Raises
        ------
        InputError
            Patients without row, values that are not finite numbers, no events.
        """
        fitter = lifelines().CoxPHFitter(penalizer=self.penalty)
        outcome.require_events("Cox's model")
        rows = self._rows(table, outcome.patients)
        spread = rows.std()
        varying = rows.columns[spread > 0]
        self.coefficients_ = pd.Series(0.0, index=table.columns)
        self.center_ = rows.mean()
        if len(varying):
            # lifelines penalises columns of unit spread, but warns of those whose spread is small
            data = (rows - self.center_)[varying] / spread[varying]
            with quiet():
                fitter.fit(data.assign(_time=outcome.time, _event=outcome.event), "_time", "_event")
            self.coefficients_[varying] = fitter.params_.to_numpy() / spread[varying].to_numpy()
        return self

    def predict(self, table: pd.DataFrame) -> pd.Series:
        """Log hazards of the rows of ``table``, against the mean of the training patients."""
        rows = self._rows(table, tuple(map(str, table.index)), list(self.coefficients_.index))
        values = (rows - self.center_).to_numpy() @ self.coefficients_.to_numpy()
        return pd.Series(values, index=table.index, name="log_hazard")

    @staticmethod
    def _rows(table: pd.DataFrame, patients: Any, columns: Any = None) -> pd.DataFrame:
        names = list(table.columns if columns is None else columns)
        values = covariate_values(table, patients, names).astype(np.float64)
        return pd.DataFrame(values, index=list(patients), columns=names)


def composition(graph: CellGraph) -> pd.DataFrame:
    """Share of every phenotype among a patient's cells ``(p, k)``; a patient's images together.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((4, 2)), np.array([0, 1, 1, 1]), ("T", "B"), np.zeros(4, int),
    ...                   ("i",), ("p",))
    >>> composition(cells).loc["p"].tolist()
    [0.25, 0.75]
    """
    names, kinds = graph.patient_names, graph.phenotype_names
    known = graph.phenotypes >= 0
    slot = graph.patient_of_cell[known] * len(kinds) + graph.phenotypes[known]
    counts = np.bincount(slot, minlength=len(names) * len(kinds)).reshape(len(names), -1)
    cells = np.bincount(graph.patient_of_cell, minlength=len(names))
    shares = counts / cells[:, None]
    return pd.DataFrame(shares, index=pd.Index(names, name="patient"), columns=list(kinds))


def baseline_tables(
    graph: CellGraph, clinical: pd.DataFrame, stage: str = "stage", age: str = "age"
) -> Mapping[str, pd.DataFrame]:
    """The tables of the four baselines, patients as in the graph.

    ``stage``, ``stage + age``, ``composition`` (shares of all phenotypes but the most frequent, as
    they add up to 1) and ``all`` of these.

    Raises
    ------
    InputError
        No such column, or a patient without a row or with missing values.
    """
    names = graph.patient_names
    for column in (stage, age):
        if column not in clinical.columns:
            raise InputError(
                f"Expected a column {column!r}, got {', '.join(map(str, clinical.columns))}."
            )
    both = pd.DataFrame(
        covariate_values(clinical, names, [stage, age]), index=list(names), columns=[stage, age]
    )
    shares = composition(graph)
    if shares.shape[1] > 1:
        shares = shares.drop(columns=shares.mean().idxmax())
    shares = shares.set_axis(list(names))
    return {
        "stage": both[[stage]],
        "stage + age": both,
        "composition": shares,
        "all": both.join(shares),
    }
