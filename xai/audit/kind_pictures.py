"""The figure of pictures of two kinds: how a trace is distributed."""

from __future__ import annotations

import numpy as np

from xai.audit.signatures import Signature
from xai.plot.figure import NotebookFigure
from xai.plot.scales import NEGATIVE, POSITIVE
from xai.relevance import Array
from xai.report.finding import Picture


def kinds_apart(signature: Signature, values: Array, more: Array) -> Picture:
    """Histograms of the trace in both kinds."""
    figure = NotebookFigure(figsize=(6.4, 2.4), layout="constrained")
    ax = figure.subplots()
    bins = np.histogram_bin_edges(values, 60).tolist()
    for which, name, colour in (
        (more, signature.more, POSITIVE),
        (~more, signature.less, NEGATIVE),
    ):
        ax.hist(values[which], bins, color=colour, alpha=0.6, label=f"{name} ({which.sum()})")
    ax.set_xlabel(signature.name, fontsize=9)
    ax.set_ylabel("pictures", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return Picture(
        figure,
        f"Distribution of the {signature.name} of the pictures, a trace of how they were taken or "
        "stored.",
        f"Two histograms of {signature.name}: {more.sum()} pictures are {signature.more}, "
        f"{(~more).sum()} {signature.less}.",
    )
