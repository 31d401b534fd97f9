"""Explanations side by side, and whether their difference is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ttest_rel

from neuralize import Neuralized, neuralize
from xai.baselines import BASELINES, NEEDS_GRADIENT
from xai.errors import InputError
from xai.evaluate.curves import Normalization
from xai.evaluate.flipping import pixel_flipping
from xai.evaluate.replacement import replacement_rule
from xai.evaluate.trajectory import Replacement
from xai.explainer import explain, to_rows

Array = NDArray[Any]

LEVEL = 0.05
"""Error probability at which a difference counts, over all baselines of a table together."""

_SEED_STRIDE = 1_000_003  # the random baseline takes seed + row: runs must not share rows


def compare(
    model: Any,
    x: Any,
    methods: Sequence[str] | None = None,
    *,
    target: ArrayLike | None = None,
    background: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    replace: str | Replacement = "conditional",
    patch: int = 1,
    n_steps: int | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    normalize: Normalization = "pooled",
    progress: bool = True,
) -> pd.DataFrame:
    """Pixel-flipping of LRP and the baselines on the same rows.

    Parameters
    ----------
    model, x, target
        As in :func:`xai.explain`.
    methods
        Baselines to compare LRP with; all that the model admits when missing (no gradients of step
        functions). ``"lrp"`` is always there.
    background
        Rows for the baselines that need some; ``reference`` when missing.
    reference, replace, patch, n_steps
        As in :func:`xai.evaluate.pixel_flipping`.
    seeds
        Runs over which random numbers (the random baseline, drawn replacements, ties) are averaged.
        Where nothing but ties is random, the first one is all there is to run.
    normalize
        Scale of the areas, as in :meth:`xai.evaluate.FlippingResult.curve`.
    progress
        Whether to show bars on work that takes longer than two seconds.

    Returns
    -------
    DataFrame
        One line per method: ``auc`` (lower is better) with ``standard_error`` over rows and
        ``seed_error`` over seeds; ``difference`` to LRP (positive: LRP better) with its paired
        ``difference_error`` over rows, ``p_value`` and ``verdict``, see :func:`paired_verdict`.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_iris
    >>> x = load_iris().data
    >>> table = compare(KMeans(3, n_init=1, random_state=0).fit(x), x, ["random"], reference=x)
    >>> table.loc["random", "verdict"]
    'LRP better'
    """
    net = model if isinstance(model, Neuralized) else neuralize(model)
    if methods is None:
        methods = [m for m in BASELINES if net.differentiable or m not in NEEDS_GRADIENT]
    if not seeds:
        raise InputError("Expected at least one seed, got none.")
    rule = replacement_rule(replace, reference, tuple(to_rows(x)[0].shape[1:]))
    areas: dict[str, Array] = {}
    for method in ("lrp", *(m for m in methods if m != "lrp")):
        runs = seeds if rule.draws or method == "random" else seeds[:1]
        results = []
        for seed in runs:
            relevance = explain(
                net,
                x,
                target,
                method=method,
                background=reference if background is None else background,
                seed=seed * _SEED_STRIDE,
                progress=progress,
            )
            result = pixel_flipping(
                net,
                x,
                relevance,
                replace=rule,
                patch=patch,
                n_steps=n_steps,
                seed=seed,
                progress=progress,
            )
            results.append(result.auc(normalize))
        areas[method] = np.stack(results)
    return verdict_table(areas)


def verdict_table(areas: dict[str, Array]) -> pd.DataFrame:
    """The table of :func:`compare` from areas ``(n_seeds, n_rows)`` per method, ``"lrp"`` first.

    Rows without a curve of their own (NaN) are left out of every method alike.

    Examples
    --------
    >>> areas = {"lrp": np.array([[0.1, 0.2, 0.1]]), "random": np.array([[0.6, 0.8, 0.5]])}
    >>> verdict_table(areas)["auc"].round(3).tolist()
    [0.133, 0.633]
    """
    valid = np.all([~np.isnan(area).any(0) for area in areas.values()], axis=0)
    rows = {name: area[:, valid].mean(0) for name, area in areas.items()}
    lines = []
    for name, per_row in rows.items():
        per_seed = areas[name][:, valid].mean(1)
        line: dict[str, Any] = {
            "method": name,
            "auc": per_row.mean(),
            "standard_error": _standard_error(per_row),
            "seed_error": _standard_error(per_seed) if len(per_seed) > 1 else 0.0,
        }
        if name != "lrp":
            line |= paired_verdict(rows["lrp"], per_row, n_comparisons=len(rows) - 1)
        lines.append(line)
    return pd.DataFrame(lines).set_index("method")


def paired_verdict(lrp: Array, other: Array, *, n_comparisons: int = 1) -> dict[str, Any]:
    """Whether the areas of LRP are smaller than another method's, pair by pair.

    A paired t-test over the pairs, at 5% shared by all comparisons of a table (Bonferroni).

    Parameters
    ----------
    lrp, other
        Areas ``(n_pairs,)`` on the same rows, or means over the same seeds.
    n_comparisons
        How many baselines LRP is compared with.

    Returns
    -------
    dict
        ``difference`` (other minus LRP), ``difference_error``, ``p_value`` (corrected) and
        ``verdict``: ``"LRP better"``, ``"LRP worse"`` or ``"undecided"``.

    Examples
    --------
    >>> a = np.array([0.1, 0.2, 0.1, 0.2])
    >>> paired_verdict(a, a + np.array([0.5, 0.4, 0.5, 0.6]))["verdict"]
    'LRP better'
    >>> paired_verdict(a, a)["verdict"]
    'undecided'
    """
    difference = other - lrp
    mean = float(difference.mean())
    spread = _standard_error(difference)
    if not np.ptp(difference):
        # A difference that never varies has no t; equal means there is none at all.
        p = 1.0 if mean == 0 or len(difference) < 2 else 0.0
    else:
        p = min(1.0, float(ttest_rel(other, lrp).pvalue) * n_comparisons)
    verdict = "undecided"
    if p < LEVEL:
        verdict = "LRP better" if mean > 0 else "LRP worse"
    return {
        "difference": mean,
        "difference_error": spread,
        "p_value": p,
        "verdict": verdict,
    }


def _standard_error(values: Array) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))
