"""Rows that lack something, and rows that say what others said."""

from __future__ import annotations

import numpy as np
import pandas as pd

from graphs.cell_graph import Array


def incomplete(
    positions: Array,
    features: Array | None,
    feature_names: tuple[str, ...],
    images: pd.Categorical,
    patients: pd.Categorical,
) -> tuple[Array, Array]:
    """Rows that lack something, and what."""
    reasons = [(~np.isfinite(positions).all(1), "coordinates that are not finite"),
               (images.codes < 0, "no image"), (patients.codes < 0, "no patient")]  # fmt: skip
    if features is not None:
        for k, name in enumerate(feature_names):
            reasons.append((~np.isfinite(features[:, k]), f"{name!r} is not finite"))
    why = np.full(len(positions), "", object)
    for lacking, reason in reversed(reasons):
        why[lacking] = reason
    broken = np.flatnonzero(why != "")
    return broken, why[broken]


def repeated(
    keep: Array,
    positions: Array,
    phenotype: Array,
    images: pd.Categorical,
    cell_ids: Array | None,
) -> tuple[Array, Array, Array]:
    """Rows that repeat another, the first they repeat, and in what."""
    rows = np.flatnonzero(keep)
    place = pd.DataFrame(positions[rows]).assign(image=images.codes[rows], kind=phenotype[rows])
    keys = {"the same place and phenotype": place}
    if cell_ids is not None:
        ids = pd.DataFrame({"image": images.codes[rows], "id": cell_ids[rows]})
        keys["the same image and cell id"] = ids
    first = np.full(len(keep), -1)
    why = np.full(len(keep), "", object)
    for reason, key in keys.items():
        again = np.flatnonzero(key.duplicated().to_numpy())
        if len(again):
            groups = key.groupby(list(key.columns), sort=False).ngroup().to_numpy()
            _, begins = np.unique(groups, return_index=True)
            first[rows[again]] = rows[begins[groups[again]]]
            why[rows[again]] = reason
    repeated = np.flatnonzero(first >= 0)
    return repeated, first[repeated], why[repeated]
