"""How far relevance agrees with the truth, and with other relevance: rows, means, tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from xai.evaluate.auroc import Auroc
from xai.evaluate.comparison import paired_verdict
from xai.evaluate.localisation import cosines, localisation
from xai.evaluate.strategy_table import MEASURES
from xai.plot.images import relevance_map
from xai.relevance import Array, Relevance

GIVEN = "given"
"""Under this name of a detector stand the maps that the caller brought along."""


def flat(values: Array) -> Array:
    """Rows ``(n, ...)`` as vectors ``(n, d)``."""
    return values.reshape(len(values), -1)


def agreement_with_truth(
    values: Array, truth: Array, inside: float, rows: Array, detector: str, method: str
) -> pd.DataFrame:
    """Every row's agreement of its relevance with the truth.

    Average precision and mass ask for a mask: what is above the share ``inside`` of the row's
    largest truth. They are missing where that is everything, since nothing could be missed.
    """
    if values.ndim == truth.ndim + 1:
        values = relevance_map(values)
    r, t = flat(values.astype(np.float64)), flat(truth)
    frame = pd.DataFrame(np.nan, index=range(len(rows)), columns=list(MEASURES))
    mask = t if t.dtype == bool else t > inside * t.max(1, keepdims=True)
    partial = np.flatnonzero(~mask.all(1))  # a mask of everything leaves nothing to miss
    if len(partial):
        located = localisation(r[partial], mask[partial])
        frame.loc[partial, list(MEASURES)] = located[list(MEASURES)].to_numpy()
    frame["cosine"] = cosines(r, t.astype(np.float64))
    frame.insert(0, "row", rows)
    frame.insert(0, "method", method)
    frame.insert(0, "detector", detector)
    return frame


def _means(part: pd.DataFrame) -> dict[str, float]:
    """Mean and standard error over rows of every measure, each over the rows that have it."""
    line: dict[str, float] = {}
    for measure in MEASURES:
        known = part[measure].dropna().to_numpy()
        line[measure] = float(known.mean()) if len(known) else math.nan
        spread = float(known.std(ddof=1)) if len(known) > 1 else math.nan
        line[f"{measure}_error"] = spread / math.sqrt(len(known)) if len(known) else math.nan
    return line | {"rows": len(part), "rows_partial": int(part["average_precision"].count())}


def detector_table(
    per_row: pd.DataFrame, relevances: Mapping[str, Relevance], areas: Auroc, level: float
) -> pd.DataFrame:
    """One line per detector: area with interval, agreement, gap."""
    low, high = areas.interval(level)
    lines = []
    for i, (name, relevance) in enumerate(relevances.items()):
        own = per_row[(per_row["detector"] == name) & (per_row["method"] == relevance.method)]
        area = {"auroc": areas.area[i], "auroc_low": low[i], "auroc_high": high[i]}
        means = _means(own)
        lines.append({"detector": name} | area | means | {"gap": area["auroc"] - means["cosine"]})
    return pd.DataFrame(lines).set_index("detector")


def method_table(per_row: pd.DataFrame, relevances: Mapping[str, Relevance]) -> pd.DataFrame:
    """One line per detector and other explanation, compared with relevance row by row."""
    lines = []
    given = per_row[per_row["detector"] == GIVEN]
    for name, relevance in relevances.items():
        own = per_row[per_row["detector"] == name]
        lrp = own[own["method"] == relevance.method]
        others = pd.concat([own[own["method"] != relevance.method], given])
        count = others["method"].nunique()
        for method, part in others.groupby("method", sort=False):
            line: dict[str, Any] = {"detector": name, "method": method, **_means(part)}
            for measure in ("cosine", "average_precision"):
                pair = np.stack([lrp[measure], part[measure]])
                pair = pair[:, ~np.isnan(pair).any(0)]
                # Less is better there, and more is better here.
                verdict = paired_verdict(-pair[0], -pair[1], n_comparisons=count)
                line |= {f"{measure}_{key}": value for key, value in verdict.items()}
            lines.append(line)
    if not lines:
        return pd.DataFrame()
    return pd.DataFrame(lines).set_index(["detector", "method"])


def pairwise_cosines(vectors: Mapping[str, Array]) -> pd.DataFrame:
    """Mean cosine over rows of every two detectors' vectors ``(n, d)``."""
    names = list(vectors)
    matrix = [[float(cosines(vectors[a], vectors[b]).mean()) for b in names] for a in names]
    return pd.DataFrame(matrix, index=names, columns=names)


def centred_ranks(vectors: Array) -> Array:
    """Centred ranks, whose cosine is Spearman's correlation."""
    ranks: Array = rankdata(vectors, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    return ranks
