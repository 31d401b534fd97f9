"""What stands where a feature was removed: nothing can be left out of a model, only be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuralize.errors import InputError
from xai.evaluate.conditional import ConditionalReplacement
from xai.evaluate.inpainting import harmonic_inpainting
from xai.evaluate.trajectory import Replacement, Trajectory
from xai.evaluate.units import pixels

Array = NDArray[Any]

REPLACEMENTS = ("conditional", "conditional_sample", "inpaint", "mean")


class MeanReplacement(Replacement):
    """The mean of the reference.

    Examples
    --------
    >>> rule = MeanReplacement(np.array([[0.0, 2.0], [2.0, 4.0]]))
    >>> rule.begin(np.array([[7.0, 7.0]]), [[0]]).remove(np.array([[1]])).tolist()
    [[7.0, 3.0]]
    """

    def begin(self, x: Array, seeds: Sequence[Sequence[int]]) -> Trajectory:
        return _ToMean(x, self.reference.mean(0))


class _ToMean(Trajectory):
    def __init__(self, x: Array, mean: Array) -> None:
        super().__init__(x)
        self.mean = mean

    def fill(self, features: Array) -> Array:
        return self.replaced(self.mean)


class InpaintReplacement(Replacement):
    """Harmonic inpainting of pictures; with no pixel kept, the mean picture of the reference.

    Parameters
    ----------
    reference
        ``(m, d)``.
    shape
        Of a picture: ``(h, w)``, ``(h, w, 3)`` or ``(c, h, w)``.

    Examples
    --------
    >>> rule = InpaintReplacement(np.zeros((1, 3)), (1, 3))
    >>> rule.begin(np.array([[1.0, 9.0, 3.0]]), [[0]]).remove(np.array([[1]])).round(6).tolist()
    [[1.0, 2.0, 3.0]]
    """

    def __init__(self, reference: Array, shape: Sequence[int]) -> None:
        super().__init__(reference)
        self.pixels = pixels(shape)

    def begin(self, x: Array, seeds: Sequence[Sequence[int]]) -> Trajectory:
        return _Inpainted(x, self)


class _Inpainted(Trajectory):
    def __init__(self, x: Array, rule: InpaintReplacement) -> None:
        super().__init__(x)
        self.pixels, self.mean = rule.pixels, rule.reference.mean(0)
        self.last = x

    def fill(self, features: Array) -> Array:
        gone = self.removed[:, self.pixels[..., 0]]  # channels leave together
        some = ~self.removed[:, :-1].all(1)
        filled = np.broadcast_to(self.mean, self.x.shape).copy()
        if some.any():
            pictures, start = self.x[some][:, self.pixels], self.last[some][:, self.pixels]
            solved = harmonic_inpainting(pictures, gone[some], start)
            part = np.empty((int(some.sum()), filled.shape[1]))
            part[:, self.pixels] = solved
            filled[some] = part
        self.last = filled
        return filled


def replacement_rule(
    replace: str | Replacement, reference: ArrayLike | None, shape: Sequence[int]
) -> Replacement:
    """The rule called ``replace``, learned from ``reference`` rows of ``shape``.

    Conditional rules measure tables in standard deviations of the reference, because columns have
    units of their own, and pictures as they are, because pixels share one.

    Raises
    ------
    InputError
        An unknown name, no reference, or one that does not fit.

    Examples
    --------
    >>> type(replacement_rule("mean", [[0.0], [1.0]], (1,))).__name__
    'MeanReplacement'
    """
    if isinstance(replace, Replacement):
        return replace
    if replace not in REPLACEMENTS:
        raise InputError(
            f"Expected replace to be one of {', '.join(map(repr, REPLACEMENTS))}, got {replace!r}."
        )
    if reference is None:
        raise InputError(
            f"Expected reference rows to replace removed features by ({replace!r}), got None. Pass "
            "reference=<the rows the model was fitted on, or a sample of them>."
        )
    rows = np.array(reference, dtype=np.float64)
    d = int(np.prod(shape))
    if rows.ndim < 2 or len(rows) == 0 or rows[0].size != d:
        raise InputError(
            f"Expected reference rows of shape {tuple(shape)} like the data, got an array of shape "
            f"{rows.shape}."
        )
    if not np.isfinite(rows).all():
        raise InputError("Expected finite reference rows, got NaN or infinity.")
    rows = rows.reshape(len(rows), d)
    if replace == "mean":
        return MeanReplacement(rows)
    if replace == "inpaint":
        return InpaintReplacement(rows, shape)
    spread = rows.std(0)
    # A column that never varies in the reference cannot tell its rows apart, in any unit.
    scale = np.where(spread > 0, spread, 1.0) if len(shape) == 1 else None
    return ConditionalReplacement(rows, scale=scale, sample=replace == "conditional_sample")
