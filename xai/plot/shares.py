"""Who gets the evidence: the largest features, the others together, and what was absorbed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xai.errors import InputError
from xai.plot.words import one_line
from xai.relevance import Array, Relevance

VISIBLE_ERROR = 1e-5
"""Relative conservation error from which on it gets a bar of its own; below, it is rounding."""

NAME_WIDTH = 36


@dataclass(frozen=True)
class Share:
    """One bar: a name, its part of every row's evidence ``(n,)``, and the feature's values.

    Attributes
    ----------
    name
        The feature, ``"other features (k)"``, ``"absorbed: ..."`` or ``"conservation error"``.
    values
        Its part of the evidence ``(n,)``.
    inputs
        Values of the feature ``(n,)``; None for everything that is not a single feature.
    """

    name: str
    values: Array
    inputs: Array | None = None


def shares(relevance: Relevance, max_features: int) -> list[Share]:
    """Shares that add up to the evidence of every row, largest mean ``|R|`` first.

    Features beyond ``max_features`` are added up in one share; absorbed shares always follow by
    name, and a conservation error that is more than rounding is a share as well.

    Raises
    ------
    InputError
        ``max_features`` below 1, or relevance that is not finite.
    """
    if max_features < 1:
        raise InputError(f"Expected max_features >= 1, got {max_features}.")
    values = relevance.values.reshape(len(relevance), -1).astype(np.float64)
    inputs = relevance.inputs.reshape(len(relevance), -1)
    if not (np.isfinite(values).all() and np.isfinite(relevance.evidence).all()):
        raise InputError("Expected finite relevance to draw, got NaN or infinite values.")
    names = relevance.flat_names
    order = np.argsort(-np.abs(values).mean(0), kind="stable")
    kept, rest = order[:max_features], order[max_features:]
    parts = [Share(one_line(names[j], NAME_WIDTH), values[:, j], inputs[:, j]) for j in kept]
    if len(rest):
        parts.append(Share(f"other features ({len(rest)})", values[:, rest].sum(1)))
    for name, share in relevance.absorbed.items():
        label = one_line(f"absorbed: {name}", NAME_WIDTH)
        parts.append(Share(label, np.asarray(share, dtype=np.float64)))
    if (relevance.relative_conservation_error > VISIBLE_ERROR).any():
        total = np.sum([part.values for part in parts], axis=0)
        error = np.asarray(relevance.evidence, dtype=np.float64) - total
        parts.append(Share("conservation error", error))
    return parts
