"""DeLong's covariance against its definition in plain loops, the bootstrap, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from neuralize import InputError
from xai.evaluate.auroc import auroc


def by_definition(labels, scores):
    """Area and covariance from every pair, in loops."""
    psi = lambda a, b: 1.0 if a > b else 0.5 if a == b else 0.0  # noqa: E731
    areas, v, w = [], [], []
    for row in scores:
        x = [s for s, y in zip(row, labels, strict=True) if y]
        y = [s for s, y in zip(row, labels, strict=True) if not y]
        v.append([sum(psi(a, b) for b in y) / len(y) for a in x])
        w.append([sum(psi(a, b) for a in x) / len(x) for b in y])
        areas.append(sum(v[-1]) / len(x))
    k, m, n = len(scores), len(v[0]), len(w[0])
    c = np.zeros((k, k))
    for r in range(k):
        for s in range(k):
            dv = [(p - areas[r]) * (q - areas[s]) for p, q in zip(v[r], v[s], strict=True)]
            dw = [(p - areas[r]) * (q - areas[s]) for p, q in zip(w[r], w[s], strict=True)]
            c[r, s] = sum(dv) / (m - 1) / m + sum(dw) / (n - 1) / n
    return np.array(areas), c


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(2, 8), n=st.integers(2, 8), k=st.integers(1, 3), levels=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_area_and_covariance_are_those_of_the_definition(m, n, k, levels, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(m + n) < m)
    scores = rng.integers(0, levels, (k, m + n)).astype(float)  # with many ties
    found = auroc(labels, scores)
    area, covariance = by_definition(labels, scores)
    np.testing.assert_allclose(found.area, area, atol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-12)
    for a, row in zip(found.area, scores, strict=True):
        np.testing.assert_allclose(a, roc_auc_score(labels, row))
    assert (found.n_anomalies, found.n_normal) == (m, n)


def test_variance_is_that_of_a_stratified_bootstrap():
    rng = np.random.default_rng(0)
    labels = np.arange(250) < 100
    common = rng.normal(size=250) + 1.2 * labels
    scores = np.stack([common, common + 0.7 * rng.normal(size=250)])
    pairs = [(x[:100, None] > x[100:]).astype(float) for x in scores]
    drawn = []
    for _ in range(1500):
        i, j = rng.integers(0, 100, 100), rng.integers(0, 150, 150)
        drawn.append([p[i][:, j].mean() for p in pairs])
    np.testing.assert_allclose(
        auroc(labels, scores).covariance, np.cov(np.array(drawn).T), rtol=0.15
    )


def test_intervals_cover_the_true_area():
    rng = np.random.default_rng(1)
    for shift in (0.5, 2.5):
        true = norm.cdf(shift / np.sqrt(2))
        hits = 0
        for _ in range(400):
            scores = rng.normal(size=90)
            scores[:40] += shift
            low, high = auroc(np.arange(90) < 40, scores).interval(0.9)
            assert 0 <= low[0] < high[0] <= 1
            hits += low[0] <= true <= high[0]
        assert 0.87 <= hits / 400 <= 0.95, hits


def test_interval_is_normal_on_the_logit_scale():
    labels, scores = np.arange(9) < 4, np.array([3.0, 5, 6, 9, 1, 2, 4, 4.5, 7])
    found = auroc(labels, scores)
    low, high = found.interval(0.95)
    a, v = found.area[0], found.covariance[0, 0]
    centre, error = np.log(a / (1 - a)), np.sqrt(v) / (a * (1 - a))
    ends = 1 / (1 + np.exp(-(centre + error * np.array([-1.959964, 1.959964]))))
    np.testing.assert_allclose([low[0], high[0]], ends, rtol=1e-6)


def test_perfect_and_reversed_orders_have_an_honest_end():
    labels = np.array([0] * 20 + [1] * 10)
    scores = np.arange(30.0)
    low, high = auroc(labels, [scores, -scores]).interval(0.95)
    # ten disjoint pairs, all in order with probability A^10: 0.025 at the end
    np.testing.assert_allclose(low[0] ** 10, 0.025)
    np.testing.assert_allclose((1 - high[1]) ** 10, 0.025)
    assert (high[0], low[1]) == (1.0, 0.0)


def test_misuse():
    with pytest.raises(InputError, match="got 3 and 0"):
        auroc([1, 1, 1], [1.0, 2, 3])
    with pytest.raises(InputError, match="at least 2"):
        auroc([1, 0, 0], [1.0, 2, 3])
    with pytest.raises(InputError, match="labels"):
        auroc([1, 2, 0], [1.0, 2, 3])
    with pytest.raises(InputError, match="one score per label"):
        auroc([1, 1, 0, 0], [1.0, 2, 3])
    with pytest.raises(InputError, match="finite"):
        auroc([1, 1, 0, 0], [1.0, 2, 3, np.nan])
    with pytest.raises(InputError, match="level"):
        auroc([1, 1, 0, 0], [1.0, 2, 3, 4]).interval(95)
