"""Real data: rows to fit on, some of them again, and rows never seen with one far out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn import datasets

from neuralize import Neuralized
from tests.subject import Array, Oracle, Subject

Cases = dict[str, Callable[[], Subject]]


@dataclass(frozen=True)
class Split:
    fit: Array
    seen: Array
    unseen: Array


@lru_cache
def load(
    name: str, *, raw: bool = False, n_fit: int = 120, n_rows: int = 8, jitter: float = 0.0
) -> Split:
    """Shuffled rows of a data set, standardised unless ``raw``, without constant columns.

    ``jitter`` times the standard deviation moves values off the grid they were written down on.
    """
    x = getattr(datasets, f"load_{name}")().data.astype(np.float64)
    x = np.unique(x, axis=0)[:, x.std(0) > 0]  # a repeated row would be a tie everywhere
    x = np.random.default_rng(0).permutation(x)
    x += jitter * x.std(0) * np.random.default_rng(1).normal(size=x.shape)
    if not raw:
        x = (x - x[:n_fit].mean(0)) / (x[:n_fit].std(0) + (x[:n_fit].std(0) == 0))
    center, size = x[:n_fit].mean(0), x[:n_fit].std(0)
    far = center + 2 * size * np.sign(np.sin(np.arange(x.shape[1]) + 1.0))
    rest = x[n_fit : n_fit + n_rows]
    return Split(x[:n_fit], x[:n_rows], np.concatenate([rest, far[None]]))


def subject(
    model: Any,
    net_factory: Callable[[Any], Neuralized],
    data: Split,
    oracle: Callable[[Neuralized], Oracle],
    **options: Any,
) -> Subject:
    """The model, fitted on ``data.fit``, and what its network is held against."""
    return Subject(
        model, net_factory, data.seen, data.unseen, oracle, **{"x_refit": data.fit, **options}
    )
