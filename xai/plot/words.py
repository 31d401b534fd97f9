"""Words on figures: names are shown as they are, on one line, never read as formulas."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text

from xai.relevance import Relevance


def one_line(text: str, width: int = 0) -> str:
    """Text on one line, without control characters, shortened to ``width`` if that is positive.

    Examples
    --------
    >>> one_line("malic" + chr(10) + "acid")
    'malic acid'
    >>> one_line("a very long name of a feature", 12)
    'a very long…'
    """
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
    return shown if not width or len(shown) <= width else shown[: width - 1].rstrip() + "…"


def wrapped(text: str, width: int) -> str:
    """``text`` broken into lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(one_line(text), max(width, 12)))


def plain(*texts: Text) -> None:
    """Show these exactly as written: a ``$`` in a name is a dollar, not the start of a formula."""
    for text in texts:
        text.set_parse_math(False)
        text.set_usetex(False)


def number(value: float, digits: int = 4) -> str:
    """A number for reading, with a real minus sign.

    >>> number(-12.3456)
    '−12.35'
    """
    return f"{value:.{digits}g}".replace("-", "−")


def evidence_word(relevance: Relevance) -> str:
    """What the relevance adds up to, in one word."""
    return "margin" if relevance.output == "margin" else "evidence"


def relevance_label(relevance: Relevance) -> str:
    """Label of every axis that shows relevance: it is in the unit of the evidence."""
    return f"relevance for: {relevance.evidence_name}"


def row_title(relevance: Relevance, i: int) -> str:
    """Which row, what was explained, and the evidence; two lines."""
    names = relevance.row_names
    row = f"row {i}" if names is None else one_line(names[i], 30)
    if row.lstrip("-").isdigit():  # the index of a DataFrame nobody gave a meaning to
        row = f"row {row}"
    noun = "output" if relevance.kind == "output" else "cluster"
    what = "outlier score" if relevance.target is None else f"{noun} {relevance.target[i]}"
    line = f"{evidence_word(relevance)} {number(float(relevance.evidence[i]))}"
    threshold = relevance.threshold
    if relevance.kind == "outlier" and threshold is not None and math.isfinite(threshold):
        sign = ">" if relevance.evidence[i] > threshold else "≤"
        line += f" {sign} threshold {number(threshold)}"
    return f"{row}, {what}\n{line}"


def rows_title(relevance: Relevance) -> str:
    """How many rows, what was explained, and the mean evidence; two lines."""
    noun = "output" if relevance.kind == "output" else "cluster"
    if relevance.target is None:
        what = "outlier score"
    elif (relevance.target == relevance.target[0]).all():
        what = f"{noun} {relevance.target[0]}"
    else:
        what = f"{len(np.unique(relevance.target))} {noun}s, each row for its own target"
    mean = number(float(np.mean(relevance.evidence, dtype=np.float64)))
    return f"{len(relevance)} rows, {what}\nmean {evidence_word(relevance)} {mean}"


def model_title(relevance: Relevance) -> str:
    """The model and how it was explained."""
    return one_line(f"{relevance.model_name}, {relevance.method}", 60)


def label_axes(relevance: Relevance, ax: Axes, labels: list[str]) -> None:
    """Title, relevance axis and one labelled line per share, top to bottom."""
    ax.set_yticks(np.arange(len(labels)), labels, fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    title = row_title(relevance, 0) if len(relevance) == 1 else rows_title(relevance)
    plain(
        ax.set_title(f"{model_title(relevance)}\n{title}", fontsize=10, loc="left"),
        # Flush right, since it may be longer than the axis and has room on the left.
        ax.set_xlabel(wrapped(relevance_label(relevance), 70), fontsize=9, loc="right"),
        *ax.get_yticklabels(),
    )
