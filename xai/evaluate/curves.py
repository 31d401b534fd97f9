"""Curves of a flipping experiment: their scale, their area, and pictures of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xai.errors import InputError
from xai.plot.figure import NotebookFigure

Array = NDArray[Any]
Normalization = Literal["pooled", "rows", "none"]

DEGENERATE = 0.05
"""A row whose evidence changes by less than this share of the mean change has no own curve."""


@dataclass(frozen=True, eq=False)
class FlippingResult:
    """Evidence of every row while its features are removed.

    Attributes
    ----------
    evidence
        ``f_t`` ``(n_rows, n_steps + 1)`` in the evidence's unit, mean over repeats; column 0 is the
        untouched row, the last one has nothing left.
    removed
        Share of units removed ``(n_steps + 1,)``, from 0 to 1.
    order
        ``"most_relevant_first"`` or ``"least_relevant_first"``.
    evidence_name
        What the evidence is.
    method
        Name of the explanation.
    """

    evidence: Array
    removed: Array
    order: str
    evidence_name: str
    method: str

    def curve(self, normalize: Normalization = "pooled") -> Array:
        r"""The curve of every row ``(n_rows, n_steps + 1)``.

        Parameters
        ----------
        normalize
            ``"pooled"``: :math:`(f_t - f_T) / \operatorname{mean}(f_0 - f_T)`, one scale for all
            rows, so that the mean curve falls from 1 to 0 and no row outweighs the others.
            ``"rows"``: :math:`(f_t - f_T) / (f_0 - f_T)`, each row by itself; NaN for rows with
            ``|f_0 - f_T|`` below 5% of its mean, where the quotient says nothing.
            ``"none"``: :math:`f_t`.

        Raises
        ------
        InputError
            Pooled, but the evidence does not fall on average.
        """
        if normalize == "none":
            return self.evidence
        rest = self.evidence - self.evidence[:, -1:]
        drop = rest[:, 0]
        if normalize == "rows":
            weak = np.abs(drop) <= DEGENERATE * np.abs(drop).mean()
            alone: Array = rest / np.where(weak, np.nan, drop)[:, None]
            return alone
        if normalize != "pooled":
            raise InputError(f"Expected normalize 'pooled', 'rows' or 'none', got {normalize!r}.")
        if not drop.mean() > 0:
            raise InputError(
                "Expected evidence that falls when everything is removed, got a mean change of "
                f"{-drop.mean():+.4g}: these rows have less evidence than the replacement. Pass "
                "rows the model has evidence for (assigned ones, outliers), or use "
                "normalize='none'."
            )
        pooled: Array = rest / drop.mean()
        return pooled

    def auc(self, normalize: Normalization = "pooled") -> Array:
        """Area under the curve of every row ``(n_rows,)``, over the share removed (trapezoids)."""
        area: Array = np.trapezoid(self.curve(normalize), self.removed, axis=1)
        return area

    def summary(self, normalize: Normalization = "pooled") -> pd.Series[float]:
        """Mean area, its standard error over rows, and the number of rows that count."""
        area = self.auc(normalize)
        area = area[~np.isnan(area)]
        error = area.std(ddof=1) / math.sqrt(len(area)) if len(area) > 1 else math.nan
        mean = area.mean() if len(area) else math.nan
        return pd.Series({"auc": mean, "standard_error": error, "n_rows": float(len(area))})

    def to_frame(self, normalize: Normalization = "pooled") -> pd.DataFrame:
        """One line per row and step: ``row``, ``step``, ``removed``, ``evidence``, ``curve``."""
        n, steps = self.evidence.shape
        return pd.DataFrame(
            {
                "row": np.repeat(np.arange(n), steps),
                "step": np.tile(np.arange(steps), n),
                "removed": np.tile(self.removed, n),
                "evidence": self.evidence.ravel(),
                "curve": self.curve(normalize).ravel(),
            }
        )

    def plot(self, normalize: Normalization = "pooled", *, ax: Axes | None = None) -> Figure:
        """Mean curve with its standard error over rows as a band."""
        return plot_curves({self.method: self}, normalize, ax=ax)


def plot_curves(
    results: Mapping[str, FlippingResult],
    normalize: Normalization = "pooled",
    *,
    ax: Axes | None = None,
) -> Figure:
    """Mean curves of several explanations in one figure, bands for the standard error over rows.

    Examples
    --------
    >>> removed, f = np.array([0.0, 0.5, 1.0]), np.array([[2.0, 1.0, 0.0], [4.0, 1.0, 0.0]])
    >>> result = FlippingResult(f, removed, "most_relevant_first", "score", "LRP")
    >>> plot_curves({"LRP": result}).axes[0].get_xlabel()
    'share of features removed'
    """
    if not results:
        raise InputError("Expected at least one curve to plot, got none.")
    if ax is None:
        ax = NotebookFigure(figsize=(5.0, 3.5), layout="constrained").subplots()
    for name, result in results.items():
        curve = result.curve(normalize)
        curve = curve[~np.isnan(curve).any(1)]
        mean = curve.mean(0)
        (line,) = ax.plot(result.removed, mean, label=name)
        if len(curve) > 1:
            error = curve.std(0, ddof=1) / math.sqrt(len(curve))
            ax.fill_between(
                result.removed, mean - error, mean + error, color=line.get_color(), alpha=0.2, lw=0
            )
    first = next(iter(results.values()))
    ax.set_xlabel("share of features removed")
    ax.set_ylabel(first.evidence_name if normalize == "none" else "remaining evidence")
    ax.set_title(first.order.replace("_", " "))
    ax.legend()
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
