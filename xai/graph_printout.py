"""Relevance of cells in words for a terminal, and as plain values for other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphs.relevance import GraphRelevance
from xai.plot.intervals import mean_intervals

SHOWN_PATIENTS = 10


def graph_text(relevance: GraphRelevance, model: str) -> str:
    """A few lines: what was explained, the accounts of some patients, phenotypes by their mean.

    Examples
    --------
    >>> from graphs import CellGraph
    >>> cells = CellGraph(np.zeros((2, 2)), np.array([0, 1]), ("T", "B"), np.zeros(2, int),
    ...                   ("slide",), ("p",))
    >>> print(graph_text(GraphRelevance(np.array([[2.0], [-1.0]]), cells, np.array([1.5]),
    ...                  {"bias": np.array([0.5])}, composite="GraphGamma(0.25)"), "net"))
    net, explained by LRP with GraphGamma(0.25): log hazard, positive relevance raises the risk
    2 cells, 1 images, 1 patients; conservation error at most 0
    patient  log hazard  cells  bias
    p               1.5      1   0.5
    mean over patients: T +2, B -1
    """
    graph, table = relevance.graph, relevance.accounts().drop(columns="error")
    error = float(relevance.relative_conservation_error.max())
    order = np.argsort(-relevance.log_hazard, kind="stable")
    head, half = order, SHOWN_PATIENTS // 2
    lines = [
        f"{model}, explained by LRP with {relevance.composite}: log hazard, positive relevance "
        "raises the risk",
        f"{len(graph)} cells, {len(graph.image_names)} images, {len(relevance)} patients; "
        f"conservation error at most {error:.2g}",
    ]
    if len(order) > SHOWN_PATIENTS:
        head = np.concatenate([order[:half], order[-half:]])
        lines.append(f"the {half} highest risks and the {half} lowest:")
    names = [str(name) for name in table.index]
    rows = [["patient", "log hazard", *table.columns[1:]]]
    rows += [[names[k], *(f"{value:.6g}" for value in table.iloc[k])] for k in head]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [f"{text:>{w}}" for text, w in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]))
    means = relevance.by("phenotype").mean().sort_values(key=lambda m: -m.abs(), kind="stable")
    shown = ", ".join(f"{name} {value:+.4g}" for name, value in means.items())
    lines.append(f"mean over patients: {shown}")
    return "\n".join(map(_plain, lines))


def graph_document(
    relevance: GraphRelevance, model: str, provenance: Mapping[str, str], files: list[Path]
) -> dict[str, Any]:
    """Plain values for JSON; numbers that are not finite become null."""
    graph = relevance.graph
    errors = relevance.relative_conservation_error
    patients = [
        {
            "patient": name,
            "log_hazard": _number(relevance.log_hazard[k]),
            "cells": _number(relevance.patient_sums[k]),
            "absorbed": {share: _number(v[k]) for share, v in relevance.absorbed.items()},
            "conservation_error": _number(errors[k]),
        }
        for k, name in enumerate(graph.patient_names)
    ]
    found = mean_intervals(relevance.by("phenotype"))
    return {
        "model": model,
        "composite": relevance.composite,
        "cells": len(graph),
        "images": len(graph.image_names),
        "edges": graph.require_edges().shape[1],
        "unit": graph.unit,
        "parts": None if relevance.partition is None else len(relevance.partition),
        "conservation_error": _number(errors.max()),
        "patients": patients,
        "phenotypes": {
            str(name): {
                "mean": _number(row["mean"]),
                "lower": _number(row["lower"]),
                "upper": _number(row["upper"]),
                "patients": int(row["patients"]),
            }
            for name, row in found.iterrows()
        },
        "interval": "95%, Student's t over patients",
        "files": [str(path) for path in files],
        "provenance": dict(provenance),
    }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(text: str) -> str:
    """Names from files on one line, without the control characters a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
