"""Signed colours: one symmetric scale, zero is white, and nothing is normalised unasked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_rgb

from xai.errors import InputError
from xai.relevance import Array

POSITIVE, NEGATIVE, NEUTRAL = "#b2182b", "#2166ac", "#6b6b6b"
"""Relevance for, against, and totals: the hues stay apart in red-green colour blindness."""

# 257 entries: the one in the middle is exactly white.
SIGNED: Colormap = LinearSegmentedColormap.from_list(
    "signed",
    ["#053061", NEGATIVE, "#92c5de", "#ffffff", "#f4a582", POSITIVE, "#67001f"],
    N=257,
)
"""Colours of signed relevance; 0 is white."""


def _clear_at_zero() -> Colormap:
    strength = np.linspace(-1, 1, 257)[:, None]
    hue = np.where(strength < 0, to_rgb("#0037ff"), to_rgb("#e60000"))
    # The square root keeps small relevance visible above any grey; the colour bar shows the same.
    return ListedColormap(np.hstack([hue, np.sqrt(np.abs(strength))]), "signed_clear")


SIGNED_CLEAR: Colormap = _clear_at_zero()
"""The same for an overlay: the hue is the sign, opacity ``sqrt(|R| / limit)``; 0 is clear."""


def signed_colors(values: Array) -> Sequence[str]:
    """Colour of each bar by the sign of its value."""
    return [POSITIVE if value >= 0 else NEGATIVE for value in values]


def symmetric_limit(
    values: Array, *, limit: float | None = None, quantile: float | None = None
) -> float:
    """The end of a symmetric scale ``[-limit, limit]``: the largest ``|R|`` unless told otherwise.

    Parameters
    ----------
    values
        Relevance of everything that shares the scale, any shape.
    limit
        The end itself, in the unit of ``values``: give several figures the same to compare them.
    quantile
        Quantile of ``|R|`` in (0, 1] to use as the end; what lies beyond takes the last colour.

    Raises
    ------
    InputError
        NaN or infinite values, a limit that is no positive number, a quantile outside (0, 1] or
        one that is zero, or both options at once.

    Examples
    --------
    >>> symmetric_limit(np.array([-3.0, 0.5, 1.0]))
    3.0
    >>> symmetric_limit(np.array([-3.0, 0.5, 1.0]), quantile=0.5)
    1.0
    """
    magnitude = np.abs(np.asarray(values, dtype=np.float64))
    if not np.isfinite(magnitude).all():
        raise InputError("Expected finite relevance to draw, got NaN or infinite values.")
    if limit is not None and quantile is not None:
        raise InputError("Expected limit or quantile, got both; leave one out.")
    if limit is not None:
        if not (math.isfinite(limit) and limit > 0):
            raise InputError(f"Expected a positive, finite limit, got {limit}.")
        return float(limit)
    if quantile is None:
        # All-zero relevance has no scale of its own, and any one shows it as white.
        return float(magnitude.max(initial=0.0)) or 1.0
    if not 0 < quantile <= 1:
        raise InputError(f"Expected a quantile in (0, 1], got {quantile}.")
    end = float(np.quantile(magnitude, quantile))
    if end == 0:
        raise InputError(
            f"The {quantile} quantile of |R| is 0: that many values are exactly zero. Use a higher "
            "quantile, or limit=."
        )
    return end
