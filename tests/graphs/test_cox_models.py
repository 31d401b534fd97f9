"""Ridge Cox models against scikit-survival and against the penalised likelihood itself."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from graphs.cox_models import CoxModel, baseline_tables, composition
from graphs.datasets import planted_motif
from graphs.metrics import harrell
from graphs.survival import Outcome
from neuralize.errors import InputError


@pytest.fixture(scope="module")
def cohort():
    return planted_motif(1, patients=60, images=1, cells=(60, 90))


def breslow(b, x, time, event):
    """Mean negative log likelihood without ties, by a loop."""
    f = x @ b
    return -sum(
        f[i] - np.log(np.exp(f[time >= time[i]]).sum()) for i in np.flatnonzero(event)
    ) / len(f)


@pytest.mark.parametrize("penalty", [0.0, 0.05, 1.0])
def test_coefficients_minimise_the_penalised_likelihood(cohort, penalty):
    table = cohort.patients[["stage", "age"]]
    found = CoxModel(penalty).fit(table, cohort.outcome).coefficients_
    x = (table - table.mean()) / table.std()
    time, event = cohort.outcome.time, cohort.outcome.event

    def loss(b):
        return breslow(b, x.to_numpy(), time, event) + penalty / 2 * b @ b

    best = minimize(loss, np.zeros(2), tol=1e-10).x
    np.testing.assert_allclose(found * table.std(), best, atol=2e-4)


def test_predictions(cohort):
    table = cohort.patients[["stage", "age"]]
    model = CoxModel().fit(table.iloc[:40], cohort.outcome[:40])
    found = model.predict(table)
    expected = (table - table.iloc[:40].mean()) @ model.coefficients_
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.index.equals(table.index)


def test_composition_by_hand(cohort):
    table = composition(cohort.graph)
    part = cohort.graph.patient("P007").phenotypes
    for k, name in enumerate(cohort.graph.phenotype_names):
        assert table.loc["P007", name] == pytest.approx((part == k).mean())
    np.testing.assert_allclose(table.sum(axis=1), 1)


def test_composition_does_not_tell_the_motif():
    cohort = planted_motif(0)
    tables = baseline_tables(cohort.graph, cohort.patients)
    assert list(tables) == ["stage", "stage + age", "composition", "all"]
    assert tables["composition"].shape == (120, 5) and tables["all"].shape == (120, 7)
    half = np.arange(120) < 60
    scores = {}
    for name, table in tables.items():
        model = CoxModel().fit(table[half], cohort.outcome[half])
        scores[name] = harrell(model.predict(table[~half]), cohort.outcome[~half])
    assert scores["composition"] < 0.62
    oracle = harrell(cohort.patients["log_hazard"][~half], cohort.outcome[~half])
    assert oracle > scores["all"] + 0.1


def test_constant_columns_count_nothing(cohort):
    table = cohort.patients[["stage"]].assign(same=3.0)
    found = CoxModel().fit(table, cohort.outcome).coefficients_
    assert found["same"] == 0 and found["stage"] != 0
    assert (CoxModel().fit(table[["same"]], cohort.outcome).predict(table[["same"]]) == 0).all()


def test_bad_input(cohort):
    table = cohort.patients[["stage", "age"]]
    with pytest.raises(InputError, match="covariates of patient 'P003'"):
        CoxModel().fit(table.drop("P003"), cohort.outcome)
    gaps = table.copy()
    gaps.loc["P005", "age"] = np.nan
    with pytest.raises(InputError, match="got nan for 'age' of patient 'P005'"):
        CoxModel().fit(gaps, cohort.outcome)
    none = Outcome(cohort.outcome.patients, cohort.outcome.time, np.zeros(60))
    with pytest.raises(InputError, match="needs at least one event"):
        CoxModel().fit(table, none)
    with pytest.raises(InputError, match="a column 'grade', got"):
        baseline_tables(cohort.graph, cohort.patients, stage="grade")
    with pytest.raises(InputError, match="Expected a covariate 'age'"):
        CoxModel().fit(table, cohort.outcome).predict(pd.DataFrame({"stage": [1.0]}, index=["a"]))
