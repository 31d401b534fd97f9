"""Patches of cases, and case scores as weighted sums of their patches' scores.

A rule gives every patch a weight by the rank of its score within its case,

    ``o(case) = sum_p w_p o_p``,  ``sum_p w_p = 1``,

so ``w_p o_p`` is the patch's share, exactly: the ranks are a gate, held constant. With
``n`` patches in a case, the ``k = ceil(share n)`` highest weigh ``1 / k`` each (``"top"``), the
highest alone counts (``"max"``), all do (``"mean"``), or two order statistics, between which a
quantile lies, share as linear interpolation has it (``"quantile"``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuralize.errors import InputError
from neuralize.inputs import as_rows

Array = NDArray[Any]
Aggregation = Literal["top", "max", "quantile", "mean"]
AGGREGATIONS = ("top", "max", "quantile", "mean")


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches ``x`` ``(N, ...)`` of cases.

    Attributes
    ----------
    x
        ``(N, ...)``.
    case
        Number of every patch's case ``(N,)``, from 0 in order of appearance.
    names
        Name of every case ``(C,)``.
    """

    x: Tensor
    case: Array
    names: tuple[Any, ...]

    @classmethod
    def of(cls, X: Any, cases: Any = None) -> Patches:
        """Patches with the case of each, or a list with the patches of each case.

        Raises
        ------
        InputError
            Numbers that do not fit together, a case without patches, NaN.

        Examples
        --------
        >>> patches = Patches.of([[0.0], [1.0], [2.0]], ["a", "b", "a"])
        >>> patches.names, patches.case.tolist()
        (('a', 'b'), [0, 1, 0])
        >>> Patches.of([np.zeros((2, 4)), np.zeros((3, 4))]).case.tolist()
        [0, 0, 1, 1, 1]
        """
        if isinstance(X, Sequence) and len(X) and all(np.ndim(entry) > 1 for entry in X):
            return cls._of_list(X, cases)
        x = as_rows(X, what="patch")
        if cases is None:
            raise InputError(
                "Expected the case of every patch, or a list with the patches of each case: a case "
                "is scored as a whole."
            )
        ids = np.asarray(cases)
        if ids.shape != (len(x),):
            raise InputError(f"Expected a case for each of {len(x)} patches, got {ids.shape}.")
        _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(x, rank[inverse], tuple(ids[first[order]].tolist()))

    @classmethod
    def _of_list(cls, X: Sequence[Any], cases: Any) -> Patches:
        parts = [as_rows(entry, what="patch") for entry in X]
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise InputError(f"Expected patches of one shape in all cases, got {sorted(shapes)}.")
        names = list(range(len(parts))) if cases is None else list(cases)
        if len(names) != len(parts) or len(set(names)) != len(names):
            raise InputError(
                f"Expected a name of its own for each of {len(parts)} cases, got {len(names)} "
                f"({len(set(names))} different)."
            )
        case = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return cls(torch.cat(parts), case, tuple(names))

    def __len__(self) -> int:
        return len(self.x)

    def sums(self, parts: Array) -> Array:
        """Of ``parts`` ``(N,)`` over the patches of every case ``(C,)``."""
        return np.bincount(self.case, parts, len(self.names))


def case_weights(
    scores: Array, case: Array, rule: Aggregation, *, share: float = 0.1, quantile: float = 0.9
) -> Array:
    """Weights ``w`` ``(N,)`` of patches with ``scores`` ``(N,)``; they sum to one in every case.

    Patches of the same score count in the order they come in.

    Examples
    --------
    >>> scores, case = np.array([1.0, 4.0, 2.0, 3.0]), np.zeros(4, dtype=int)
    >>> case_weights(scores, case, "top", share=0.5).tolist()
    [0.0, 0.5, 0.0, 0.5]
    >>> w = case_weights(scores, case, "quantile", quantile=0.9)
    >>> w.round(6).tolist(), bool(np.isclose(w @ scores, np.quantile(scores, 0.9)))
    ([0.0, 0.7, 0.0, 0.3], True)
    """
    check_rule(rule, share, quantile)
    weights = np.zeros(len(scores))
    # by case, and within it from the highest score down
    order = np.lexsort((np.arange(len(scores)), -scores, case))
    for members in np.split(order, np.flatnonzero(np.diff(case[order])) + 1):
        n = len(members)
        if rule == "quantile":
            place = quantile * (n - 1)  # counted from the lowest, as numpy does
            lower = math.floor(place)
            weights[members[n - 1 - lower]] = 1 - (place - lower)
            if place > lower:
                weights[members[n - 2 - lower]] = place - lower
            continue
        # 0.1 * 30 is a little more than 3
        k = {"max": 1, "mean": n}.get(rule, max(1, math.ceil(share * n - 1e-9)))
        weights[members[:k]] = 1 / k
    return weights


def check_rule(rule: str, share: float, quantile: float) -> None:
    """Raise :class:`InputError` for a rule that is none."""
    if rule not in AGGREGATIONS:
        known = ", ".join(map(repr, AGGREGATIONS))
        raise InputError(f"Expected aggregation {known}, got {rule!r}.")
    if not 0 < share <= 1 or not 0 <= quantile <= 1:
        raise InputError(
            f"Expected a share above 0 and at most 1, and a quantile from 0 to 1, got share={share}"
            f", quantile={quantile}."
        )
