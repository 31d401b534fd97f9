"""What explains a case's score: its patches, their dimensions, their pixels, each adding up.

case = sum of its patches' shares + named absorption,
share of a patch = sum over dimensions + absorption = sum over pixels + absorption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuralize.errors import InputError

Array = NDArray[Any]
Level = Literal["cases", "patches", "dimensions"]


@dataclass(frozen=True, eq=False)
class CaseRelevance:
    """Relevance of ``C`` cases with ``N`` patches, ``P`` of which have a weight in their case.

    Attributes
    ----------
    names
        Of the cases ``(C,)``.
    scores
        What was explained of each ``(C,)``: score, or score minus threshold for a margin.
    threshold
        Outlier iff the case's score is larger.
    case_absorbed
        What the case level absorbed, by name, ``(C,)`` each: the threshold of a margin.
    case
        Number of every patch's case ``(N,)``.
    evidence, weights
        Every patch's own score, and its weight in its case ``(N,)``.
    explained
        Numbers of the patches that have a weight ``(P,)``; the rest has no part in any score.
    dimensions
        Relevance of their embedding's dimensions ``(P, d)``, for the case's score.
    values
        Relevance of what the detector was given ``(P, ...)``: pixels where there is an encoder,
        otherwise the dimensions.
    absorbed
        What constants took on the way to ``values``, by name, ``(P,)`` each; an encoder's begin
        with ``"encoder "``, and have no part in the account of ``dimensions``.
    positions
        Row and column of every patch ``(N, 2)``, where they were given.
    feature_names
        Of the dimensions.
    """

    names: tuple[Any, ...]
    scores: Array
    threshold: float | None
    case_absorbed: Mapping[str, Array]
    case: Array
    evidence: Array
    weights: Array
    explained: Array
    dimensions: Array
    values: Array
    absorbed: Mapping[str, Array]
    positions: Array | None = None
    feature_names: tuple[str, ...] | None = None

    @property
    def shares(self) -> Array:
        """Relevance of every patch ``(N,)``, ``w_p o_p``."""
        found: Array = self.weights * self.evidence
        return found

    @property
    def cases(self) -> pd.DataFrame:
        """One row per case: score, patches, absorbed shares, error."""
        count = len(self.names)
        patches = np.bincount(self.case, self.shares, count)
        frame = pd.DataFrame(
            {
                "score": self.scores,
                "patches": np.bincount(self.case, minlength=count),
                "explained patches": np.bincount(self.case[self.explained], minlength=count),
                "relevance of patches": patches,
                **{f"absorbed: {name}": part for name, part in self.case_absorbed.items()},
            },
            index=pd.Index(self.names, name="case"),
        )
        frame["conservation error"] = self.scores - patches - sum(self.case_absorbed.values())
        return frame

    @property
    def patches(self) -> pd.DataFrame:
        """One row per patch: case, place, score, weight, relevance, absorbed shares, errors."""
        frame = pd.DataFrame(
            {
                "case": [self.names[c] for c in self.case],
                "evidence": self.evidence,
                "weight": self.weights,
                "relevance": self.shares,
            }
        )
        if self.positions is not None:
            frame.insert(1, "row", self.positions[:, 0])
            frame.insert(2, "column", self.positions[:, 1])
        for name, part in self.absorbed.items():
            frame[f"absorbed: {name}"] = self._on_all(part)
        errors = self._errors()
        frame["error over dimensions"] = self._on_all(errors[0])
        frame["error over values"] = self._on_all(errors[1])
        return frame

    @property
    def relative_conservation_error(self) -> float:
        """The largest error on any level, relative to the sizes that were added up."""
        size = np.abs(self.dimensions).sum(1) + np.abs(
            self.values.reshape(len(self.values), -1)
        ).sum(1)
        size += sum(np.abs(part) for part in self.absorbed.values())
        tiny = np.finfo(float).tiny
        worst = [np.abs(errors) / np.maximum(size, tiny) for errors in self._errors()]
        cases = self.cases
        whole = np.bincount(self.case, np.abs(self.shares), len(self.names))
        worst.append(np.abs(cases["conservation error"].to_numpy()) / np.maximum(whole, tiny))
        return float(max(errors.max(initial=0) for errors in worst))

    @property
    def case_dimensions(self) -> Array:
        """Relevance of the dimensions, added up over the patches of each case ``(C, d)``."""
        total = np.zeros((len(self.names), self.dimensions.shape[1]))
        np.add.at(total, self.case[self.explained], self.dimensions)
        return total

    @property
    def dimension_shares(self) -> Array:
        """Share of all absolute relevance that lies in each dimension ``(d,)``."""
        size = np.abs(self.dimensions).sum(0)
        found: Array = size / max(size.sum(), np.finfo(float).tiny)
        return found

    def of_case(self, name: Any) -> Array:
        """Rows of ``values`` and ``dimensions`` that belong to a case."""
        return np.flatnonzero(self.case[self.explained] == self._number(name))

    def grid(self, name: Any, what: Literal["relevance", "evidence"] = "relevance") -> Array:
        """A case's patches where they lie, ``(rows, columns)``; NaN where there is none.

        Raises
        ------
        InputError
            No positions, or an unknown case.
        """
        if self.positions is None:
            raise InputError(
                "Expected the place of every patch: call explain(..., positions=) with rows and "
                "columns (N, 2)."
            )
        own = self.case == self._number(name)
        at = self.positions[own] - self.positions[own].min(0)
        found = np.full(at.max(0) + 1, np.nan)
        found[at[:, 0], at[:, 1]] = (self.shares if what == "relevance" else self.evidence)[own]
        return found

    def to_frame(self, level: Level = "cases") -> pd.DataFrame:
        """A table of one level: ``"cases"``, ``"patches"``, or ``"dimensions"`` of the explained.

        Raises
        ------
        InputError
            Another level.
        """
        if level == "cases":
            return self.cases
        if level == "patches":
            return self.patches
        if level != "dimensions":
            raise InputError(
                f"Expected level 'cases', 'patches' or 'dimensions', got {level!r}; pixels are in "
                "`values`."
            )
        names: Sequence[str] = self.feature_names or [
            f"dimension {i}" for i in range(self.dimensions.shape[1])
        ]
        frame = pd.DataFrame(self.dimensions, columns=list(names), index=self.explained)
        frame.insert(0, "case", [self.names[c] for c in self.case[self.explained]])
        frame.index.name = "patch"
        return frame

    # -- inside ----------------------------------------------------------------------------------

    def _number(self, name: Any) -> int:
        if name not in self.names:
            raise InputError(f"Expected one of {len(self.names)} cases, got {name!r}.")
        return self.names.index(name)

    def _on_all(self, parts: Array) -> Array:
        found = np.zeros(len(self.case))
        found[self.explained] = parts
        return found

    def _errors(self) -> tuple[Array, Array]:
        """Of the explained patches ``(P,)``: over dimensions and over values."""
        shares = self.shares[self.explained]
        zero = np.zeros(len(shares))
        head = sum((p for n, p in self.absorbed.items() if not n.startswith("encoder ")), zero)
        encoder = sum((p for n, p in self.absorbed.items() if n.startswith("encoder ")), zero)
        over_values = self.values.reshape(len(shares), -1).sum(1)
        return shares - self.dimensions.sum(1) - head, shares - over_values - head - encoder
