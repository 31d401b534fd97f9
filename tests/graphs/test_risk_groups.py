"""Kaplan-Meier and log-rank against loops and scikit-survival; groups by their definition."""

import numpy as np
import pytest
from scipy.stats import norm

from graphs.risk_groups import kaplan_meier, log_rank, risk_groups
from graphs.survival import Outcome
from neuralize.errors import InputError


def patients(seed, n=50):
    rng = np.random.default_rng(seed)
    time = np.ceil(rng.exponential(10, n)) + (rng.uniform(size=n) < 0.3) * 5
    return Outcome(tuple(map(str, range(n))), time, rng.uniform(size=n) < 0.6)


def test_kaplan_meier():
    from sksurv.nonparametric import kaplan_meier_estimator

    outcome = patients(0)
    table = kaplan_meier(outcome, 0.9)
    times, theirs, band = kaplan_meier_estimator(
        outcome.event, outcome.time, conf_level=0.9, conf_type="log-log"
    )
    assert table["time"].tolist() == [0, *times]
    np.testing.assert_allclose(table["survival"][1:], theirs, atol=1e-12)
    inside = (theirs > 0) & (theirs < 1)
    np.testing.assert_allclose(table["lower"][1:][inside], band[0][inside], atol=1e-10)
    np.testing.assert_allclose(table["upper"][1:][inside], band[1][inside], atol=1e-10)
    survival, greenwood = 1.0, 0.0
    for k, t in enumerate(times, 1):
        at_risk = sum(1 for u in outcome.time if u >= t)
        died = sum(1 for u, e in zip(outcome.time, outcome.event, strict=True) if u == t and e)
        survival *= 1 - died / at_risk
        assert table["survival"][k] == pytest.approx(survival, abs=1e-12)
        assert table["at_risk"][k] == at_risk and table["events"][k] == died
        if at_risk > died:
            greenwood += died / (at_risk * (at_risk - died))
            if survival < 1:
                wide = norm.ppf(0.95) * np.sqrt(greenwood) / np.log(survival)
                low = np.exp(-np.exp(np.log(-np.log(survival)) - wide))
                assert table["lower"][k] == pytest.approx(low, abs=1e-10)


@pytest.mark.parametrize("count", [2, 3])
def test_log_rank(count):
    from sksurv.compare import compare_survival
    from sksurv.util import Surv

    outcome = patients(1, 80)
    groups = np.arange(80) % count
    time = outcome.time + 4 * groups
    outcome = Outcome(outcome.patients, time, outcome.event)
    found = log_rank(outcome, groups)
    theirs = compare_survival(Surv.from_arrays(outcome.event, outcome.time), groups)
    assert found.statistic == pytest.approx(theirs[0], rel=1e-9)
    assert found.p_value == pytest.approx(theirs[1], rel=1e-9)
    named = log_rank(outcome, [("a", "b", "c")[g] for g in groups])
    assert named == found


def test_log_rank_by_its_formula():
    outcome = patients(3)
    first = np.arange(50) % 2 == 0
    excess = variance = 0.0
    for t in np.unique(outcome.time[outcome.event]):
        at_risk, died = outcome.time >= t, (outcome.time == t) & outcome.event
        n, d, k = at_risk.sum(), died.sum(), (at_risk & first).sum()
        excess += (died & first).sum() - d * k / n
        if n > 1:
            variance += d * k / n * (1 - k / n) * (n - d) / (n - 1)
    assert log_rank(outcome, first).statistic == pytest.approx(excess**2 / variance, rel=1e-9)


def test_groups():
    hazards = np.random.default_rng(0).normal(size=30)
    halves, thirds = risk_groups(hazards), risk_groups(hazards, "tertiles")
    assert halves.value_counts().tolist() == [15, 15]
    assert thirds.value_counts().tolist() == [10, 10, 10]
    assert hazards[thirds == "low"].max() < hazards[thirds == "middle"].min()
    assert hazards[thirds == "middle"].max() < hazards[thirds == "high"].min()
    assert list(risk_groups([5.0, 5.0], reference=[0.0, 1.0])) == ["high", "high"]


def test_bad_input():
    outcome = patients(2, 6)
    with pytest.raises(InputError, match="put into 2 groups, got 1 different"):
        risk_groups([1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="'median' or 'tertiles'"):
        risk_groups([1.0, 2.0], "quartiles")
    with pytest.raises(InputError, match="finite log hazards"):
        risk_groups([1.0, np.nan])
    with pytest.raises(InputError, match="at least two groups"):
        log_rank(outcome, ["a"] * 6)
    with pytest.raises(InputError, match="a group for each of 6"):
        log_rank(outcome, ["a", "b"])
    with pytest.raises(InputError, match="between 0 and 1"):
        kaplan_meier(outcome, 95)
    none = Outcome(outcome.patients, outcome.time, np.zeros(6))
    with pytest.raises(InputError, match="log-rank test needs"):
        log_rank(none, [0, 0, 0, 1, 1, 1])
    assert (kaplan_meier(none)["survival"] == 1).all()
