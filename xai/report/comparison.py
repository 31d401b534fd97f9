"""Two reports side by side: two checkpoints, or one before and after a repair."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from xai.errors import InputError
from xai.report.finding import SEVERITIES, Severity
from xai.report.report import Report
from xai.report.twin import (
    FindingTwin,
    NotAssessableTwin,
    Number,
    PassedTwin,
    ReportTwin,
    read_report,
)

Twin = FindingTwin | PassedTwin | NotAssessableTwin
Pair = tuple[Twin | None, Twin | None]
Key = tuple[str, str, str]
"""Model (empty where there is one), check, and what was measured or asked."""

Change = Literal["new", "worse", "open", "gone", "better", "same"]
CHANGES: tuple[Change, ...] = ("new", "worse", "open", "gone", "better", "same")
"""From what a reader must see to what they need not."""

OBJECTIONS = ("critical", "warning")
OPEN = "not assessable"
PASSED = "passed"
NOT_ASKED = "not asked"
NO_SUCH = "no such answer"
"""Where a check said something, and nothing about this."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Line(_Part):
    """One question in both reports.

    Attributes
    ----------
    check, model
        Who was asked; the model only where a report has several.
    question
        What was measured, or asked in vain.
    change
        ``new``: a finding only the second has. ``worse``, ``better``: by severity, then by the
        measure. ``gone``: a finding of the first that the second looked for and does not have.
        ``open``: the first has an answer, and the second could not assess it or was not asked.
    status
        Severity, ``passed``, ``not assessable``, ``not asked`` in each, or ``no such answer``
        where the check said other things.
    measure
        What was measured in each.
    title
        The finding, the second's where both have one.
    """

    check: str
    model: str
    question: str
    change: Change
    status: tuple[str, str]
    measure: tuple[Number | None, Number | None]
    title: str


class Comparison(_Part):
    """What differs between two reports; made by :func:`compare`."""

    format: Literal["unsupervised-xai comparison"] = "unsupervised-xai comparison"
    version: Literal[1] = 1
    titles: tuple[str, str]
    headlines: tuple[str, str]
    digests: tuple[str, str]
    checks: dict[str, tuple[str, str]]
    lines: list[Line]
    exit_code: Literal[0, 1]

    @property
    def changed(self) -> list[Line]:
        """Lines that are not the same, the most important first."""
        return [line for line in self.lines if line.change != "same"]

    @property
    def verdict(self) -> str:
        """The comparison in a sentence."""
        counts = Counter(
            "new note" if line.change == "new" and line.status[1] == "info" else line.change
            for line in self.lines
        )
        text = ", ".join(f"{count} {change}" for change, count in counts.items())
        head = "The second is worse" if self.exit_code else "The second brings no new objection"
        return f"{head}: {text or 'nothing was asked'}."

    def to_json(self, path: str | Path) -> Path:
        """Write the comparison as JSON."""
        from xai.report.report import written

        return written(Path(path), json.dumps(self.to_dict(), indent=1, ensure_ascii=False))

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`to_json` writes."""
        return self.model_dump(mode="json")

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page."""
        from xai.report.html import comparison_page
        from xai.report.report import written

        return written(Path(path), comparison_page(self))


def compare(
    a: Report | ReportTwin | Mapping[str, Any] | str | Path,
    b: Report | ReportTwin | Mapping[str, Any] | str | Path,
) -> Comparison:
    """What is new, gone, worse or better in the second report.

    Findings are matched by model, check and measure, and where a check measured the same of
    several things, by their titles without the numbers. Models are told apart only where a report
    has several, so that a model and its repair may have different names.

    Parameters
    ----------
    a, b
        Reports, their JSON, or paths of JSON files.

    Raises
    ------
    FileFormatError, InputError
        No report of this version, or a file that is too large.

    Examples
    --------
    >>> from xai.report import Finding, Measure, Passed, Report
    >>> found = Finding("warning", "Rows are tied.", Measure("tied", 0.5, "<=", 0.1), check="ties")
    >>> fine = Passed(Measure("tied", 0.05, "<=", 0.1), check="ties")
    >>> both = compare(Report("before", [found]), Report("after", [fine]))
    >>> both.verdict, both.exit_code, [line.change for line in both.lines]
    ('The second brings no new objection: 1 gone.', 0, ['gone'])
    """
    first, second = _twin(a), _twin(b)
    several = max(len({x.model for x in _answers(twin)}) for twin in (first, second)) > 1
    lines = sorted(_lines(first, second, several), key=lambda line: CHANGES.index(line.change))
    asked = dict.fromkeys(x.check for twin in (first, second) for x in _answers(twin))
    nothing = bool(_answers(second)) and not second.passed and not second.findings
    objections = any(
        line.status[1] in OBJECTIONS and _rank(line.status[1]) < _rank(line.status[0])
        for line in lines
    )
    return Comparison(
        titles=(first.title, second.title),
        headlines=(first.headline, second.headline),
        digests=(first.content_sha256, second.content_sha256),
        checks={check: (_worst(first, check), _worst(second, check)) for check in asked},
        lines=lines,
        exit_code=1 if nothing or objections else 0,
    )


def _twin(report: Report | ReportTwin | Mapping[str, Any] | str | Path) -> ReportTwin:
    if isinstance(report, ReportTwin):
        return report
    if isinstance(report, str | Path):
        return read_report(report)
    try:
        return ReportTwin.model_validate(report.to_dict() if isinstance(report, Report) else report)
    except ValidationError as error:
        raise InputError(
            f"Expected a report or its JSON, which fits the schema: {error}"
        ) from error


def _answers(twin: ReportTwin) -> list[Twin]:
    return [*twin.findings, *twin.passed, *twin.not_assessable]


def _lines(first: ReportTwin, second: ReportTwin, several: bool) -> list[Line]:
    groups: dict[Key, tuple[list[Twin], list[Twin]]] = defaultdict(lambda: ([], []))
    asked: tuple[set[tuple[str, str]], set[tuple[str, str]]] = (set(), set())
    for side, twin in enumerate((first, second)):
        for answer in _answers(twin):
            model = answer.model if several else ""
            groups[model, answer.check, _question(answer)][side].append(answer)
            if not isinstance(answer, NotAssessableTwin):
                asked[side].add((model, answer.check))
    return [
        _line(key, (a, b), (key[:2] in asked[0], key[:2] in asked[1]))
        for key, (old, new) in groups.items()
        for a, b in _pairs(old, new)
    ]


def _question(answer: Twin) -> str:
    return answer.question if isinstance(answer, NotAssessableTwin) else answer.measure.name


def _pairs(old: Sequence[Twin], new: Sequence[Twin]) -> list[Pair]:
    """Answers about the same thing: by their title without its numbers, then in their order."""
    rest: dict[str, deque[Twin]] = defaultdict(deque)
    for answer in new:
        rest[_subject(answer)].append(answer)
    pairs: list[Pair] = []
    alone: list[Twin] = []
    for answer in old:
        if rest[_subject(answer)]:
            pairs.append((answer, rest[_subject(answer)].popleft()))
        else:
            alone.append(answer)
    left = [answer for answers in rest.values() for answer in answers]
    return [*pairs, *zip_longest(alone, left)]


def _subject(answer: Twin) -> str:
    title = answer.title if isinstance(answer, FindingTwin) else ""
    return re.sub(r"[0-9.]+", "#", title)


def _line(key: Key, pair: Pair, asked: tuple[bool, bool]) -> Line:
    a, b = pair
    model, check, question = key
    titles = [x.title for x in (b, a) if isinstance(x, FindingTwin)]
    return Line(
        check=check,
        model=model,
        question=question,
        change=_change(a, b, asked[1]),
        status=(_status(a, asked[0]), _status(b, asked[1])),
        measure=(_measured(a), _measured(b)),
        title=titles[0] if titles else "",
    )


def _change(a: Twin | None, b: Twin | None, asked: bool) -> Change:
    """What became of ``a``; ``asked`` says whether the second has answers of this check."""
    if isinstance(a, FindingTwin) and isinstance(b, FindingTwin):
        steps = SEVERITIES.index(b.severity) - SEVERITIES.index(a.severity)
        steps = steps or _better(a, b)
        return "better" if steps > 0 else "worse" if steps < 0 else "same"
    if isinstance(b, FindingTwin):
        return "new"
    if a is None or isinstance(a, NotAssessableTwin):
        return "same"
    if isinstance(b, NotAssessableTwin) or not (b or asked):
        return "open"
    return "gone" if isinstance(a, FindingTwin) else "same"


def _better(a: FindingTwin, b: FindingTwin) -> int:
    """1 where the second measure is nearer to what would be fine, -1 where it is farther."""
    old, new = a.measure.value, b.measure.value
    if old is None or new is None or old == new:
        return 0
    return 1 if (new < old) == b.measure.relation.startswith("<") else -1


def _status(answer: Twin | None, asked: bool = False) -> str:
    if answer is None:
        return NO_SUCH if asked else NOT_ASKED
    if isinstance(answer, FindingTwin):
        return answer.severity
    return PASSED if isinstance(answer, PassedTwin) else OPEN


def _measured(answer: Twin | None) -> Number | None:
    if answer is None or isinstance(answer, NotAssessableTwin):
        return None
    return Number(value=answer.measure.value, shown=answer.measure.shown)


def _rank(status: str) -> int:
    """From the worst; what passed, was not asked or not assessable is no objection."""
    order: tuple[Severity | str, ...] = SEVERITIES
    return order.index(status) if status in order else len(order)


def _worst(twin: ReportTwin, check: str) -> str:
    said = [_status(answer) for answer in _answers(twin) if answer.check == check]
    return min(said, key=lambda status: (_rank(status), status == OPEN), default=NOT_ASKED)
