"""The card Jupyter shows for an explanation: self-contained HTML, every name escaped."""

from __future__ import annotations

from base64 import b64encode

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure

from xai.errors import InputError
from xai.plot.figure import png
from xai.plot.words import evidence_word, number, one_line
from xai.relevance import Relevance

ROWS = 5
PICTURES = 4
SWARM = 300
"""Rows in the card's table, pictures in its figure, dots per feature: quick, and below 200 kB."""

CARD = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """\
{% set cell_style = "text-align: right; padding: 0 .5em" %}
<div style="max-width: 60em; line-height: 1.4">
<strong>{{ model }}</strong> &middot; {{ method }}<br>
{{ what }}<br>
{{ unit }}
<table style="margin: .5em 0; font-variant-numeric: tabular-nums">
<thead>
<tr>{% for name in columns %}<th style="{{ cell_style }}">{{ name }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td style="{{ cell_style }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% if more %}{{ more }}<br>{% endif %}
{{ conservation }}
{% if picture %}
<br><img alt="{{ caption }}" src="data:image/png;base64,{{ picture }}" style="max-width: 100%">
{% endif %}
<br><small>{{ caption }}</small>
</div>
"""
)


def card(relevance: Relevance) -> str:
    """Compact HTML: model, what was explained, the accounts of the first rows, and a figure."""
    picture, caption = _picture(relevance)
    columns, rows = _accounts(relevance)
    worst = float(relevance.relative_conservation_error.max(initial=0.0))
    hidden = len(relevance) - len(rows)
    return CARD.render(
        model=one_line(relevance.model_name, 80),
        method=one_line(relevance.method, 40),
        what=one_line(headline(relevance)),
        unit=one_line(f"{evidence_word(relevance)}: {relevance.evidence_name}", 200),
        columns=columns,
        rows=rows,
        more=f"and {hidden} more rows" if hidden else "",
        conservation=f"conservation error at most {number(worst, 2)} of the relevance at stake",
        picture=None if picture is None else b64encode(png(picture, dpi=72)).decode(),
        caption=caption,
    )


def headline(relevance: Relevance) -> str:
    """How much was explained, and what for."""
    shape = relevance.values.shape[1:]
    size = f"{shape[0]} features" if len(shape) == 1 else f"shape {'x'.join(map(str, shape))}"
    rows = f"{len(relevance)} {'row' if len(relevance) == 1 else 'rows'} of {size}"
    if relevance.target is None:
        return f"{rows}, explained for the outlier score"
    clusters = np.unique(relevance.target)
    if len(clusters) == 1:
        return f"{rows}, explained for cluster {clusters[0]}"
    return f"{rows}, each explained for its own of {len(clusters)} clusters"


def _accounts(relevance: Relevance) -> tuple[list[str], list[list[str]]]:
    """Columns and first rows of ``evidence = relevance + absorbed + error``."""
    first = relevance[:ROWS]
    numbers = {evidence_word(first): first.evidence}
    numbers["sum of relevance"] = first.values.reshape(len(first), -1).sum(1, dtype=np.float64)
    numbers |= {one_line(f"absorbed: {name}", 60): s for name, s in first.absorbed.items()}
    numbers["conservation error"] = first.conservation_error
    if first.original is not None:
        numbers[one_line(first.score_map.split(" = ")[0] or "original score", 40)] = first.original
    names = first.row_names or tuple(map(str, range(len(first))))
    rows = []
    for i, name in enumerate(names):
        cells = [one_line(name, 40)]
        if first.target is not None:
            cells.append(str(first.target[i]))
        digits = [2 if column == "conservation error" else 4 for column in numbers]
        cells += [number(float(v[i]), d) for v, d in zip(numbers.values(), digits, strict=True)]
        rows.append(cells)
    target = [] if first.target is None else ["cluster"]
    return ["row", *target, *numbers], rows


def _picture(relevance: Relevance) -> tuple[Figure | None, str]:
    """The default figure of the first rows and its caption, or the reason why there is none."""
    from xai.plot import plot

    shown = relevance[: PICTURES if relevance.is_image else SWARM]
    caption = f"first {len(shown)} of {len(relevance)} rows" if len(shown) < len(relevance) else ""
    try:
        return plot(shown), caption
    except InputError as error:
        return None, f"No figure: {error}"
