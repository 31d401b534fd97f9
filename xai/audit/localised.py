"""Detection against localisation: anomalies that are found for what is not anomalous."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import roc_auc_score

from xai.audit.context import AuditContext
from xai.evaluate.localisation import localisation
from xai.relevance import Array
from xai.report.finding import (
    Answer,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Severity,
)

ROWS = 60
"""Anomalous rows whose maps are compared with their masks."""

FEWEST = 5

DETECTS, LOCATES = 0.9, 0.3
"""A detector with a larger AUROC and a smaller cosine of maps and masks is suspected."""

STILL = 0.5
"""Share of the anomalous rows that should not be called abnormal without their anomaly."""

QUESTION = "Are anomalies found for what is anomalous?"


def localised(audit: AuditContext) -> Iterator[Answer]:
    """AUROC beside the cosine of maps and masks, and scores without what the masks hold."""
    reason = _reason(audit)
    if reason:
        yield NotAssessable(QUESTION, reason)
        return
    assert audit.masks is not None and audit.labels is not None
    abnormal = audit.labels.astype(float) == 1
    area = float(roc_auc_score(abnormal, audit.evidence))
    rows = _located(audit)
    rows = np.sort(audit.rng.choice(rows, min(ROWS, len(rows)), replace=False))
    found = localisation(audit.relevance_of(rows), audit.masks[rows])
    cosine, precision = (float(found[name].mean()) for name in ("cosine", "average_precision"))
    note = f"AUROC {area:.3f}; average precision of pixels {precision:.2f}, over {len(rows)} rows."
    if area <= DETECTS:
        yield NotAssessable(
            QUESTION, f"It finds too few of them (AUROC {area:.2f}, asked from {DETECTS:g} on)."
        )
        return
    measure = Measure("cosine of maps and masks of anomalies (mean)", cosine, ">=", LOCATES)
    if measure.holds:
        yield Passed(measure, note)
        return
    yield _finding(audit, measure, rows, note, ~abnormal)


def _reason(audit: AuditContext) -> str:
    if audit.net.kind != "outlier":
        return "The model assigns clusters and detects nothing."
    if audit.masks is None or audit.labels is None:
        return "Masks of the anomalies, and labels (1: anomalous, 0: not), were not given."
    if not set(np.unique(audit.labels).astype(str)) <= {"0", "1", "0.0", "1.0"}:
        return "Labels are not 0 (normal) and 1 (anomalous)."
    normal = int((audit.labels.astype(float) == 0).sum())
    if len(_located(audit)) < FEWEST or normal < FEWEST:
        return f"Fewer than {FEWEST} anomalous rows with a mask, or normal ones."
    return ""


def _located(audit: AuditContext) -> Array:
    """Anomalous rows whose mask is neither empty nor full."""
    assert audit.masks is not None and audit.labels is not None
    share = audit.masks.reshape(len(audit), -1).mean(1)
    return np.flatnonzero((audit.labels.astype(float) == 1) & (share > 0) & (share < 1))


def _finding(
    audit: AuditContext, measure: Measure, rows: Array, note: str, normal: Array
) -> Finding:
    assert audit.masks is not None
    usual = audit.median_row(np.flatnonzero(normal))
    inside = np.stack([audit.features_of(mask) for mask in audit.masks[rows]])
    spread = audit.spread or 1.0
    gone = audit.rescore(rows, np.where(inside, usual, audit.flat[rows]))
    rest = audit.rescore(rows, np.where(inside, audit.flat[rows], usual))
    falls, other = (float(np.median(-answer.shift) / spread) for answer in (gone, rest))
    before = audit.decision[rows]
    called = float((before & ~gone.changed | ~before & gone.changed).mean())
    severity: Severity = "info" if falls >= other else "warning"
    if severity == "warning" and before.mean() >= STILL and called >= STILL:
        severity = "critical"
    return Finding(
        severity,
        "Anomalies are found, and not for what is anomalous."
        if severity != "info"
        else "Anomalies are found, and maps do not show where.",
        measure,
        f"{note} Where the anomaly is replaced by what normal rows hold there, scores fall by "
        f"{falls:.2g} standard deviations, and by {other:.2g} where everything else is. "
        f"{before.mean():.0%} of these rows are called abnormal, {called:.0%} without their "
        "anomaly.",
        "Look for what else anomalous rows share: how they were taken, cropped or stored."
        if severity != "info"
        else "Do not use these maps to locate anomalies; try another preset (composite=).",
        Counterfactual(
            f"Masks of {len(rows)} anomalous rows were filled with the median of the normal rows, "
            f"and so was everything outside them. {audit.decision_note}".strip(),
            {
                "anomaly replaced: fall of the scores (median, in standard deviations)": falls,
                "everything else replaced: fall of the scores": other,
                "share called abnormal as they are": float(before.mean()),
                "share called abnormal without the anomaly": called,
            },
        ),
        samples=audit.names(rows),
    )
