"""A report: what an audit found, what it asked in vain, and whatever else belongs beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from xai.report.finding import (
    SEVERITIES,
    Answer,
    Finding,
    NotAssessable,
    Passed,
    Picture,
    Severity,
)

NOT_ASSESSABLE = "not assessable"
PASSED = "passed"


@dataclass(frozen=True, eq=False)
class Table:
    """A DataFrame with the words that belong to it; numbers are shown to four digits."""

    frame: pd.DataFrame
    caption: str


@dataclass(frozen=True, eq=False)
class Section:
    """Something to show beside the findings: explanations, comparisons, controls."""

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """What was asked, what came out, and how to repeat it.

    Attributes
    ----------
    title
        Heading.
    answers
        What the checks said, in the order they were asked.
    sections
        Shown after the findings.
    provenance
        Versions, options and digests, by name.
    introduction
        A few sentences under the verdict: what was audited.
    appendix
        Shown at the end: thresholds, the rules of the network.
    seconds
        How long each check took. They are no part of the report's :attr:`digest`.

    Examples
    --------
    >>> from xai.report import Measure
    >>> measure = Measure("relative conservation error", 1e-16, "<=", 1e-9)
    >>> report = Report("Audit", [Passed(measure, check="conservation", subject="KMeans")])
    >>> report.verdict, report.exit_code
    ('No objection. 1 measure passed.', 0)
    """

    title: str
    answers: Sequence[Answer] = ()
    sections: Sequence[Section] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    introduction: str = ""
    appendix: Sequence[Section] = field(default=(), kw_only=True)
    seconds: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the worst first."""
        found = [answer for answer in self.answers if isinstance(answer, Finding)]
        return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))

    @cached_property
    def passed(self) -> tuple[Passed, ...]:
        """Measures that were fine."""
        return tuple(answer for answer in self.answers if isinstance(answer, Passed))

    @cached_property
    def not_assessable(self) -> tuple[NotAssessable, ...]:
        """Questions without an answer, and why."""
        return tuple(answer for answer in self.answers if isinstance(answer, NotAssessable))

    @property
    def severity(self) -> Severity | None:
        """The worst severity among the findings; None without any."""
        return self.findings[0].severity if self.findings else None

    @property
    def exit_code(self) -> int:
        """For a release gate: 1 for a warning or worse, or if no question had an answer; else 0."""
        nothing = bool(self.answers) and not self.passed and not self.findings
        return int(nothing or self.severity in ("warning", "critical"))

    @property
    def verdict(self) -> str:
        """The report in a sentence or two."""
        return f"{self.headline} {self.tally}".strip()

    @property
    def headline(self) -> str:
        """What the findings amount to."""
        worst = [f for f in self.findings if f.severity == self.severity]
        who = _and(_distinct([finding.subject for finding in worst]))
        if self.severity == "critical":
            return f"Do not rely on {who or 'the model'} before the critical findings are settled."
        if self.severity == "warning":
            return f"Look at the warnings before relying on {who or 'the model'}."
        if not self.passed and not self.findings:
            return "Nothing could be assessed." if self.answers else "Nothing was asked."
        return "No objection."

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every warning or worse in a line, with the models it concerns."""
        titles = _distinct([f.title for f in self.findings if f.severity != "info"])
        lines = []
        for title in titles:
            who = _distinct([f.subject for f in self.findings if f.title == title])
            lines.append(f"{', '.join(who)}: {title}" if who else title)
        return tuple(lines)

    @property
    def tally(self) -> str:
        """How many answers of which sort."""
        counts = [
            _count(sum(f.severity == s for f in self.findings), f"{s} finding") for s in SEVERITIES
        ]
        counts.append(_count(len(self.passed), "measure", " passed"))
        counts.append(_count(len(self.not_assessable), "question", " not assessable"))
        text = ", ".join(count for count in counts if count)
        return f"{text}." if text else ""

    @property
    def overview(self) -> pd.DataFrame:
        """One line per model, one column per check: the worst that was said.

        A pass that left a question open says so.
        """
        subjects = list(dict.fromkeys(answer.subject for answer in self.answers))
        checks = list(dict.fromkeys(answer.check for answer in self.answers))
        cells = {
            check: [
                _status([a for a in self.answers if a.subject == subject and a.check == check])
                for subject in subjects
            ]
            for check in checks
        }
        return pd.DataFrame(cells, index=pd.Index(subjects, name="model"))

    @property
    def times(self) -> Mapping[str, tuple[float, float]]:
        """Seconds each check took, and their share of all."""
        total = sum(self.seconds.values()) or 1.0
        return {name: (value, value / total) for name, value in self.seconds.items()}

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON twin without its times: the same for the same audit run again."""
        found: str = self.to_dict()["content_sha256"]
        return found

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained HTML file: pictures inside, no script, below 5 MB.

        Raises
        ------
        InputError
            Still above 5 MB with pictures at their coarsest.
        """
        from xai.report.html import page

        return written(Path(path), page(self))

    def to_json(self, path: str | Path) -> Path:
        """Write the JSON twin: every number of the HTML, unrounded and as shown there.

        What its parts are says :func:`xai.report.report_schema`.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)
        return written(Path(path), text)

    def to_junit(self, path: str | Path) -> Path:
        """Write the answers as a JUnit file: one test case each, failed from a warning on."""
        from xai.report.junit import junit

        return written(Path(path), junit(self))

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`to_json` writes."""
        from xai.report.document import document

        return document(self)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Every picture, in the order of the report."""
        parts: list[Finding | Section] = [*self.findings, *self.sections, *self.appendix]
        return tuple(picture for part in parts for picture in part.pictures)

    def _repr_html_(self) -> str:
        from xai.report.html import page

        # A frame keeps the report's styles out of the notebook's.
        return (
            f'<iframe sandbox srcdoc="{escape(page(self))}" title="{escape(self.title)}" '
            'style="width:100%;height:40em;border:1px solid #ccc"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<Report {self.title!r}: {self.verdict}>"


def written(path: Path, text: str) -> Path:
    """``text`` at ``path``; names of files may hold bytes that are no text, shown as ``?``."""
    from xai.storage import replacing

    with replacing(path) as file:
        file.write(text.encode("utf-8", "replace"))
    return path


def _status(answers: Sequence[Answer]) -> str:
    if not answers:
        return "not asked"
    found = [answer.severity for answer in answers if isinstance(answer, Finding)]
    worst = min(found, key=SEVERITIES.index, default=None)
    if worst is not None:
        return worst
    open_questions = sum(isinstance(answer, NotAssessable) for answer in answers)
    if open_questions == len(answers):
        return NOT_ASSESSABLE
    return PASSED + (f", {open_questions} open" if open_questions else "")


def _count(number: int, noun: str, rest: str = "") -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}{rest}" if number else ""


def _distinct(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
