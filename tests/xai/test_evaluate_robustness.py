"""Robustness index, clustering score and performance drop against loops and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats.contingency import association
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score

from xai.errors import InputError
from xai.evaluate import group_clustering as module
from xai.evaluate import performance_drop
from xai.evaluate.group_clustering import clustering_score
from xai.evaluate.performance_drop import (
    PerformanceDrop,
    average_performance_drop,
    cramers_v,
)
from xai.evaluate.robustness import robustness_index


def embedding(n=160, labels=2, groups=2, units=4, d=12, label=1.0, group=1.0, seed=0):
    """Samples whose features carry label and group with the given strength."""
    rng = np.random.default_rng(seed)
    y, g = rng.integers(0, labels, n), rng.integers(0, groups, n)
    unit = np.array(
        [f"{a}-{b}-{u}" for a, b, u in zip(y, g, rng.integers(0, units, n), strict=True)]
    )
    one, two = rng.normal(size=(labels, d)), rng.normal(size=(groups, d))
    return rng.normal(size=(n, d)) + label * one[y] + group * two[g], y, g, unit


def brute_force(x, y, g, unit, subsets, k):
    """Everything by loops over samples and neighbours, from the definition."""
    x = x / np.sqrt((x**2).sum(1, keepdims=True))
    counts, supported, votes = dict.fromkeys(("SS", "SO", "OS", "OO"), 0), 0, []
    for i in range(len(x)):
        others = [
            (((x[i] - x[j]) ** 2).sum(), j)
            for j in range(len(x))
            if unit[j] != unit[i] and subsets[j] == subsets[i]
        ]
        near = [j for _, j in sorted(others)[:k]]
        found = set()
        for j in near:
            kind = ("S" if y[i] == y[j] else "O") + ("S" if g[i] == g[j] else "O")
            counts[kind] += 1
            found.add(kind)
        supported += bool(found & {"SO", "OS"})
        values = [y[j] for j in near]
        votes.append(min(sorted(set(values)), key=lambda v: (-values.count(v), v)))
    return counts, supported, balanced_accuracy_score(y, votes)


@pytest.mark.parametrize("paired", [False, True])
def test_the_curve_equals_loops_over_neighbours(paired):
    x, y, g, unit = embedding(seed=int(paired))
    subsets = np.arange(len(x)) % 3 if paired else np.zeros(len(x), int)
    curve = robustness_index(x, y, g, unit, subsets if paired else None, max_k=15)
    frame = curve.to_frame()
    for k in (1, 2, 7, 15):
        counts, supported, accuracy = brute_force(x, y, g, unit, subsets, k)
        assert frame.loc[k, ["SS", "SO", "OS", "OO"]].tolist() == list(counts.values())
        so, os = counts["SO"], counts["OS"]
        assert curve.index[k - 1] == pytest.approx(so / (so + os), abs=1e-15)
        assert curve.support[k - 1] == supported / len(x)
        assert curve.accuracy[k - 1] == pytest.approx(accuracy)
        over = (counts["SS"] + so) / (counts["SS"] + os)
        assert frame.label_over_group[k] == pytest.approx(over)
    assert curve.best_k == int(np.argmax(curve.accuracy)) + 1


def test_chunks_change_nothing(monkeypatch):
    x, y, g, unit = embedding()
    whole = robustness_index(x, y, g, unit, max_k=20)
    monkeypatch.setattr("xai.evaluate.robustness.CHUNK", 7)
    parts = robustness_index(x, y, g, unit, max_k=20)
    assert (whole.counts == parts.counts).all() and (whole.supported == parts.supported).all()


def test_the_index_says_what_the_embedding_follows():
    for label, group, low, high in ((3, 0, 0.9, 1), (0, 3, 0, 0.1), (0, 0, 0.4, 0.6)):
        x, y, g, unit = embedding(n=600, label=label, group=group, units=30)
        assert low <= robustness_index(x, y, g, unit, max_k=10).index[-1] <= high


def test_neighbours_are_at_most_those_of_other_units():
    x, y, g, _ = embedding(n=20)
    unit = np.array([0] * 12 + list(range(1, 9)))
    assert len(robustness_index(x, y, g, unit).counts) == 8


def test_clustering_score_equals_its_definition():
    x, y, g, _ = embedding(n=60, label=3)
    found = clustering_score(x, y, g, trials=3, clusters=range(2, 5))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)

    def silhouette(labels):
        far = 1 - unit @ unit.T
        values = []
        for i in range(len(unit)):
            own = labels == labels[i]
            if own.sum() == 1:
                values.append(0.0)
                continue
            a = far[i, own].sum() / (own.sum() - 1)
            b = min(far[i, labels == c].mean() for c in set(labels) - {labels[i]})
            values.append((b - a) / max(a, b))
        return np.mean(values)

    best = max(
        range(2, 5),
        key=lambda k: silhouette(
            KMeans(k, init="random", n_init=20, random_state=1337).fit_predict(unit)
        ),
    )
    scores = []
    for trial in range(3):
        labels = KMeans(best, init="random", n_init=5, random_state=1337 + trial).fit_predict(unit)
        scores.append(adjusted_rand_score(y, labels) - adjusted_rand_score(g, labels))
    assert found == pytest.approx(np.mean(scores), abs=1e-12)


def test_clustering_score_averages_the_quadruples():
    label = np.array([0, 0, 1, 1, 2, 2, 0, 1])
    group = np.array([0, 1, 0, 1, 0, 0, 2, 2])
    found = [sorted(rows.tolist()) for rows in module.quadruples(label, group)]
    expected = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for g, h in ((0, 1), (0, 2), (1, 2)):
            cells = [(label == c) & (group == d) for c in (a, b) for d in (g, h)]
            if all(cell.any() for cell in cells):
                expected.append(np.flatnonzero(np.any(cells, 0)).tolist())
    assert found == expected and len(found) == 3


def test_clustering_score_has_the_sign_of_what_is_found():
    for label, group, sign in ((4, 0, 1), (0, 4, -1)):
        x, y, g, _ = embedding(n=120, label=label, group=group)
        score = clustering_score(x, y, g, trials=3, clusters=range(2, 4))
        assert sign * score > 0.8


def test_the_drop_is_the_mean_ratio_less_one():
    accuracy = np.array([[0.8, 0.9], [0.6, 0.9], [0.4, 0.45]])
    drop = PerformanceDrop(accuracy, np.array([0, 0.5, 1]))
    expected = [(0.6 / 0.8 + 0.4 / 0.8) / 2 - 1, (0.9 / 0.9 + 0.45 / 0.9) / 2 - 1]
    assert drop.per_trial.tolist() == pytest.approx(expected)
    assert drop.average == pytest.approx(np.mean(expected))


def test_a_probe_that_can_cheat_drops_and_one_that_cannot_does_not():
    fields = {"n": 500, "units": 20, "d": 4}
    x, y, g, unit = embedding(label=1, group=4, **fields)
    cheats = average_performance_drop(x, y, g, unit, splits=3, trials=2)
    x, y, g, unit = embedding(label=4, group=0, **fields)
    honest = average_performance_drop(x, y, g, unit, splits=3, trials=2)
    assert cheats.average < -0.1 < honest.average
    assert cheats.cramers_v[0] < 0.1 and cheats.cramers_v[-1] == pytest.approx(1)
    assert np.all(np.diff(cheats.cramers_v) > 0.2)


def test_training_keeps_its_size_and_units_stay_on_one_side(monkeypatch):
    seen = []
    x, y, g, unit = embedding(n=600, units=20)

    def probe(x, label, train, validation, max_iter):
        seen.append((train, validation))
        return original_probe(x, label, train, validation, max_iter)

    original_probe = performance_drop._chosen_probe
    monkeypatch.setattr(performance_drop, "_chosen_probe", probe)
    average_performance_drop(x, y, g, unit, splits=3, trials=2)
    sizes = [len(train) for train, _ in seen]
    assert max(sizes) - min(sizes) <= 4
    for train, validation in seen:
        assert not set(unit[train]) & set(unit[validation])
        assert len(np.unique(train)) == len(train)


def test_cramers_v_equals_scipys():
    rng = np.random.default_rng(0)
    for shape in ((2, 2), (3, 4), (5, 2)):
        table = rng.integers(1, 20, shape)
        assert cramers_v(table) == pytest.approx(association(table, method="cramer"))
    assert cramers_v([[3, 4]]) == 0.0


def test_bad_input_is_refused():
    x, y, g, _ = embedding(n=40)
    with pytest.raises(InputError, match="40 labels"):
        robustness_index(x, y[:-1], g)
    with pytest.raises(InputError, match="rows that are not"):
        robustness_index(np.where(np.arange(12) == 3, np.nan, x), y, g)
    with pytest.raises(InputError, match="row 5 of length zero"):
        broken = x.copy()
        broken[5] = 0
        robustness_index(broken, y, g)
    with pytest.raises(InputError, match="cannot be assessed"):
        robustness_index(x, y, g, np.zeros(40))
    with pytest.raises(InputError, match="cannot be told apart"):
        clustering_score(x, y, y)
    with pytest.raises(InputError, match="at least 4 units"):
        average_performance_drop(x, y, g, np.array([f"{a}{b}" for a, b in zip(y, g, strict=True)]))
    with pytest.raises(InputError, match="splits"):
        average_performance_drop(x, y, g, splits=1)
