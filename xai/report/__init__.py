"""Findings, and the report that shows them: self-contained HTML, its JSON twin, JUnit XML."""

from xai.report.comparison import Comparison, compare
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
from xai.report.twin import read_report, report_schema

__all__ = [
    "SEVERITIES",
    "Answer",
    "BeforeAfter",
    "Comparison",
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
    "compare",
    "read_report",
    "report_schema",
    "shown",
]
