"""Non-negative anomaly maps in colour: a detector's own map, which is no relevance.

A map without a sign or a zero that means something has to be scaled, and the scale decides what
one sees: scaled picture by picture, a normal picture glows as much as a defect does. So the scope
is a choice that the figure names. Colours are those of Liznerski et al. (ICLR 2021): the smallest
value subtracted, a quantile as the upper end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xai.errors import InputError
from xai.plot.figure import NotebookFigure
from xai.plot.images import GREY, brightness
from xai.plot.words import plain, wrapped
from xai.relevance import Array

Scope = Literal["local", "semi-global", "global"]
"""What shares a scale: one picture, the pictures of a figure, or a whole data set."""

SEQUENTIAL = "magma"
MAX_MAPS = 16


def heat_scale(
    maps: Array,
    *,
    scope: Scope = "semi-global",
    quantile: float = 0.97,
    reference: Array | None = None,
) -> tuple[Array, Array]:
    """Lower and upper end of the colours of every map, ``(n,)`` each.

    Parameters
    ----------
    maps
        ``(n, h, w)``.
    scope
        ``"local"`` (each map for itself), ``"semi-global"`` (these maps) or ``"global"`` (those of
        ``reference``). Maps can be compared on the last two only.
    quantile
        Of the values above the smallest, where colours end. The authors take .85 for Fashion-MNIST
        and CIFAR, .99 for MVTec.
    reference
        The maps of the whole data set ``(m, h, w)``.

    Raises
    ------
    InputError
        An unknown scope, a reference that is missing or not asked for, a quantile outside (0, 1],
        maps that are not finite.

    Examples
    --------
    >>> maps = np.array([[[0.0, 1.0]], [[2.0, 4.0]]])
    >>> heat_scale(maps, scope="local", quantile=1.0)
    (array([0., 2.]), array([1., 4.]))
    >>> heat_scale(maps, quantile=1.0)
    (array([0., 0.]), array([4., 4.]))
    """
    if scope not in get_args(Scope):
        raise InputError(f"Expected scope 'local', 'semi-global' or 'global', got {scope!r}.")
    if (reference is None) == (scope == "global"):
        raise InputError(
            "Expected reference=, the maps of the whole data set, with scope='global'"
            + (", got none." if reference is None else f" only, got scope={scope!r}.")
        )
    if not 0 < quantile <= 1:
        raise InputError(f"Expected a quantile in (0, 1], got {quantile}.")
    maps = _checked(maps)
    if scope == "local":
        groups = list(maps)
    else:
        groups = [maps if reference is None else _checked(reference)] * len(maps)
    low = np.array([group.min() for group in groups])
    high = np.array([np.quantile(group, quantile) for group in groups])
    # a map that is the same nearly everywhere has no quantile above its smallest value
    top = np.array([group.max() for group in groups])
    high = np.where(high > low, high, np.where(top > low, top, low + 1))
    return low, high


def heat_colors(
    maps: Array,
    *,
    scope: Scope = "semi-global",
    quantile: float = 0.97,
    reference: Array | None = None,
) -> Array:
    """Maps ``(n, h, w)`` on 0 to 1: ends as in :func:`heat_scale`, what lies beyond is 0 or 1.

    Examples
    --------
    >>> heat_colors(np.array([[[1.0, 2.0, 3.0, 9.0]]]), quantile=1.0).tolist()
    [[[0.0, 0.125, 0.25, 1.0]]]
    """
    low, high = heat_scale(maps, scope=scope, quantile=quantile, reference=reference)
    scaled = (np.asarray(maps, dtype=np.float64) - low[:, None, None]) / (high - low)[:, None, None]
    colors: Array = np.clip(scaled, 0.0, 1.0)
    return colors


def anomaly_maps(
    images: Array,
    maps: Array,
    *,
    scope: Scope = "semi-global",
    quantile: float = 0.97,
    reference: Array | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Pictures above a detector's own maps of them (``detector.anomaly_map(images)``).

    Parameters
    ----------
    images
        ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)``, at most 16.
    maps
        ``(n, h, w)``, non-negative.
    scope, quantile, reference
        Of the colours, see :func:`heat_scale`.
    titles
        One per picture.

    Raises
    ------
    InputError
        Other shapes, or an impossible scale.
    """
    images, maps = np.asarray(images), np.asarray(maps)
    grey = brightness(images)
    if maps.shape != grey.shape or not 0 < len(maps) <= MAX_MAPS:
        raise InputError(
            f"Expected 1 to {MAX_MAPS} pictures and a map of each, got pictures {images.shape} and "
            f"maps {maps.shape}."
        )
    colors = heat_colors(maps, scope=scope, quantile=quantile, reference=reference)
    low, high = heat_scale(maps, scope=scope, quantile=quantile, reference=reference)
    n, (h, w) = len(maps), maps.shape[1:]
    side = 1.3 if n > 4 else 1.9
    figure = NotebookFigure(figsize=(n * side + 1.3, 2 * side * h / w + 0.9), layout="constrained")
    axes = figure.subplots(2, n, squeeze=False)
    for i in range(n):
        axes[0, i].imshow(grey[i], cmap=GREY, vmin=grey.min(), vmax=grey.max())
        axes[1, i].imshow(colors[i], cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
        if titles is not None:
            axes[0, i].set_title(titles[i], fontsize=8)
            plain(axes[0, i].title)
        for panel in axes[:, i]:
            panel.set_xticks([])
            panel.set_yticks([])
    shared = scope != "local"
    norm = Normalize(low[0], high[0]) if shared else Normalize(0, 1)
    bar = figure.colorbar(ScalarMappable(norm, SEQUENTIAL), ax=axes[1], extend="max", pad=0.02)
    bar.ax.tick_params(labelsize=7)
    ends = {
        "local": "each map from its own smallest value to its own",
        "semi-global": "from the smallest value of these maps to their",
        "global": "from the smallest value of the data set's maps to their",
    }
    caption = f"The detector's own map; colours ({scope}) {ends[scope]} {quantile:g} quantile"
    figure.supxlabel(wrapped(caption, int(14 * figure.get_figwidth())), fontsize=8)
    return figure


def _checked(maps: Array) -> Array:
    found = np.asarray(maps, dtype=np.float64)
    if found.ndim != 3 or found.size == 0 or not np.isfinite(found).all():
        raise InputError(f"Expected finite maps (n, h, w), got shape {found.shape}.")
    return found
