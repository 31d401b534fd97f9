"""The JSON twin of a report: plain objects that hold every number of the HTML."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xai.report.finding import Finding, Measure, NotAssessable, Passed, Picture, shown

if TYPE_CHECKING:
    from xai.report.report import Report, Section, Table

FORMAT = "unsupervised-xai report"
VERSION = 2


def document(report: Report) -> dict[str, Any]:
    """The report as objects that ``json.dumps(..., allow_nan=False)`` takes."""
    # Names of files may hold bytes that are no text; they become question marks here.
    text = json.dumps(_content(report), ensure_ascii=False, allow_nan=False)
    content = json.loads(text.encode("utf-8", "replace"))
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return {
        **content,
        "content_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "times": [
            {"check": str(name), "seconds": _number(seconds), "share": _share(share)}
            for name, (seconds, share) in report.times.items()
        ],
    }


def _content(report: Report) -> dict[str, Any]:
    """Everything but the times, which differ from run to run."""
    overview = report.overview
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": report.title,
        "headline": report.headline,
        "reasons": list(report.reasons),
        "tally": report.tally,
        "severity": report.severity,
        "exit_code": report.exit_code,
        "introduction": report.introduction,
        "overview": _frame(overview),
        "n_passed": len(report.passed),
        "findings": [_finding(finding) for finding in report.findings],
        "passed": [_passed(passed) for passed in report.passed],
        "not_assessable": [_open(question) for question in report.not_assessable],
        "sections": [_section(section) for section in report.sections],
        "appendix": [_section(section) for section in report.appendix],
        "provenance": {str(name): str(value) for name, value in report.provenance.items()},
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "text": section.text,
        "pictures": [_picture(picture) for picture in section.pictures],
        "tables": [_table(table) for table in section.tables],
    }


def _number(value: float) -> dict[str, Any]:
    """The number itself, null where there is none, and the way the HTML shows it."""
    value = float(value)
    return {"value": value if math.isfinite(value) else None, "shown": shown(value)}


def _share(value: float) -> dict[str, Any]:
    return {"value": value, "shown": f"{value:.0%}"}


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "name": measure.name,
        **_number(measure.value),
        "relation": measure.relation,
        "threshold": _number(measure.threshold)["value"],
        "text": str(measure),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    test = finding.counterfactual
    return {
        "severity": finding.severity,
        "check": finding.check,
        "model": finding.subject,
        "title": finding.title,
        "measure": _measure(finding.measure),
        "explanation": finding.explanation,
        "advice": finding.advice,
        "counterfactual": None
        if test is None
        else {
            "tested": test.tested,
            "numbers": {name: _number(value) for name, value in test.numbers.items()},
            "before_after": [
                {
                    "name": pair.name,
                    "before": _number(pair.before),
                    "after": _number(pair.after),
                    "random": None if pair.random is None else _number(pair.random),
                }
                for pair in test.before_after
            ],
        },
        "n_samples": len(finding.samples),
        "samples": list(finding.samples),
        "suspect": None
        if finding.suspect is None
        else {"kind": finding.suspect.kind, "summary": finding.suspect.summary},
        "pictures": [_picture(picture) for picture in finding.pictures],
        "command": finding.command,
    }


def _passed(passed: Passed) -> dict[str, Any]:
    return {
        "check": passed.check,
        "model": passed.subject,
        "measure": _measure(passed.measure),
        "note": passed.note,
        "command": passed.command,
    }


def _open(question: NotAssessable) -> dict[str, Any]:
    return {
        "check": question.check,
        "model": question.subject,
        "question": question.question,
        "reason": question.reason,
        "command": question.command,
    }


def _picture(picture: Picture) -> dict[str, str]:
    return {"caption": picture.caption, "alt": picture.alt}


def _table(table: Table) -> dict[str, Any]:
    return {"caption": table.caption, **_frame(table.frame)}


def cell(value: Any) -> Any:
    """A table's cell as a plain Python object.

    >>> cell(np.float32(0.5)), cell(np.int64(3)), cell(None)
    (0.5, 3, '')
    """
    if value is None:
        return ""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, bool | int | float) else str(value)


def _frame(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return {
        "index_name": "" if frame.index.name is None else str(frame.index.name),
        "columns": [str(column) for column in frame.columns],
        "index": [str(name) for name in frame.index],
        "rows": [[None if _missing(value) else value for value in row] for row in rows],
        "shown": [[shown(value) for value in row] for row in rows],
    }


def _missing(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
