"""Two reports side by side: what is new, worse, open, gone, better; and the exit code."""

import json

import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine

from tests.xai.examples import HOSTILE
from tests.xai.test_report import Page, hostile_report
from xai.audit import Audit
from xai.errors import FileFormatError, InputError
from xai.printout import comparison_text
from xai.report import Finding, Measure, NotAssessable, Passed, Report, compare
from xai.report.html import comparison_page


def found(severity="warning", value=2.0, title="A mark.", relation="<", **who):
    return Finding(severity, title, Measure("shift", value, relation, 1.0), **{"check": "c", **who})


def fine(value=0.5, name="shift", **who):
    return Passed(Measure(name, value, "<", 1.0), **{"check": "c", **who})


OPEN = NotAssessable("Is there a mark?", "Too few.", check="c")
NONE = ()


@pytest.mark.parametrize(
    ("first", "second", "change", "code"),
    [
        (fine(), found(), "new", 1),
        (fine(), found("critical"), "new", 1),
        (fine(), found("info"), "new", 0),
        (NONE, found(), "new", 1),
        (found(), fine(), "gone", 0),
        (found(), fine(0.0, "marks found"), "gone", 0),
        (found(), NONE, "open", 0),
        (fine(), NONE, "open", 0),
        (found("warning"), found("critical"), "worse", 1),
        (found("info"), found("warning"), "worse", 1),
        (found("critical"), found("warning"), "better", 0),
        (found(value=2.0), found(value=3.0), "worse", 0),
        (found(value=3.0), found(value=2.0), "better", 0),
        (found(value=0.2, relation=">"), found(value=0.4, relation=">"), "better", 0),
        (found(value=0.4, relation=">="), found(value=0.2, relation=">="), "worse", 0),
        (found(), found(title="A mark."), "same", 0),
        (fine(0.5), fine(0.7), "same", 0),
        (NONE, fine(), "same", 0),
    ],
)
def test_changes(first, second, change, code):
    reports = [Report("r", [answer] if answer != NONE else []) for answer in (first, second)]
    both = compare(*reports)
    assert change in [line.change for line in both.lines]
    assert {line.change for line in both.lines} <= {change, "same"}
    assert both.exit_code == code


def test_what_cannot_be_assessed_any_more_is_open_and_no_pass():
    both = compare(Report("a", [found()]), Report("b", [OPEN, fine(name="other", check="d")]))
    (line,) = both.changed
    assert line.change == "open" and line.status == ("warning", "not asked")
    assert both.exit_code == 0
    assert compare(Report("a", [found()]), Report("b", [OPEN])).exit_code == 1  # nothing assessed


def test_findings_of_one_measure_are_told_apart_by_their_titles():
    first = [found(title="Mark 1 at the top in 30 rows."), found(title="Mark 2 below in 10 rows.")]
    second = [found(title="Mark 7 below in 12 rows.", value=1.5), found(title="New at the left.")]
    both = compare(Report("a", first), Report("b", second))
    lines = {line.title: line for line in both.lines}
    assert lines["Mark 7 below in 12 rows."].change == "better"
    assert lines["Mark 7 below in 12 rows."].measure[0].value == 2.0
    assert lines["New at the left."].status == ("warning", "warning")  # in their order
    more = compare(Report("a", first[:1]), Report("b", [*first, *second]))
    assert [line.change for line in more.lines].count("new") == 3
    assert more.exit_code == 1


def test_one_model_may_have_another_name_and_several_are_kept_apart():
    first, second = Report("a", [found(subject="k")]), Report("b", [found(subject="repaired")])
    assert compare(first, second).changed == []
    several = Report("b", [found(subject="k"), found(subject="repaired")])
    both = compare(first, several)
    assert [(line.model, line.change) for line in both.lines] == [
        ("repaired", "new"), ("k", "same"),
    ]  # fmt: skip


def test_the_worst_of_each_check_stands_in_a_table():
    first = Report("a", [found("critical"), fine(check="d")])
    second = Report("b", [found("info"), OPEN])
    assert compare(first, second).checks == {
        "c": ("critical", "info"), "d": ("passed", "not asked"),
    }  # fmt: skip


def test_files_dicts_and_reports_compare_alike(tmp_path):
    x = load_wine().data
    reports = [
        Audit(KMeans(k, n_init=1, random_state=0).fit(x), x, progress=False).run() for k in (3, 5)
    ]
    paths = [report.to_json(tmp_path / f"{i}.json") for i, report in enumerate(reports)]
    expected = compare(*reports)
    assert compare(*paths) == expected
    assert compare(*map(str, paths)) == expected
    assert compare(*(report.to_dict() for report in reports)) == expected
    twin = json.loads(expected.to_json(tmp_path / "both.json").read_text())
    assert twin == expected.to_dict() and twin["format"] == "unsupervised-xai comparison"
    same = compare(reports[0], reports[0])
    assert same.exit_code == 0 and same.changed == []


def test_other_things_are_refused(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("{}")
    with pytest.raises(FileFormatError, match="does not fit the schema"):
        compare(path, path)
    with pytest.raises(InputError, match="Expected a report or its JSON"):
        compare({}, {})


def test_markup_stays_text(tmp_path):
    made = hostile_report()
    both = compare(Report("first"), made)
    page = Page(both.to_html(tmp_path / "both.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert sum(HOSTILE in text for text in page.text) >= 5
    assert page.all("h1")


def test_every_number_of_the_page_is_in_its_json_and_the_text_has_the_changes():
    both = compare(Report("a", [fine(0.125)]), Report("b", [found(value=3.75)]))
    page = comparison_page(both)
    for shown in ("0.125", "3.75"):
        assert shown in page and shown in json.dumps(both.to_dict())
    assert comparison_text(both).splitlines() == [
        "The second is worse: 1 new.",
        "check  first   second",
        "c      passed  warning",
        "new       A mark.",
        "          shift: 0.125 (passed), then 3.75 (warning)",
    ]
