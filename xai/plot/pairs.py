"""Pairs: two inputs side by side, and lines between the regions that matter together."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xai.errors import InputError
from xai.plot.figure import figure_and_axes, png
from xai.plot.images import GREY, brightness
from xai.plot.scales import SIGNED, symmetric_limit
from xai.plot.words import number, one_line, plain, wrapped
from xai.relevance import Array

if TYPE_CHECKING:
    from xai.similarity import Pair, Region, Side, SimilarityRelevance

Labels = tuple[Sequence[str], Sequence[str]]

NAMED = 60
"""Tokens or features whose names fit beside a matrix."""

CARD = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """\
{% set cell_style = "text-align: right; padding: 0 .5em" %}
<div style="max-width: 60em; line-height: 1.4">
<strong>{{ model }}</strong> &middot; BiLRP, {{ composite }}<br>
{{ what }}<br>
<table style="margin: .5em 0; font-variant-numeric: tabular-nums">
<thead>
<tr><th style="{{ cell_style }}">a \\ b</th>
{% for name in columns %}<th style="{{ cell_style }}">{{ name }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for name, cells in rows %}
<tr><th style="{{ cell_style }}">{{ name }}</th>
{% for cell in cells %}<td style="{{ cell_style }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{{ conservation }}
{% if picture %}
<br><img alt="pairs of regions" src="data:image/png;base64,{{ picture }}" style="max-width: 100%">
{% else %}
<br><small>{{ reason }}</small>
{% endif %}
</div>
"""
)


def pairs(
    relevance: SimilarityRelevance,
    n: int = 40,
    size: int = 8,
    *,
    ax: Axes | None = None,
    limit: float | None = None,
    labels: Labels | None = None,
) -> Figure:
    """Draw relevance of pairs; see :meth:`xai.similarity.SimilarityRelevance.plot`.

    Raises
    ------
    InputError
        Labels that do not fit, or an impossible scale.
    """
    pictures = len(relevance.a.shape) == 2 and len(relevance.b.shape) == 2
    if pictures:
        if labels is not None:
            raise InputError("labels= name tokens or features; pictures have none.")
        return _lines(relevance, n, size, ax, limit)
    return _matrix(relevance, ax, limit, labels)


def _lines(
    relevance: SimilarityRelevance, n: int, size: int, ax: Axes | None, limit: float | None
) -> Figure:
    """Both pictures in grey on one pair of axes, lines in the colour of their relevance."""
    found = relevance.top_pairs(n, size)[::-1]  # the strongest are drawn last, on top
    values = np.array([pair.relevance for pair in found])
    end = symmetric_limit(values, limit=limit)
    norm = Normalize(-end, end)
    (ha, wa), (hb, wb) = relevance.a.shape, relevance.b.shape
    gap = max(2, round(0.12 * max(wa, wb)))
    height, width = max(ha, hb), wa + gap + wb
    inches = 7.2
    drawn = float(np.clip((inches - 1.1) * height / width, 1.2, 8))
    figure, ax = figure_and_axes(ax, inches, drawn + 1.1)
    origins = _show(ax, relevance, gap)
    strength = np.minimum(np.abs(values) / end, 1)
    ends = [(_centre(pair.a, origins[0]), _centre(pair.b, origins[1])) for pair in found]
    colors = SIGNED(norm(values))
    # what is weak stays thin and clear, so that what is strong can be followed
    colors[:, 3] = 0.25 + 0.75 * strength
    ax.add_collection(LineCollection(ends, colors=colors, linewidths=0.6 + 2 * strength))
    for pair, color in zip(found, colors, strict=True):
        for region, origin in zip((pair.a, pair.b), origins, strict=True):
            ax.add_patch(_box(region, origin, color))
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.set_axis_off()
    _finish(figure, ax, relevance, ScalarMappable(norm, SIGNED), end, values, _covered(found, size))
    return figure


def _show(ax: Axes, relevance: SimilarityRelevance, gap: int) -> tuple[Array, Array]:
    """Draw both pictures in grey, each centred in height; returns their upper left corners."""
    (ha, wa), hb = relevance.a.shape, relevance.b.shape[0]
    height = max(ha, hb)
    origins = np.array([(0.0, (height - ha) // 2), (wa + gap, (height - hb) // 2)])
    for side, (x, y) in zip((relevance.a, relevance.b), origins, strict=True):
        h, w = side.shape
        # each picture on its own grey scale: the two were not necessarily exposed alike
        ax.imshow(
            _grey(side), cmap=GREY, extent=(x - 0.5, x + w - 0.5, y + h - 0.5, y - 0.5),
            interpolation="nearest",
        )  # fmt: skip
    return origins[0], origins[1]


def _grey(side: Side) -> Array:
    """The picture in grey; the mean of its channels where they are no colours."""
    picture = side.inputs[None]
    if picture.ndim == 4 and picture.shape[1] not in (1, 3, 4):
        return np.asarray(picture[0].mean(0), dtype=np.float64)
    if picture.ndim == 4:
        picture = np.moveaxis(picture, 1, -1)
    return np.asarray(brightness(picture)[0])


def _centre(region: Region, origin: Array) -> tuple[float, float]:
    rows, columns = region
    x, y = origin
    return x + (columns.start + columns.stop - 1) / 2, y + (rows.start + rows.stop - 1) / 2


def _box(region: Region, origin: Array, color: Array) -> Rectangle:
    rows, columns = region
    x, y = origin
    return Rectangle(
        (x + columns.start - 0.5, y + rows.start - 0.5),
        columns.stop - columns.start,
        rows.stop - rows.start,
        fill=False,
        edgecolor=color,
        linewidth=0.9,
    )


def _covered(found: list[Pair], size: int) -> str:
    total = sum(pair.relevance for pair in found)
    return (
        f"the {len(found)} strongest pairs of regions of {size}x{size} pixels, together "
        f"{number(total)}"
    )


def _matrix(
    relevance: SimilarityRelevance, ax: Axes | None, limit: float | None, labels: Labels | None
) -> Figure:
    """Pairs of tokens or features as a heat map, ``a`` downwards and ``b`` across."""
    sides = (relevance.a, relevance.b)
    pairs = relevance.matrix()
    rows, columns = (int(np.prod(side.shape)) for side in sides)
    values = pairs.reshape(rows, columns)
    names = [_names(side, i, labels) for i, side in enumerate(sides)]
    end = symmetric_limit(values, limit=limit)
    norm = Normalize(-end, end)
    width = float(np.clip(0.28 * columns + 2.2, 4.5, 9))
    height = float(np.clip(0.28 * rows + 1.9, 3, 9))
    figure, ax = figure_and_axes(ax, width, height)
    ax.imshow(values, cmap=SIGNED, norm=norm, interpolation="nearest", aspect="auto")
    ax.set_ylabel("a", fontsize=9)
    if rows <= NAMED:
        ax.set_yticks(np.arange(rows), names[0], fontsize=8)
    ax.xaxis.tick_top()
    if columns <= NAMED:
        upright = max(map(len, names[1])) > 3
        ax.set_xticks(np.arange(columns), names[1], fontsize=8, rotation=90 if upright else 0)
    ax.tick_params(length=0)
    plain(*ax.get_xticklabels(), *ax.get_yticklabels())
    text = "all pairs, a downwards and b across"
    _finish(figure, ax, relevance, ScalarMappable(norm, SIGNED), end, values, text)
    return figure


def _names(side: Side, i: int, labels: Labels | None) -> list[str]:
    """Given names, else token numbers, else positions."""
    count = int(np.prod(side.shape))
    if labels is not None:
        if len(labels) != 2 or len(labels[i]) != count:
            raise InputError(
                f"Expected labels for both inputs, {count} for input {'ab'[i]}, got "
                f"{[len(part) for part in labels]}."
            )
        return [one_line(str(name), 16) for name in labels[i]]
    if side.inputs.dtype.kind in "iu":
        return [str(token) for token in side.inputs.ravel()]
    return [str(position) for position in range(count)]


def _finish(
    figure: Figure, ax: Axes, relevance: SimilarityRelevance, colors: ScalarMappable, end: float,
    values: Array, what: str,
) -> None:  # fmt: skip
    """Title with the accounts, colour bar, caption."""
    beyond = bool((np.abs(values) > end).any())
    bar = figure.colorbar(colors, ax=ax, extend="both" if beyond else "neither", pad=0.02,
                          fraction=0.05, aspect=22)  # fmt: skip
    bar.set_label("relevance of a pair", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    kind = "cosine" if relevance.kind == "cosine" else "dot product"
    title = (
        f"{one_line(relevance.model_name, 40)}, BiLRP, {one_line(relevance.composite, 30)}\n"
        f"{kind} {number(relevance.similarity)} = all pairs {number(relevance.total)}, absorbed "
        f"{number(sum(relevance.absorbed.values()))}"
    )
    left = relevance.similarity - relevance.approximated
    if abs(left) > 1e-4 * abs(relevance.similarity):
        title += f", not explained {number(left)}"
    ax.set_title(title, fontsize=9)
    caption = f"{what}; {relevance.directions}; the colour scale ends at ±{number(end)}"
    width = int(13 * figure.get_figwidth())
    note = figure.supxlabel(wrapped(caption, width), fontsize=8)
    plain(ax.title, note)


def pairs_card(relevance: SimilarityRelevance) -> str:
    """Compact HTML: the similarity, its accounts, and a figure."""
    table = relevance.accounts()
    kind = "cosine" if relevance.kind == "cosine" else "dot product"
    shapes = " and ".join("x".join(map(str, side.shape)) for side in (relevance.a, relevance.b))
    error = f"relative conservation error {number(relevance.relative_conservation_error, 2)}"
    if relevance.approximation_error > 1e-6:
        error += f"; approximation error {number(relevance.approximation_error, 2)}"
    if relevance.standard_error is not None:
        error += f", standard error {number(relevance.standard_error, 2)}"
    try:
        picture, reason = b64encode(png(pairs(relevance), dpi=80)).decode(), ""
    except InputError as problem:
        picture, reason = "", f"No figure: {problem}"
    return CARD.render(
        model=one_line(relevance.model_name, 80),
        composite=one_line(relevance.composite, 40),
        what=f"{kind} {number(relevance.similarity)} of {shapes}, {relevance.directions}",
        columns=[one_line(name, 40) for name in table.columns],
        rows=[
            (one_line(name, 40), [number(v) for v in cells])
            for name, cells in zip(table.index, table.to_numpy(), strict=True)
        ],
        conservation=error,
        picture=picture,
        reason=reason,
    )
