"""Collapse: constant, tied or saturated scores, and clusters that are empty or hold all."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import torch

from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.representation import represented
from xai.relevance import Array
from xai.report.finding import Answer, Finding, Measure, NotAssessable, Passed

PRECISION = 64.0
"""Scores whose spread is below this many units of float precision are constant."""

SPREAD = 1e-3
"""Below this spread, relative to their magnitude, scores agree in their first three digits."""

DISTINCT = 0.1
"""Distinct scores per distinct row."""

DOMINATING = 0.95
"""Share of the rows in the largest cluster."""

ABNORMAL = 0.5
"""Share of the rows a detector calls abnormal by its own threshold."""

MIN_ROWS = 2


class Collapse(Check):
    """Looks at the evidence, at the model's own number where it has one, and at its decisions.

    The two can differ: a score that saturates collapses although the evidence behind it does not.
    Of a deep detector it also asks the network, whose collapse the scores may hide.
    """

    name = "collapse"
    question = "Do scores and decisions tell the rows apart?"

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        # digests, since a set of the rows themselves would hold the data a second time
        different = len({blake2b(row.tobytes()).digest() for row in audit.flat})
        if different < MIN_ROWS:
            yield NotAssessable(self.question, "All rows of the data are the same.")
            return
        yield from _scores(audit, "evidence", audit.evidence, different)
        original = audit.original
        if original is not None:
            name = audit.net.score_map.name
            yield from _scores(audit, name, original.astype(np.float64), different)
        yield from represented(audit)
        if audit.net.kind != "outlier":
            yield from _clusters(audit)
        elif audit.net.threshold is not None:
            yield _called(audit)


def _scores(audit: AuditContext, name: str, scores: Array, different: int) -> Iterator[Answer]:
    """Spread against float precision, spread against magnitude, and ties."""
    low, high = np.quantile(scores, [0.05, 0.95])
    magnitude = float(np.abs(scores).max())
    spread = float(high - low) / magnitude if magnitude else 0.0
    constant = PRECISION * torch.finfo(audit.net.dtype).eps
    measure = Measure(f"spread of the {name} (5% to 95%) over its magnitude", spread, ">", SPREAD)
    if spread <= constant:
        yield Finding(
            "critical",
            f"The {name} is constant: the model tells no rows apart.",
            Measure(measure.name, spread, ">", constant),
            f"{len(np.unique(scores))} distinct values in {different} different rows, and a spread "
            "that is rounding. Rankings and thresholds on it are arbitrary, whatever a benchmark "
            "says about them.",
            "Look for a collapsed training, a kernel width far from the data's scale, or features "
            "that were not scaled; then fit again.",
        )
        return
    if measure.holds:
        yield Passed(measure)
    else:
        yield Finding(
            "warning",
            f"The {name} hardly varies.",
            measure,
            "Its first three digits are the same in nearly all rows, so that small changes of data "
            "or software reorder them.",
            "Check the scale of the features and the kernel width.",
        )
    ties = Measure(
        f"distinct values of the {name} per different row",
        len(np.unique(scores)) / different,
        ">=",
        DISTINCT,
    )
    if ties.holds:
        yield Passed(ties)
        return
    yield Finding(
        "warning",
        f"Different rows share the same {name}.",
        ties,
        f"{len(np.unique(scores))} distinct values in {different} different rows: ties decide "
        "rankings and what lies above a threshold.",
        "Use more trees, bins or neighbours; look for saturation.",
    )


def _clusters(audit: AuditContext) -> Iterator[Answer]:
    sizes = np.bincount(audit.decision, minlength=audit.net.n_clusters)
    largest = float(sizes.max() / sizes.sum())
    measure = Measure("share of the rows in the largest cluster", largest, "<=", DOMINATING)
    if measure.holds:
        yield Passed(measure)
    else:
        yield Finding(
            "critical" if largest == 1 else "warning",
            f"Cluster {int(sizes.argmax())} holds {largest:.1%} of the rows.",
            measure,
            "A clustering that puts nearly everything into one cluster separates little.",
            "Check the scale of the features; a few extreme rows may each have taken a cluster.",
        )
    empty = np.flatnonzero(sizes == 0)
    none = Measure("clusters without a row", len(empty), "<=", 0)
    if none.holds:
        yield Passed(none)
        return
    yield Finding(
        "warning",
        f"{len(empty)} of {len(sizes)} clusters have no row.",
        none,
        f"No row of these data is assigned to {', '.join(f'cluster {i}' for i in empty[:20])}.",
        "If these are the data the model was fitted on, fit fewer clusters; if they are new, ask "
        "what became of those rows.",
    )


def _called(audit: AuditContext) -> Answer:
    share = float(audit.decision.mean())
    measure = Measure("share of the rows called abnormal", share, "<=", ABNORMAL)
    if measure.holds:
        return Passed(measure)
    return Finding(
        "warning",
        f"{share:.0%} of the rows are called abnormal.",
        measure,
        "What most rows are is not abnormal: either these are not the data the model was fitted "
        "for, or its threshold is not in the unit of its scores.",
        "Check preprocessing and threshold.",
        samples=audit.names(np.flatnonzero(audit.decision)),
    )
