"""A report as JUnit XML, which Jenkins, GitLab and others show beside the tests of a build.

Every answer is a test case: a finding of severity warning or worse is a failure, a question without
an answer is skipped, and a finding of severity info is one that passed and has something to say.
Test cases are named after what was measured, which is the same from run to run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from xai.report.finding import Answer, Finding, NotAssessable

if TYPE_CHECKING:
    from xai.report.report import Report

ILLEGAL = re.compile("[^\t\n\r\u0020-\ufffd\U00010000-\U0010ffff]")
"""Characters XML 1.0 has no way to write."""

LONGEST = 1000
"""Characters of a name or a message."""


def junit(report: Report) -> str:
    """The XML, with declaration.

    Examples
    --------
    >>> from xai.report import Finding, Measure, Report
    >>> found = Finding("warning", "Half the rows are tied.", Measure("tied", 0.5, "<=", 0.1))
    >>> print(junit(Report("Audit", [found])))
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="Audit" tests="1" failures="1" errors="0" skipped="0" time="0.000">
    ...<failure message="Half the rows are tied." type="warning">tied: 0.5 (fine if &lt;= 0.1)...
    """
    asked = Counter(answer.check for answer in report.answers)
    times = {check: report.seconds.get(check, 0.0) / count for check, count in asked.items()}
    root = ElementTree.Element("testsuites")
    for subject in dict.fromkeys(answer.subject for answer in report.answers):
        answers = [answer for answer in report.answers if answer.subject == subject]
        suite = ElementTree.SubElement(root, "testsuite")
        _count(suite, subject or report.title, answers, times)
        used: Counter[tuple[str, str]] = Counter()
        for answer in answers:
            _case(suite, answer, times[answer.check], used)
    _count(root, report.title, report.answers, times)
    ElementTree.indent(root, " ")
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _count(
    element: ElementTree.Element,
    name: str,
    answers: Sequence[Answer],
    times: dict[str, float],
) -> None:
    element.set("name", clean(name))
    element.set("tests", str(len(answers)))
    element.set("failures", str(sum(_fails(answer) for answer in answers)))
    element.set("errors", "0")
    skipped = sum(isinstance(answer, NotAssessable) for answer in answers)
    element.set("skipped", str(skipped))
    element.set("time", f"{sum(times[answer.check] for answer in answers):.3f}")


def _case(
    suite: ElementTree.Element, answer: Answer, seconds: float, used: Counter[tuple[str, str]]
) -> None:
    # Readers take dots for the borders of packages.
    place = ".".join(part.replace(".", "_") for part in (answer.subject, answer.check) if part)
    name = answer.question if isinstance(answer, NotAssessable) else answer.measure.name
    used[place, name] += 1
    if used[place, name] > 1:
        name = f"{name} ({used[place, name]})"
    case = ElementTree.SubElement(suite, "testcase")
    case.set("classname", clean(place or "xai"))
    case.set("name", clean(name))
    case.set("time", f"{seconds:.3f}")
    if isinstance(answer, NotAssessable):
        ElementTree.SubElement(case, "skipped").set("message", clean(answer.reason))
    elif isinstance(answer, Finding) and _fails(answer):
        failure = ElementTree.SubElement(case, "failure")
        failure.set("message", clean(answer.title))
        failure.set("type", answer.severity)
        failure.text = clean(_story(answer), None)
    elif isinstance(answer, Finding):
        ElementTree.SubElement(case, "system-out").text = clean(_story(answer), None)
    else:
        said = f"{answer.measure}\n{answer.note}".strip()
        ElementTree.SubElement(case, "system-out").text = clean(said, None)


def _fails(answer: Answer) -> bool:
    return isinstance(answer, Finding) and answer.severity != "info"


def _story(finding: Finding) -> str:
    test = finding.counterfactual
    parts = [
        str(finding.measure),
        finding.title,
        finding.explanation,
        "" if test is None else f"Tested: {test.tested}",
        finding.advice and f"What to do: {finding.advice}",
        finding.command and f"Ask this again: {finding.command}",
    ]
    return "\n".join(filter(None, parts))


def clean(text: str, longest: int | None = LONGEST) -> str:
    r"""Text as XML can hold it, without its end where it is long.

    Examples
    --------
    >>> clean("a\x1b[31mb\x00"), clean("abcdef", 4)
    ('a�[31mb�', 'abc…')
    """
    legal = ILLEGAL.sub("\ufffd", text.encode("utf-8", "replace").decode())
    return legal if longest is None or len(legal) <= longest else f"{legal[: longest - 1]}…"
