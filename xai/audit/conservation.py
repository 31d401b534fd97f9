"""Conservation: whether relevance adds up to the evidence, and how much of it constants took."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.report.finding import Answer, Finding, Measure, Passed

BOUND = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Largest relative conservation error that rounding explains, by precision."""

ABSORBED = 0.9
"""Where constants take more than this share, the map shows less than a tenth of the account."""


class Conservation(Check):
    """Holds every row's account against rounding, and says who absorbed what the map lacks."""

    name = "conservation"
    question = "Does relevance add up to the model's own decision?"

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        error = audit.relevance.relative_conservation_error.astype(np.float64)
        bound = BOUND.get(_dtype(audit), BOUND[torch.float32])
        measure = Measure("largest relative conservation error", float(error.max()), "<=", bound)
        if measure.holds:
            yield Passed(measure, f"Over {len(error)} rows in {_precision(audit)}.")
        else:
            rows = audit.explained[~(error <= bound)]
            yield Finding(
                "critical",
                "Relevance does not add up to the evidence.",
                measure,
                f"In {len(rows)} of {len(error)} rows the parts and the whole differ by more than "
                f"rounding in {_precision(audit)} explains. What the maps of these rows show is "
                "not the model's decision.",
                "Do not use these maps. Convert with dtype=torch.float64; if the error stays, a "
                "rule or a custom layer does not conserve.",
                samples=audit.names(rows),
            )
        yield self._absorbed(audit)

    def _absorbed(self, audit: AuditContext) -> Answer:
        relevance = audit.relevance
        shares = {
            name: np.abs(share.astype(np.float64)) for name, share in relevance.absorbed.items()
        }
        mass = np.abs(relevance.values.reshape(len(relevance), -1)).sum(1, dtype=np.float64)
        taken = sum(shares.values(), np.zeros(len(relevance)))
        total = np.maximum(mass + taken, np.finfo(float).tiny)
        median = float(np.median(taken / total))
        measure = Measure("share absorbed by constants (median)", median, "<=", ABSORBED)
        parts = "; ".join(
            f"{name}: {np.median(share / total):.1%}" for name, share in shares.items()
        )
        note = f"Absorbed by {parts}." if parts else "Nothing is absorbed."
        if measure.holds:
            return Passed(measure, note)
        return Finding(
            "info",
            f"Constants take {median:.0%} of the account; the maps show the rest.",
            measure,
            f"{note} These parts are the same for all rows or belong to no feature, so no map can "
            "show them.",
            "Read maps of this model as the smaller part of its score; output='margin' explains "
            "the distance to the threshold instead.",
        )


def _dtype(audit: AuditContext) -> torch.dtype:
    """The coarsest precision on the way: a head in float64 may sit on an encoder in float32."""
    encoder = audit.net.features
    weights = [] if encoder is None else [p.dtype for p in encoder.parameters()]
    return min([audit.net.dtype, *(t for t in weights if t.is_floating_point)], key=_bits)


def _bits(dtype: torch.dtype) -> int:
    return dtype.itemsize


def _precision(audit: AuditContext) -> str:
    return str(_dtype(audit)).removeprefix("torch.")
