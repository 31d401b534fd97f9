"""Outcomes and Cox's loss, against loops over risk sets and against lifelines' likelihood."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from graphs.datasets import planted_motif
from graphs.survival import Outcome, cox_loss
from neuralize.errors import InputError


def efron(f, time, event):
    """The loss by loops, in float64."""
    total = 0.0
    for t in np.unique(time[event]):
        died = [i for i in range(len(f)) if event[i] and time[i] == t]
        at_risk = sum(np.exp(f[j]) for j in range(len(f)) if time[j] >= t)
        for r, i in enumerate(died):
            share = r / len(died) * sum(np.exp(f[j]) for j in died)
            total += f[i] - np.log(at_risk - share)
    return -total / event.sum()


@pytest.mark.parametrize("ties", [False, True])
def test_cox_loss_is_the_likelihood(ties):
    rng = np.random.default_rng(0)
    f = rng.normal(size=40)
    time = rng.integers(1, 8, 40).astype(float) if ties else rng.permutation(40) + 1.0
    event = rng.uniform(size=40) < 0.6
    found = cox_loss(torch.tensor(f), torch.tensor(time), torch.tensor(event))
    assert float(found) == pytest.approx(efron(f, time, event), rel=1e-5)


def test_cox_loss_is_lifelines_likelihood():
    from lifelines import CoxPHFitter

    rng = np.random.default_rng(1)
    table = pd.DataFrame({"x": rng.normal(size=60), "t": rng.integers(1, 15, 60).astype(float)})
    table["e"] = rng.uniform(size=60) < 0.7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, which lifelines meets
        fit = CoxPHFitter().fit(table, "t", "e")
    f = fit.params_["x"] * table["x"].to_numpy()
    found = cox_loss(torch.tensor(f), torch.tensor(table["t"]), torch.tensor(table["e"]))
    assert -float(found) * table["e"].sum() == pytest.approx(fit.log_likelihood_, rel=1e-5)


def test_cox_loss_ignores_a_constant_and_stays_finite():
    time, event = torch.arange(1.0, 6), torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    f = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.0], requires_grad=True)
    low, high = cox_loss(f, time, event), cox_loss(f + 500, time, event)
    assert low.item() == pytest.approx(high.item(), rel=1e-4)
    (slope,) = torch.autograd.grad(high, f)
    assert bool(torch.isfinite(slope).all()) and abs(float(slope.sum())) < 1e-5


def test_cox_loss_without_events():
    with pytest.raises(InputError, match="needs events, got 2 censored"):
        cox_loss(torch.zeros(2), torch.ones(2), torch.zeros(2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ([1.0, 0.0, 2.0], [1, 0, 1], "positive times, got 0 for patient 'b'"),
        ([1.0, -3.0, 2.0], [1, 0, 1], "positive times, got -3 for patient 'b'"),
        ([1.0, 2.0, np.nan], [1, 0, 1], "positive times, got nan for patient 'c'"),
        ([1.0, np.inf, 2.0], [1, 0, 1], "positive times, got inf for patient 'b'"),
        ([1.0, 2.0, 3.0], [1, 0, 2], "events 0 or 1, got 2 for patient 'c'"),
        ([1.0, 2.0, 3.0], [1, np.nan, 0], "events 0 or 1, got nan for patient 'b'"),
        ([1.0, 2.0], [1, 0], "a time and an event for each of 3 patients"),
        (["1", "x", "2"], [1, 0, 1], "times as numbers"),
    ],
)
def test_outcome_refuses(time, event, message):
    with pytest.raises(InputError, match=message):
        Outcome(("a", "b", "c"), np.array(time), np.array(event))


def test_outcome_refuses_a_patient_twice():
    with pytest.raises(InputError, match="'a' twice"):
        Outcome(("a", "a"), np.ones(2), np.ones(2))


def test_outcome_from_a_table_with_gaps():
    table = pd.DataFrame({"days": [3.0, 4.0], "died": [True, False]}, index=[7.0, 8.0])
    outcome = Outcome.from_table(table, "days", "died", "days")
    assert outcome.patients == ("7", "8") and outcome.event.tolist() == [True, False]
    with pytest.raises(InputError, match="column 'dead', got days, died"):
        Outcome.from_table(table, "days", "dead")


@pytest.mark.parametrize("package", ["lifelines", "torchsurv"])
def test_missing_packages_are_named(package, monkeypatch):
    from graphs import optional

    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    call = optional.lifelines if package == "lifelines" else optional.torchsurv_likelihood
    with pytest.raises(ModuleNotFoundError, match=rf"need\w* {package}: pip install .*survival"):
        call()


def test_patients_on_one_side_only_are_named():
    cohort = planted_motif(0, patients=4, images=1, cells=(40, 50))
    with pytest.raises(InputError, match="none of 'P001'"):
        cohort.outcome[[0, 2, 3]].matched(cohort.graph)
    with pytest.raises(InputError, match=r"images of every patient with an outcome.*'P003'"):
        cohort.outcome.matched(cohort.graph.patient("P000", "P001", "P002"))
    with pytest.raises(InputError, match="at least one event, got 2 patients"):
        Outcome(("a", "b"), np.ones(2), np.zeros(2)).require_events("Training")
    assert cohort.outcome[::-1].matched(cohort.graph).patients == cohort.graph.patient_names
