"""Studies of outlier exposure: sizes, frequencies, and the search for the best single outlier."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.metrics import roc_auc_score

from neuralize.deep import HypersphereClassifier, Training
from xai.errors import InputError
from xai.evaluate import (
    Evolution,
    evolve_outlier,
    few_outliers,
    low_pass,
    low_pass_ablation,
    random_search,
    single_outlier_fitness,
)


class Means(BaseEstimator):
    """Which mean is nearer; remembers what it was trained with."""

    seen: ClassVar[list[tuple[int, np.ndarray]]] = []

    def __init__(self, training: Training = Training(seed=5)) -> None:  # noqa: B008 - frozen
        self.training = training

    def fit(self, x: np.ndarray, y: np.ndarray) -> Means:
        x = x.reshape(len(x), -1)
        Means.seen.append((self.training.seed, x[y == 1]))
        self.low_, self.high_ = x[y == 0].mean(0), x[y == 1].mean(0)
        return self

    def decision_function(self, x: Any) -> np.ndarray:
        x = np.asarray(x).reshape(len(x), -1)
        return ((x - self.low_) ** 2).sum(1) - ((x - self.high_) ** 2).sum(1)


@pytest.fixture(autouse=True)
def forget() -> None:
    Means.seen.clear()


def problem(m: int = 9) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(30, 2))
    outliers = rng.normal(0, 3, (m, 2))
    x_test = np.concatenate([rng.normal(size=(20, 2)), rng.normal(2, 1, (20, 2))])
    return normals, outliers, x_test, np.repeat([0, 1], 20)


def test_sizes_are_nested_and_areas_those_of_each_training() -> None:
    normals, outliers, x, y = problem()
    table = few_outliers(Means(), normals, outliers, x, y, repeats=3, progress=False)
    assert table.index.tolist() == [1, 2, 4, 8, 9] and table.index.name == "size"
    areas: dict[int, list[float]] = {size: [] for size in table.index}
    by_seed: dict[int, list[np.ndarray]] = {}
    for seed, rows in Means.seen:
        by_seed.setdefault(seed, []).append(rows)
        scores = ((x - normals.mean(0)) ** 2).sum(1) - ((x - rows.mean(0)) ** 2).sum(1)
        areas[len(rows)].append(float(roc_auc_score(y, scores)))
    assert sorted(by_seed) == [5, 6, 7]
    for sets in by_seed.values():
        assert [len(rows) for rows in sets] == [1, 2, 4, 8, 9]
        for small, large in itertools.pairwise(sets):
            np.testing.assert_array_equal(small, large[: len(small)])
        assert {tuple(row) for row in sets[-1]} == {tuple(row) for row in outliers}
    for size, found in areas.items():
        assert table.loc[size, "mean"] == pytest.approx(np.mean(found))
        assert table.loc[size, "sem"] == pytest.approx(np.std(found, ddof=1) / math.sqrt(3))
    first = [rows[0] for rows in (sets[0] for sets in by_seed.values())]
    assert len({tuple(row) for row in first}) > 1


def test_sets_are_the_same_for_every_detector_of_a_seed() -> None:
    given = problem()
    few_outliers(Means(), *given, sizes=[2], repeats=2, seed=4, progress=False)
    few_outliers(Means(Training(epochs=2)), *given, sizes=[2], repeats=2, seed=4, progress=False)
    rows = [rows for _, rows in Means.seen]
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_array_equal(rows[1], rows[3])


def test_a_detector_is_trained_anew_every_time() -> None:
    normals, outliers, x, y = problem()
    detector = HypersphereClassifier(training=Training(epochs=2, batch_size=30, progress=False))
    table = few_outliers(detector, normals, outliers, x, y, sizes=[1, 9], repeats=2)
    again = few_outliers(detector, normals, outliers, x, y, sizes=[1, 9], repeats=2)
    assert table.equals(again) and not hasattr(detector, "module_")
    assert table["mean"].between(0, 1).all() and (table["sem"] > 0).all()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"sizes": [0, 3]}, "between 1 and the 9"),
        ({"sizes": [10]}, "between 1 and the 9"),
        ({"sizes": []}, "between 1 and the 9"),
        ({"repeats": 0}, "one repeat"),
        ({"y_test": np.ones(40)}, "both kinds"),
        ({"normals": np.zeros((4, 3))}, r"shape \(3,\)"),
    ],
)
def test_bad_studies_are_refused(options: dict[str, Any], what: str) -> None:
    names = ("normals", "outliers", "x_test", "y_test")
    given = {**dict(zip(names, problem(), strict=True)), **options}
    with pytest.raises(InputError, match=what):
        few_outliers(Means(), **given)


# -- frequencies ---------------------------------------------------------------------------------


def cosines(h: int, w: int) -> dict[tuple[int, int], np.ndarray]:
    """The orthonormal basis of the discrete cosine transform, written out."""
    basis = {}
    for u in range(h):
        for v in range(w):
            picture = np.zeros((h, w))
            for i in range(h):
                for j in range(w):
                    picture[i, j] = math.cos(math.pi * (2 * i + 1) * u / (2 * h)) * math.cos(
                        math.pi * (2 * j + 1) * v / (2 * w)
                    )
            basis[u, v] = picture / np.linalg.norm(picture)
    return basis


@pytest.mark.parametrize("cutoff", [0.05, 0.2, 0.4, 0.8])
def test_dct_keeps_what_lies_below_the_cutoff(cutoff: float) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5))
    expected = np.zeros_like(x)
    for (u, v), picture in cosines(6, 5).items():
        if math.hypot(u / 12, v / 10) <= cutoff:
            share = np.einsum("ncij,ij->nc", x, picture)
            expected += share[..., None, None] * picture
    np.testing.assert_allclose(low_pass(x, cutoff), expected, atol=1e-12)


def test_gaussian_halves_the_amplitude_at_the_cutoff() -> None:
    wave = np.cos(2 * np.pi * 0.125 * np.arange(160))
    picture = np.tile(wave, (1, 40, 1))
    blurred = low_pass(picture, 0.125, "gaussian")
    middle = (0, 20, slice(64, 96))
    np.testing.assert_allclose(blurred[middle], 0.5 * picture[middle], atol=2e-3)


@pytest.mark.parametrize("kind", ["dct", "gaussian"])
def test_without_cutoff_nothing_changes(kind: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 5))
    np.testing.assert_allclose(low_pass(x, math.inf, kind), x, atol=1e-12)


def test_ablation_filters_the_outliers_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    stripes = np.tile([-1.0, 1.0], (8, 3))
    normals = rng.normal(size=(30, 8, 6))
    outliers = rng.normal(size=(10, 8, 6)) + stripes
    x = np.concatenate([rng.normal(size=(30, 8, 6)), rng.normal(size=(30, 8, 6)) + stripes])
    y = np.repeat([0, 1], 30)
    table = low_pass_ablation(
        Means(), normals, outliers, x, y, cutoffs=(0.1, math.inf), repeats=2, progress=False
    )
    assert table.index.tolist() == [0.1, math.inf] and table.index.name == "cutoff"
    assert table["mean"].iloc[0] < 0.9 < table["mean"].iloc[1]
    for (_, rows), cutoff in zip(Means.seen, (0.1, 0.1, math.inf, math.inf), strict=True):
        np.testing.assert_allclose(rows, low_pass(outliers, cutoff).reshape(10, -1))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ((np.zeros((3, 4)), 0.1), "images"),
        ((np.zeros((3, 4, 4)), 0.0), "above 0"),
        ((np.zeros((3, 4, 4)), math.nan), "above 0"),
        ((np.zeros((3, 4, 4)), 0.1, "box"), "'gaussian'"),
    ],
)
def test_bad_filters_are_refused(given: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        low_pass(*given)


# -- search --------------------------------------------------------------------------------------


def plane(n: int = 2000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, 2))


def test_evolution_beats_random_search_where_neighbours_are_alike() -> None:
    rows = plane()
    goal = np.array([0.3, -0.6])
    asked: list[int] = []

    def fitness(number: int) -> float:
        asked.append(number)
        return -float(np.linalg.norm(rows[number] - goal))

    wins = 0
    for seed in range(7):
        asked.clear()
        found = evolve_outlier(fitness, rows, Evolution(generations=8, seed=seed), progress=False)
        assert len(asked) == len(set(asked)) == len(found.fitness)
        assert found.fitness[found.best] == max(found.fitness.values())
        baseline = random_search(fitness, len(rows), len(found.fitness), seed=seed, progress=False)
        assert len(baseline.fitness) == len(found.fitness)
        wins += found.fitness[found.best] > baseline.fitness[baseline.best]
    assert wins >= 6


def test_history_counts_trainings_and_never_forgets_the_best() -> None:
    rows = plane(300)
    found = evolve_outlier(lambda i: float(rows[i, 0]), rows, Evolution(generations=5, seed=1))
    again = evolve_outlier(lambda i: float(rows[i, 0]), rows, Evolution(generations=5, seed=1))
    assert found.history.equals(again.history) and found.best == again.best
    history = found.history
    assert len(history) == 6 and history.trained.is_monotonic_increasing
    assert history.trained.iloc[0] == 16 and history.trained.iloc[-1] == len(found.fitness)
    assert history.best.is_monotonic_increasing and (history["mean"] <= history.best).all()
    assert history["mean"].iloc[-1] > history["mean"].iloc[0]


def test_without_mutation_and_mating_only_selection_is_left() -> None:
    rows = plane(300)
    settings = Evolution(generations=12, mutate=0.0, mate=0.0)
    found = evolve_outlier(lambda i: float(rows[i, 0]), rows, settings)
    assert len(found.fitness) == 16
    assert found.history["mean"].iloc[-1] == pytest.approx(found.history.best.iloc[-1])


def test_two_candidates_are_enough() -> None:
    found = evolve_outlier(float, np.eye(2), Evolution(generations=3), progress=False)
    assert found.best == 1 and set(found.fitness) == {0, 1}


def test_fitness_of_a_candidate_is_the_area_with_it_alone() -> None:
    normals, outliers, x, y = problem()
    fitness = single_outlier_fitness(Means(), normals, outliers, x, y)
    scores = ((x - normals.mean(0)) ** 2).sum(1) - ((x - outliers[4]) ** 2).sum(1)
    assert fitness(4) == pytest.approx(roc_auc_score(y, scores))
    found = evolve_outlier(fitness, outliers, Evolution(generations=4), progress=False)
    areas = [fitness(i) for i in range(len(outliers))]
    assert found.fitness[found.best] == max(areas)


@pytest.mark.parametrize(
    "options", [{"pool": 0}, {"mutate": 1.5}, {"mate": -0.1}, {"generations": 0}, {"nearest": 0}]
)
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Evolution(**options)


def test_bad_searches_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2"):
        evolve_outlier(float, np.zeros((1, 2)))
    with pytest.raises(InputError, match="finite fitness, got nan for candidate"):
        evolve_outlier(lambda i: math.nan, np.eye(3))
    for trials in (0, 11):
        with pytest.raises(InputError, match="1 to 10"):
            random_search(float, 10, trials)
