"""Findings, and the report that shows them: self-contained HTML and its JSON twin."""

from xai.report.finding import (
    SEVERITIES,
    Answer,
    BeforeAfter,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Picture,
    Severity,
    Suspect,
    shown,
)
from xai.report.report import Report, Section, Table

__all__ = [
    "SEVERITIES",
    "Answer",
    "BeforeAfter",
    "Counterfactual",
    "Finding",
    "Measure",
    "NotAssessable",
    "Passed",
    "Picture",
    "Report",
    "Section",
    "Severity",
    "Suspect",
    "Table",
    "shown",
]
