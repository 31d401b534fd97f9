"""Folds: every patient once, strata even, events in every fold."""

import numpy as np
import pandas as pd
import pytest

from graphs.cross_validation import stratified_folds
from graphs.survival import Outcome
from neuralize.errors import InputError


@pytest.fixture
def outcome():
    rng = np.random.default_rng(0)
    return Outcome(
        tuple(f"p{k}" for k in range(153)),
        rng.exponential(900, 153) + 1,
        rng.uniform(size=153) < 0.58,
    )


def test_each_patient_is_tested_once_in_each_repetition(outcome):
    found = stratified_folds(outcome, folds=5, repeats=3, seed=1)
    assert len(found) == 15
    for repeat in range(3):
        mine = [fold for fold in found if fold.repeat == repeat]
        assert sorted(p for fold in mine for p in fold.test) == sorted(outcome.patients)
        for fold in mine:
            assert not set(fold.train) & set(fold.test)
            assert len(fold.train) + len(fold.test) == 153
    assert found[0].test != found[5].test
    again = stratified_folds(outcome, folds=5, repeats=3, seed=1)
    assert [f.test for f in found] == [f.test for f in again]
    assert [f.test for f in found] != [
        f.test for f in stratified_folds(outcome, folds=5, repeats=3, seed=2)
    ]


def test_strata_are_even(outcome):
    rng = np.random.default_rng(5)
    stage = pd.Series(rng.choice(4, 153, p=[0.6, 0.2, 0.15, 0.05]), index=outcome.patients)
    fifth = np.searchsorted(np.quantile(outcome.time, [0.2, 0.4, 0.6, 0.8]), outcome.time)
    table = pd.DataFrame({"stage": stage, "fifth": fifth, "event": outcome.event})
    for fold in stratified_folds(outcome, stage, folds=5, repeats=4):
        rows = table.loc[list(fold.test)]
        assert abs(len(rows) - 153 / 5) < 1
        for event in (True, False):
            assert abs((rows.event == event).sum() - (table.event == event).sum() / 5) < 1
            for value in range(4):
                of = (table.event == event) & (table.stage == value)
                mine = (rows.event == event) & (rows.stage == value)
                assert abs(mine.sum() - of.sum() / 5) < 1
        assert abs(rows.fifth.mean() - table.fifth.mean()) < 0.35
        groups = rows.groupby(["event", "stage", "fifth"]).size()
        of_all = table.groupby(["event", "stage", "fifth"]).size()
        assert all(abs(groups.get(key, 0) - size / 5) < 1 for key, size in of_all.items())


def test_an_order_without_names_and_with(outcome):
    stage = np.arange(153) % 3
    shuffled = pd.Series(stage, index=outcome.patients).sample(frac=1, random_state=0)
    one, other = (stratified_folds(outcome, s) for s in (stage, shuffled))
    assert [fold.test for fold in one] == [fold.test for fold in other]


@pytest.mark.parametrize("events", [3, 5, 7])
def test_as_few_events_as_folds(events):
    event = np.zeros(30)
    event[:events] = 1
    outcome = Outcome(tuple(map(str, range(30))), np.arange(1.0, 31), event)
    for fold in stratified_folds(outcome, folds=3, repeats=5):
        assert outcome.of(fold.test).event.any() and outcome.of(fold.train).event.any()


def test_bad_input(outcome):
    few = Outcome(tuple("abcdef"), np.arange(1.0, 7), np.array([1, 1, 0, 0, 0, 0]))
    with pytest.raises(InputError, match="a fold would have no events"):
        stratified_folds(few, folds=3)
    with pytest.raises(InputError, match="at least 2 folds"):
        stratified_folds(outcome, folds=1)
    with pytest.raises(InputError, match="Expected 153 stages, got 2"):
        stratified_folds(outcome, [1, 2])
    stage = pd.Series(1.0, index=outcome.patients)
    stage["p7"] = np.nan
    with pytest.raises(InputError, match="got none of 'p7'"):
        stratified_folds(outcome, stage)
    with pytest.raises(InputError, match="got none of 'p3'"):
        stratified_folds(outcome, stage.drop("p3"))
