"""Repeated k-fold cross-validation by patient, stratified by event, stage and time.

Patients are sorted by event, then stage, then the fifth of the times they are in, at random within
that, and dealt out to the folds in turn. A stratum of any level is a run of that order, so folds
differ by one of its patients at most, and strata of less than k patients need no special care.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphs.survival import Outcome
from neuralize.errors import InputError

Array = np.ndarray
TIME_GROUPS = 5


@dataclass(frozen=True, eq=False)
class Fold:
    """Patients to train on and to test on, by name.

    Attributes
    ----------
    repeat, number
        Which repetition, and which fold of it.
    train, test
        Names, in the order of the outcome.
    """

    repeat: int
    number: int
    train: tuple[str, ...]
    test: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"<Fold {self.repeat}.{self.number}: {len(self.train)} patients to train on, "
            f"{len(self.test)} to test on>"
        )


def stratified_folds(
    outcome: Outcome, stage: Any = None, *, folds: int = 5, repeats: int = 1, seed: int = 0
) -> list[Fold]:
    """Every patient is tested on once in each repetition.

    Parameters
    ----------
    stage
        ``(p,)`` in the order of the outcome, or a Series with patients as index; any values that
        can be sorted. Left out of the strata when missing.
    folds, repeats
        Number of folds, and how often the patients are dealt out anew.
    seed
        Of the dealing.

    Raises
    ------
    InputError
        Fewer than two folds, fewer events than folds (some fold would have none), a stage that is
        missing.

    Examples
    --------
    >>> outcome = Outcome(tuple("abcdef"), np.arange(1.0, 7), np.array([1, 0, 1, 0, 0, 0]))
    >>> found = stratified_folds(outcome, folds=2)
    >>> found[0]
    <Fold 0.0: 3 patients to train on, 3 to test on>
    >>> [int(outcome.of(fold.test).event.sum()) for fold in found]
    [1, 1]
    """
    events = int(outcome.event.sum())
    if folds < 2 or repeats < 1:
        raise InputError(f"Expected at least 2 folds and 1 repetition, got {folds} and {repeats}.")
    if events < folds:
        raise InputError(
            f"Expected at least {folds} events, one per fold, got {events} among {len(outcome)} "
            "patients: a fold would have no events, and nothing could be measured on it. Use at "
            f"most {events} folds."
        )
    keys = [_fifth(outcome), _stages(stage, outcome), ~outcome.event]
    rng = np.random.default_rng(seed)
    found = []
    for repeat in range(repeats):
        order = np.lexsort([rng.permutation(len(outcome)), *keys])
        of_patient = np.empty(len(order), int)
        of_patient[order] = rng.permutation(folds)[np.arange(len(order)) % folds]
        for number in range(folds):
            test = of_patient == number
            found.append(Fold(repeat, number, outcome[~test].patients, outcome[test].patients))
    return found


def _fifth(outcome: Outcome) -> Array:
    cuts = np.quantile(outcome.time, np.arange(1, TIME_GROUPS) / TIME_GROUPS)
    found: Array = np.searchsorted(cuts, outcome.time, "right")
    return found


def _stages(stage: Any, outcome: Outcome) -> Array:
    import pandas as pd

    if stage is None:
        return np.zeros(len(outcome))
    if isinstance(stage, pd.Series):
        from graphs.names import as_name

        by_name = stage.set_axis(stage.index.map(as_name))
        lost = [name for name in outcome.patients if name not in by_name.index]
        if lost:
            raise InputError(f"Expected a stage of every patient, got none of {lost[0]!r}.")
        stage = by_name.loc[list(outcome.patients)]
    values = pd.Series(np.asarray(stage))
    if len(values) != len(outcome):
        raise InputError(f"Expected {len(outcome)} stages, got {len(values)}.")
    if values.isna().any():
        name = outcome.patients[int(values.isna().to_numpy().argmax())]
        raise InputError(f"Expected a stage of every patient, got none of {name!r}.")
    codes: Array = np.unique(values.to_numpy(), return_inverse=True)[1]
    return codes
