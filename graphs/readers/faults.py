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
    """Rows that repeat an earlier one that does not itself, the one they repeat, and in what."""
    rows = np.flatnonzero(keep)
    place = pd.DataFrame(positions[rows]).assign(image=images.codes[rows], kind=phenotype[rows])
    keys = {"the same place and phenotype": place}
    if cell_ids is not None:
        ids = pd.DataFrame({"image": images.codes[rows], "id": cell_ids[rows]})
        keys["the same image and cell id"] = ids
    crowded = np.zeros(len(rows), bool)
    for key in keys.values():
        crowded |= key.duplicated(keep=False).to_numpy()
    suspects = np.flatnonzero(crowded)
    groups = {
        why: key.iloc[suspects].groupby(list(key.columns), sort=False).ngroup().to_numpy()
        for why, key in keys.items()
    }
    # In order, against kept rows only: a row must not go for looking like one that went.
    kept: dict[tuple[str, int], int] = {}
    again, first, reasons = [], [], []
    for k, row in enumerate(rows[suspects]):
        mine = [(why, int(group[k])) for why, group in groups.items()]
        met = next((key for key in mine if key in kept), None)
        if met is None:
            kept.update(dict.fromkeys(mine, row))
        else:
            again.append(row)
            first.append(kept[met])
            reasons.append(met[0])
    return np.array(again, int), np.array(first, int), np.array(reasons, object)
