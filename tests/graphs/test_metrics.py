"""Measures against loops over pairs, and against scikit-survival, lifelines and torchsurv."""

import numpy as np
import pytest

from graphs.baseline_hazard import BaselineHazard
from graphs.metrics import (
    bootstrap,
    brier,
    harrell,
    integrated_brier,
    time_dependent_auc,
    uno,
)
from graphs.survival import Outcome
from neuralize.errors import InputError


def patients(seed, n=60, ties=True, censored=0.4):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n).round(1 if ties else 9)
    time = rng.exponential(np.exp(-risk)) * 10 + 0.1
    time = np.ceil(time) if ties else time
    event = rng.uniform(size=n) > censored
    return risk, Outcome(tuple(map(str, range(n))), time, event)


def structured(outcome):
    from sksurv.util import Surv

    return Surv.from_arrays(outcome.event, outcome.time)


def by_loops(risk, outcome, weight=lambda t: 1.0, tau=np.inf):
    above = total = 0.0
    for i in range(len(risk)):
        for j in range(len(risk)):
            if not outcome.event[i] or outcome.time[i] >= tau or i == j:
                continue
            ti, tj = outcome.time[i], outcome.time[j]
            if ti < tj or (ti == tj and not outcome.event[j]):
                w = weight(ti)
                total += w
                above += w * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return above / total


def censoring(outcome):
    """G by its product formula, deaths before censoring."""

    def curve(t):
        value = 1.0
        for s in sorted(set(outcome.time)):
            if s > t:
                break
            at_risk = sum(
                1 for u, e in zip(outcome.time, outcome.event, strict=True)
                if u > s or (u == s and not e)
            )  # fmt: skip
            lost = sum(
                1 for u, e in zip(outcome.time, outcome.event, strict=True) if u == s and not e
            )
            value *= 1 - lost / max(at_risk, 1)
        return value

    return curve


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_harrell(seed, ties):
    from lifelines.utils import concordance_index
    from sksurv.metrics import concordance_index_censored

    risk, outcome = patients(seed, ties=ties)
    found = harrell(risk, outcome)
    assert found == pytest.approx(by_loops(risk, outcome), abs=1e-12)
    assert found == pytest.approx(concordance_index(outcome.time, -risk, outcome.event), abs=1e-12)
    theirs = concordance_index_censored(outcome.event, outcome.time, risk)[0]
    assert found == pytest.approx(theirs, abs=1e-12)
    assert harrell(-risk, outcome) == pytest.approx(1 - found, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_uno(ties):
    from sksurv.metrics import concordance_index_ipcw

    _, train = patients(10, 80, ties)
    risk, outcome = patients(11, 50, ties)
    tau = 0.6 * train.time.max()
    found = uno(risk, outcome, train, tau)
    curve = censoring(train)
    expected = by_loops(risk, outcome, lambda t: curve(t) ** -2, tau)
    assert found == pytest.approx(expected, abs=1e-12)
    kept = outcome[outcome.time <= train.time.max()]  # sksurv refuses later times even when unused
    theirs = concordance_index_ipcw(
        structured(train), structured(kept), risk[outcome.time <= train.time.max()], tau
    )[0]
    ours = uno(risk[outcome.time <= train.time.max()], kept, train, tau)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_uno_without_censoring_is_harrell():
    risk, outcome = patients(4, censored=0.0)
    assert uno(risk, outcome) == pytest.approx(harrell(risk, outcome), abs=1e-12)


def test_time_dependent_auc():
    from sksurv.metrics import cumulative_dynamic_auc

    _, train = patients(20, 90, False)
    risk, outcome = patients(21, 60, False)
    keep = outcome.time < train.time.max()
    risk, outcome = risk[keep], outcome[keep]
    times = np.quantile(outcome.time, [0.2, 0.5, 0.8])
    found = time_dependent_auc(risk, outcome, times, train)
    theirs = cumulative_dynamic_auc(structured(train), structured(outcome), risk, times)[0]
    np.testing.assert_allclose(found, theirs, atol=1e-12)
    curve = censoring(train)
    for value, t in zip(found, times, strict=True):
        above = total = 0.0
        for i in np.flatnonzero(outcome.event & (outcome.time <= t)):
            for j in np.flatnonzero(outcome.time > t):
                total += 1 / curve(outcome.time[i])
                above += (risk[i] > risk[j]) / curve(outcome.time[i])
        assert value == pytest.approx(above / total, abs=1e-12)
    assert np.isnan(time_dependent_auc(risk, outcome, [1e-3])).all()


def test_auc_counts_ties_half():
    outcome = Outcome(tuple("abc"), np.array([1.0, 5, 5]), np.array([1, 0, 0]))
    assert time_dependent_auc([1.0, 1.0, 0.0], outcome, [2.0]).tolist() == [0.75]


@pytest.mark.parametrize("ties", [False, True])
def test_brier(ties):
    from sksurv.metrics import brier_score, integrated_brier_score

    _, train = patients(30, 90, ties)
    risk, outcome = patients(31, 60, ties)
    keep = outcome.time < train.time.max()
    risk, outcome = risk[keep], outcome[keep]
    times = np.unique(np.quantile(outcome.time, [0.1, 0.3, 0.5, 0.7]))
    curves = np.exp(-np.exp(risk)[:, None] * times / 10)
    found = brier(curves, outcome, times, train)
    theirs = brier_score(structured(train), structured(outcome), curves, times)[1]
    np.testing.assert_allclose(found, theirs, atol=1e-12)
    curve = censoring(train)
    for k, t in enumerate(times):
        scores = []
        for i in range(len(outcome)):
            if outcome.time[i] <= t and outcome.event[i]:
                scores.append(curves[i, k] ** 2 / curve(outcome.time[i]))
            elif outcome.time[i] > t:
                scores.append((1 - curves[i, k]) ** 2 / curve(t))
            else:
                scores.append(0.0)
        assert found[k] == pytest.approx(np.mean(scores), abs=1e-12)
    theirs = integrated_brier_score(structured(train), structured(outcome), curves, times)
    assert integrated_brier(curves, outcome, times, train) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_breslow(ties):
    from sksurv.linear_model.coxph import BreslowEstimator

    risk, outcome = patients(40, ties=ties)
    ours = BaselineHazard.of(risk, outcome)
    theirs = BreslowEstimator().fit(risk, outcome.event, outcome.time)
    times = np.unique(outcome.time)
    expected = np.array([step(times) for step in theirs.get_survival_function(risk[:5])])
    np.testing.assert_allclose(ours.survival(risk[:5], times), expected, atol=1e-12)


def test_breslow_is_torchsurv():
    import torch

    from graphs.optional import torchsurv_likelihood

    torchsurv_likelihood()  # its imports need a torchvision that loads
    from torchsurv.loss.cox import baseline_survival_function

    risk, outcome = patients(41, ties=True)
    tensors = torch.tensor(risk), torch.tensor(outcome.event), torch.tensor(outcome.time)
    theirs = baseline_survival_function(*tensors)
    ours = BaselineHazard.of(risk, outcome).survival([0.0], theirs["time"].numpy())[0]
    np.testing.assert_allclose(ours, theirs["baseline_survival"].numpy(), atol=1e-6)


def test_bootstrap():
    risk, outcome = patients(50, 80)
    found = bootstrap(risk, outcome, samples=200, seed=3)
    assert found.value == harrell(risk, outcome) and found.low < found.value < found.high
    assert found == bootstrap(risk, outcome, samples=200, seed=3)
    assert found != bootstrap(risk, outcome, samples=200, seed=4)
    narrow = bootstrap(risk, outcome, samples=200, seed=3, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high
    few = Outcome(tuple("abc"), np.array([1.0, 2, 3]), np.array([1, 0, 0]))
    assert bootstrap([3.0, 2, 1], few, samples=100).skipped > 0


def test_bootstrap_covers():
    """About 90 of 100 intervals of level 0.9 hold the C-index of the population."""
    truth = harrell(*patients(99, 2000, False))
    hits = 0
    for seed in range(40):
        found = bootstrap(*patients(seed + 200, 60, False), samples=60, level=0.9)
        hits += found.low <= truth <= found.high
    assert 30 <= hits <= 40


def test_bad_input():
    risk, outcome = patients(60, 10)
    with pytest.raises(InputError, match="each of 10 patients, got \\(9,\\)"):
        harrell(risk[:9], outcome)
    with pytest.raises(InputError, match="infinity for patient '3'"):
        harrell(np.where(np.arange(10) == 3, np.nan, risk), outcome)
    none = Outcome(outcome.patients, outcome.time, np.zeros(10))
    with pytest.raises(InputError, match="nobody is followed beyond a death"):
        harrell(risk, none)
    with pytest.raises(InputError, match="A baseline hazard needs at least one event"):
        BaselineHazard.of(risk, none)
    late = Outcome(("a", "b"), np.array([500.0, 900.0]), np.ones(2))
    with pytest.raises(InputError, match="Pass an earlier tau"):
        uno([1.0, 2.0], late, outcome)
    with pytest.raises(InputError, match="Everybody is censored by time 900"):
        brier(np.ones((2, 1)), late, [900.0], Outcome(("a", "b"), late.time, np.array([1, 0])))
    with pytest.raises(InputError, match="patients by times"):
        brier(np.ones((3, 1)), late, [1.0])
    with pytest.raises(InputError, match="from 0 to 1"):
        brier([[1.5], [0.0]], late, [1.0])
    with pytest.raises(InputError, match="two times, ascending"):
        integrated_brier([[1.0], [1.0]], late, [1.0])
    with pytest.raises(InputError, match="0 < level < 1"):
        bootstrap(risk, outcome, level=1.5)
