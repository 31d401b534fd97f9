"""Strategies of detectors: AUROC against cosine, the matrix of agreement, maps side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from xai.errors import InputError
from xai.plot.figure import NotebookFigure
from xai.plot.images import brightness, relevance_map
from xai.plot.scales import NEUTRAL, SIGNED, symmetric_limit
from xai.plot.words import number, one_line, plain
from xai.relevance import Array

if TYPE_CHECKING:
    from xai.evaluate.strategy_table import Kind, Strategies

MARKERS = "osD^vP*X<>hp"
PICTURES = 4


def draw(found: Strategies, kind: Kind | None, rows: Sequence[int] | None) -> Figure:
    """See :meth:`xai.evaluate.Strategies.plot`."""
    from xai.evaluate.strategy_table import Kind

    if kind is not None and kind not in get_args(Kind):
        raise InputError(f"Expected kind 'gap', 'agreement', 'maps' or None, got {kind!r}.")
    count = len(found.table)
    pictures = found.relevances[found.table.index[0]].is_image
    if kind == "maps" and not pictures:
        raise InputError("Expected pictures for kind 'maps', got rows of a table.")
    places = _places(found, rows)
    sizes = {
        "gap": (4.6, 3.6 + 0.2 * max(0, count - 8)),
        "agreement": (2.4 + 0.5 * count, 1.6 + 0.5 * count),
        "maps": (1.1 + 1.25 * (count + 2), 0.9 + 1.3 * len(places)),
    }
    shown = [kind] if kind else ["gap", "maps" if pictures else "agreement"]
    width = sum(sizes[name][0] for name in shown)
    height = max(sizes[name][1] for name in shown)
    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    ratios = [sizes[name][0] for name in shown]
    parts = figure.subfigures(1, len(shown), width_ratios=ratios, squeeze=False)[0]
    for name, part in zip(shown, parts, strict=True):
        if name == "gap":
            _gap(found, part)
        elif name == "agreement":
            _matrix(found, part)
        else:
            _maps(found, part, places)
    return figure


def _places(found: Strategies, rows: Sequence[int] | None) -> Array:
    """Positions among the explained anomalies."""
    if rows is None:
        spread = np.linspace(0, len(found.rows) - 1, min(PICTURES, len(found.rows)))
        return np.unique(np.rint(spread).astype(int))
    missing = sorted(set(map(int, rows)) - set(found.rows.tolist()))
    if missing or not len(rows):
        raise InputError(
            f"Expected rows among the {len(found.rows)} explained anomalies, got "
            f"{missing or 'none'}."
        )
    places: Array = np.searchsorted(found.rows, rows)
    return places


def _gap(found: Strategies, part: SubFigure) -> None:
    from xai.evaluate.strategy_table import DETECTS, ELSEWHERE

    ax = part.subplots()
    left = min(-0.05, float(found.table["cosine"].min()) - 0.05)
    low = min(0.45, float(found.table["auroc_low"].min()) - 0.03)
    ax.add_patch(
        Rectangle(
            (left, DETECTS), ELSEWHERE - left, 1.02 - DETECTS, color="#f4a582", alpha=0.35, lw=0
        )
    )
    ax.text(left + 0.02, DETECTS + 0.01, "Clever Hans", fontsize=8, color=NEUTRAL, va="bottom")
    for i, (name, line) in enumerate(found.table.iterrows()):
        reach = [[line["auroc"] - line["auroc_low"]], [line["auroc_high"] - line["auroc"]]]
        ax.errorbar(
            line["cosine"],
            line["auroc"],
            yerr=np.maximum(reach, 0),
            xerr=np.nan_to_num(line["cosine_error"]),
            fmt=MARKERS[i % len(MARKERS)],
            ms=6,
            lw=1,
            label=one_line(str(name), 24),
        )
    ax.set_xlim(left, 1.02)
    ax.set_ylim(low, 1.02)
    ax.set_xlabel("cosine of relevance and truth (bars: standard error)", fontsize=9)
    ax.set_ylabel(f"AUROC (bars: {100 * found.level:g} % interval)", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    legend = part.legend(loc="outside lower center", fontsize=8, ncols=3, frameon=False)
    plain(*legend.get_texts())


def _matrix(found: Strategies, part: SubFigure) -> None:
    ax = part.subplots()
    values = found.agreement.to_numpy()
    ax.imshow(values, cmap=SIGNED, norm=Normalize(-1, 1))
    names = [one_line(str(name), 20) for name in found.agreement.index]
    ax.set_xticks(range(len(names)), names, fontsize=8, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    for (i, j), value in np.ndenumerate(values):
        color = "white" if abs(value) > 0.6 else "black"
        ax.text(j, i, number(round(float(value), 2), 2), ha="center", va="center",
                fontsize=8, color=color)  # fmt: skip
    ax.set_title("mean cosine of relevance", fontsize=9)
    plain(*ax.get_xticklabels(), *ax.get_yticklabels())


def _maps(found: Strategies, part: SubFigure, places: Array) -> None:
    """Input, truth and every detector's map, each map divided by its norm, on one scale."""
    names = list(found.relevances)
    maps = np.stack([relevance_map(found.relevances[n].values[places]) for n in names], 1)
    norms = np.linalg.norm(maps.reshape(*maps.shape[:2], -1), axis=2)[..., None, None]
    maps = np.divide(maps, norms, out=np.zeros_like(maps), where=norms > 0)
    end = symmetric_limit(maps, quantile=None)
    grey = brightness(found.relevances[names[0]].inputs[places])
    truth = found.truth[places].astype(np.float64)
    if truth.ndim == 4:
        truth = relevance_map(truth)
    axes = part.subplots(len(places), len(names) + 2, squeeze=False)
    for i, row in enumerate(axes):
        row[0].imshow(grey[i], cmap="gray", vmin=grey.min(), vmax=grey.max())
        row[1].imshow(truth[i], cmap="Reds", vmin=0, vmax=truth[i].max() or 1)
        row[0].set_ylabel(f"row {found.rows[places[i]]}", fontsize=8)
        for j, ax in enumerate(row[2:]):
            ax.imshow(maps[i, j], cmap=SIGNED, norm=Normalize(-end, end), interpolation="nearest")
        for ax in row:
            ax.set_xticks([])
            ax.set_yticks([])
    for ax, name in zip(axes[0], ["input", "truth", *names], strict=True):
        plain(ax.set_title(one_line(str(name), 16), fontsize=8))
    bar = part.colorbar(
        ScalarMappable(Normalize(-end, end), SIGNED), ax=axes, pad=0.02, aspect=8 * len(places)
    )
    bar.set_label("relevance / its Euclidean norm", fontsize=8)
    bar.ax.tick_params(labelsize=8)
