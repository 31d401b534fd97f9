"""The single outlier that teaches most: evolutionary search, and random search beside it.

Liznerski et al. (TMLR 2022, arXiv 2205.11474) ask how good a detector gets with one outlier image,
and look for the best among many by evolution. An individual is one candidate; its fitness is that
of a detector trained with it alone. From one generation to the next:

1. selection: every place is won by the fittest of ``tournament`` individuals drawn from the pool;
2. mating: two neighbours become, with probability ``mate``, candidates that are close to both;
3. mutation: with probability ``mutate`` one becomes another candidate close to it.

*Close*: of ``mutation_pool`` candidates drawn at random, one of the ``nearest`` ones, by Euclidean
distance. A candidate is trained with once, however often it returns.

The best of many noisy numbers is too good: measure the winner again, on rows and with a seed that
the search has not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from xai.errors import InputError
from xai.evaluate.outlier_exposure import exposed_auroc

Array = NDArray[Any]
Fitness = Callable[[int], float]


@dataclass(frozen=True)
class Evolution:
    """How the search goes; the numbers of the authors' code.

    Parameters
    ----------
    generations
        After the first, which is drawn at random.
    pool
        Individuals of a generation.
    mutation_pool, nearest
        How many candidates are drawn, and how many of them count as close.
    mutate, mate
        Probabilities.
    tournament
        Individuals one place is fought for by.
    seed
        Of the search; the trainings have their own.
    """

    generations: int = 30
    pool: int = 16
    mutation_pool: int = 100
    nearest: int = 10
    mutate: float = 0.5
    mate: float = 0.2
    tournament: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.generations, self.pool, self.mutation_pool, self.nearest, self.tournament) < 1:
            raise InputError(f"Expected numbers of at least 1, got {self}.")
        if not (0 <= self.mutate <= 1 and 0 <= self.mate <= 1):
            raise InputError(f"Expected probabilities between 0 and 1, got {self}.")


@dataclass(frozen=True, eq=False)
class OutlierSearch:
    """What a search found.

    Attributes
    ----------
    best
        Number of the best candidate.
    fitness
        Fitness of every candidate that was tried, by its number.
    history
        One line per generation: ``trained`` (different candidates so far), ``best`` so far, and
        ``mean`` of the generation.
    """

    best: int
    fitness: dict[int, float]
    history: pd.DataFrame


def single_outlier_fitness(
    detector: Any,
    normals: ArrayLike,
    candidates: ArrayLike,
    x_valid: ArrayLike,
    y_valid: ArrayLike,
) -> Fitness:
    """AUROC of the detector trained with one candidate as its only outlier, by its number.

    Parameters
    ----------
    detector
        Unfitted, with a short training; cloned every time.
    normals, candidates
        Training rows ``(n, ...)``, and possible outliers ``(m, ...)``.
    x_valid, y_valid
        Rows the AUROC is measured on, and whether each is anomalous: not those of the final test.
    """
    images = np.asarray(candidates)

    def fitness(number: int) -> float:
        return exposed_auroc(detector, normals, images[[number]], x_valid, y_valid)

    return fitness


def evolve_outlier(
    fitness: Fitness,
    candidates: ArrayLike,
    evolution: Evolution = Evolution(),
    *,
    progress: bool = True,
) -> OutlierSearch:
    """Search the candidates ``(m, ...)`` for the one of highest fitness by evolution.

    Parameters
    ----------
    fitness
        From a candidate's number to what is to be large, e.g. :func:`single_outlier_fitness`.
    candidates
        What distances are measured between.
    evolution
        How.
    progress
        Whether to show a bar when it takes longer than two seconds.

    Raises
    ------
    InputError
        Fewer candidates than two, or a fitness that is not a finite number.

    Examples
    --------
    >>> line = np.linspace(0, 1, 200)[:, None]
    >>> found = evolve_outlier(lambda i: -abs(line[i, 0] - 0.4), line, Evolution(generations=8))
    >>> round(line[found.best, 0], 2)
    np.float64(0.4)
    """
    rows = np.asarray(candidates, dtype=np.float64)
    if rows.ndim < 2 or len(rows) < 2:
        raise InputError(f"Expected at least 2 candidates (m, ...), got shape {rows.shape}.")
    rows = rows.reshape(len(rows), -1)
    rng = np.random.default_rng(evolution.seed)
    known: dict[int, float] = {}
    history = []
    pool = rng.choice(len(rows), evolution.pool, replace=len(rows) < evolution.pool)
    bar = range(evolution.generations + 1)
    for _ in tqdm(bar, delay=2, disable=not progress, desc="generations"):
        scores = np.array([_ask(fitness, number, known) for number in pool.tolist()])
        history.append((len(known), max(known.values()), scores.mean()))
        pool = _offspring(pool, scores, rows, evolution, rng)
    return _found(known, history)


def random_search(
    fitness: Fitness, n_candidates: int, trials: int, *, seed: int = 0, progress: bool = True
) -> OutlierSearch:
    """Try that many candidates in random order: what evolution has to beat.

    Its history has one line per trial.

    Examples
    --------
    >>> random_search(lambda i: -abs(i - 30), 100, 100).best
    30
    """
    if not 1 <= trials <= n_candidates:
        raise InputError(f"Expected 1 to {n_candidates} trials, got {trials}.")
    known: dict[int, float] = {}
    history = []
    order = np.random.default_rng(seed).permutation(n_candidates)[:trials].tolist()
    for number in tqdm(order, delay=2, disable=not progress, desc="trials"):
        score = _ask(fitness, number, known)
        history.append((len(known), max(known.values()), score))
    return _found(known, history)


def _ask(fitness: Fitness, number: int, known: dict[int, float]) -> float:
    if number not in known:
        score = float(fitness(number))
        if not np.isfinite(score):
            raise InputError(f"Expected a finite fitness, got {score} for candidate {number}.")
        known[number] = score
    return known[number]


def _found(known: dict[int, float], history: list[tuple[int, float, float]]) -> OutlierSearch:
    frame = pd.DataFrame(history, columns=["trained", "best", "mean"]).rename_axis("generation")
    return OutlierSearch(max(known, key=lambda number: known[number]), known, frame)


def _offspring(
    pool: Array, scores: Array, rows: Array, evolution: Evolution, rng: np.random.Generator
) -> Array:
    """The next generation, numbers of candidates ``(pool,)``."""
    size = min(evolution.tournament, len(pool))
    fights = [rng.choice(len(pool), size, replace=False) for _ in range(len(pool))]
    children = pool[[fight[scores[fight].argmax()] for fight in fights]]
    for i in range(0, len(pool) - 1, 2):
        if rng.random() < evolution.mate:
            parents = children[i : i + 2].copy()
            children[i], children[i + 1] = (_close(parents, rows, evolution, rng) for _ in (0, 1))
    for i in range(len(pool)):
        if rng.random() < evolution.mutate:
            children[i] = _close(children[i : i + 1].copy(), rows, evolution, rng)
    return children


def _close(parents: Array, rows: Array, evolution: Evolution, rng: np.random.Generator) -> int:
    """A candidate close to all parents, other than they."""
    drawn = rng.choice(len(rows), min(evolution.mutation_pool, len(rows)), replace=False)
    drawn = drawn[~np.isin(drawn, parents)]
    if not len(drawn):
        return int(parents[0])
    far = ((rows[drawn][:, None] - rows[parents]) ** 2).sum((1, 2))
    return int(rng.choice(drawn[np.argsort(far, kind="stable")[: evolution.nearest]]))
