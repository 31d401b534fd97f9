"""How features leave: a rule learned from reference rows, and rows on their way to nothing left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Trajectory(ABC):
    """Some rows on their way from complete to nothing left; features only ever leave."""

    def __init__(self, x: Array) -> None:
        self.x = x
        self.removed = np.zeros((len(x), x.shape[1] + 1), dtype=bool)  # the last takes the padding

    def remove(self, features: Array) -> Array:
        """Remove ``features`` ``(n, k)`` of the flat rows, padded with ``d``; the new rows."""
        np.put_along_axis(self.removed, features, True, axis=1)
        return self.fill(features)

    @abstractmethod
    def fill(self, features: Array) -> Array:
        """The rows ``(n, d)`` with everything in ``removed`` replaced, ``features`` being new."""

    def replaced(self, values: Array) -> Array:
        """The rows with ``values`` ``(n, d)`` or ``(d,)`` where features were removed."""
        return np.where(self.removed[:, :-1], values, self.x)


class Replacement(ABC):
    """A rule for removed features, learned from reference rows.

    Attributes
    ----------
    draws
        Whether the rule is random, so that repeating it with other seeds says something.
    """

    draws = False

    def __init__(self, reference: Array) -> None:
        self.reference = reference

    @abstractmethod
    def begin(self, x: Array, seeds: Sequence[Sequence[int]]) -> Trajectory:
        """Start removing from rows ``(n, d)``; each has its own seed, so batches do not matter."""
