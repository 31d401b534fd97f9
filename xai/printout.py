"""An explanation in words for a terminal, and as plain values for other programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from xai.relevance import Relevance
from xai.report import Comparison, Report

SHOWN_ROWS = 10
SHOWN_FEATURES = 3


def to_text(relevance: Relevance) -> str:
    """A few lines: what was explained, and the strongest features of the first rows.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from xai.explainer import explain
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]])
    >>> print(to_text(explain(KMeans(2, n_init=1, random_state=0).fit(x), x[:2])))
    KMeans, explained by LRP: squared distance to the nearest other centroid minus to its own
    2 rows of 2 features; conservation error at most 0
    row  cluster  evidence  strongest features
    0    1              16  feature 0 +16
    1    1              16  feature 0 +16
    """
    rows = f"{len(relevance)} {'row' if len(relevance) == 1 else 'rows'}"
    size = "x".join(map(str, relevance.values.shape[1:]))
    unit = "pixels" if relevance.is_image else "features"
    error = float(relevance.relative_conservation_error.max())
    lines = [
        f"{relevance.model_name}, explained by {relevance.method}: {relevance.evidence_name}",
        f"{rows} of {size} {unit}; conservation error at most {error:.2g}",
    ]
    if relevance.kind == "outlier" and relevance.threshold is not None:
        lines.append(f"threshold {relevance.threshold:.6g}: above it a row is an outlier")
    lines += _aligned(_table(relevance[: min(SHOWN_ROWS, len(relevance))]))
    if len(relevance) > SHOWN_ROWS:
        lines.append(f"... and {len(relevance) - SHOWN_ROWS} more rows")
    return "\n".join(map(_plain, lines))


def to_document(relevance: Relevance, *, values: bool, files: list[Path]) -> dict[str, Any]:
    """Plain values for JSON; numbers that are not finite become null.

    Parameters
    ----------
    relevance
        What to describe.
    values
        Whether each row brings the relevance of its features.
    files
        Where the explanation was written.
    """
    errors = relevance.relative_conservation_error
    rows = []
    for i, name in enumerate(_row_names(relevance)):
        row: dict[str, Any] = {"row": name, "evidence": _number(relevance.evidence[i])}
        if relevance.target is not None:
            row["target"] = int(relevance.target[i])
        if relevance.original is not None:
            row["original"] = _number(relevance.original[i])
        row["absorbed"] = {k: _number(taken[i]) for k, taken in relevance.absorbed.items()}
        row["conservation_error"] = _number(errors[i])
        if values:
            share = relevance.values[i].astype(object)
            share[~np.isfinite(relevance.values[i])] = None
            row["relevance"] = share.tolist()
        rows.append(row)
    return {
        "model": relevance.model_name,
        "kind": relevance.kind,
        "evidence": relevance.evidence_name,
        "score_map": relevance.score_map,
        "threshold": None if relevance.threshold is None else _number(relevance.threshold),
        "method": relevance.method,
        "output": relevance.output,
        "shape": list(relevance.values.shape),
        "feature_names": None if relevance.feature_names is None else list(relevance.feature_names),
        "conservation_error": _number(errors.max()),
        "rows": rows,
        "files": [str(path) for path in files],
        "provenance": dict(relevance.provenance),
    }


def report_text(report: Report) -> str:
    """A few lines: the verdict, every finding with its number, and what could not be assessed.

    Examples
    --------
    >>> from xai.report import Finding, Measure
    >>> measure = Measure("tied rows", 0.5, "<=", 0.1)
    >>> print(report_text(Report("Audit", [Finding("info", "Half the rows are tied.", measure)])))
    No objection. 1 info finding.
    info      Half the rows are tied.
              tied rows: 0.5 (fine if <= 0.1)
    """
    lines = [report.verdict]
    for finding in report.findings:
        who = f"{finding.subject}: " if finding.subject else ""
        lines += [f"{finding.severity:<8}  {who}{finding.title}", f"{'':<10}{finding.measure}"]
    for question in report.not_assessable:
        who = f"{question.subject}: " if question.subject else ""
        lines += [f"{'open':<8}  {who}{question.question}", f"{'':<10}{question.reason}"]
    if report.seconds:
        shares = ", ".join(f"{name} {share:.0%}" for name, (_, share) in report.times.items())
        lines.append(f"{sum(report.seconds.values()):.3g} seconds: {shares}")
    return "\n".join(map(_plain, lines))


def comparison_text(both: Comparison) -> str:
    """A few lines: the verdict, what each check said of both, and every change with its numbers.

    Examples
    --------
    >>> from xai.report import Finding, Measure, Passed, compare
    >>> few, many = Measure("tied rows", 0.05, "<=", 0.1), Measure("tied rows", 0.5, "<=", 0.1)
    >>> first = Report("A", [Passed(few, check="ties")])
    >>> second = Report("B", [Finding("warning", "Rows are tied.", many, check="ties")])
    >>> print(comparison_text(compare(first, second)))
    The second is worse: 1 new.
    check  first   second
    ties   passed  warning
    new       Rows are tied.
              tied rows: 0.05 (passed), then 0.5 (warning)
    """
    table = [("check", "first", "second"), *((c, *pair) for c, pair in both.checks.items())]
    wide = [max(len(row[i]) for row in table) for i in range(2)]
    lines = [both.verdict]
    lines += [f"{c:<{wide[0]}}  {first:<{wide[1]}}  {second}" for c, first, second in table]
    for line in both.changed:
        who = f"{line.model}: " if line.model else ""
        first, second = (
            f"{'not measured' if measure is None else measure.shown} ({status})"
            for measure, status in zip(line.measure, line.status, strict=True)
        )
        lines.append(f"{line.change:<8}  {who}{line.title or line.question}")
        lines.append(f"{'':<10}{line.question}: {first}, then {second}")
    return "\n".join(map(_plain, lines))


def _plain(text: str) -> str:
    """Names from files on one line, without the control characters a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _row_names(relevance: Relevance) -> list[str]:
    if relevance.row_names is not None:
        return list(relevance.row_names)
    return [str(i) for i in range(len(relevance))]


def _table(relevance: Relevance) -> list[list[str]]:
    outlier = relevance.target is None
    table = [["row", "outlier" if outlier else "cluster", "evidence", "strongest features"]]
    for i, name in enumerate(_row_names(relevance)):
        if relevance.target is not None:
            decision = str(relevance.target[i])
        elif relevance.threshold is None:
            decision = "-"
        else:
            decision = "yes" if relevance.evidence[i] > relevance.threshold else "no"
        table.append([name, decision, f"{relevance.evidence[i]:.6g}", _strongest(relevance, i)])
    return table


def _strongest(relevance: Relevance, i: int) -> str:
    flat = relevance.values[i].reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")[:SHOWN_FEATURES]
    names = relevance.flat_names
    return ", ".join(f"{names[j]} {flat[j]:+.4g}" for j in order if flat[j] != 0)


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    row, decision, evidence, _ = widths
    return [f"{a:<{row}}  {b:<{decision}}  {c:>{evidence}}  {d}".rstrip() for a, b, c, d in table]
