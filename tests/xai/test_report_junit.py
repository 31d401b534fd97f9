"""JUnit XML: what its readers count, and that nothing in a name can break it."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xai.examples import HOSTILE
from tests.xai.test_report import FINE, hostile_report, report
from xai.report import Finding, Measure, NotAssessable, Passed, Report
from xai.report.junit import LONGEST, clean, junit

RESULTS = {"failure", "skipped", "error", "system-out"}


def parsed(made):
    """The XML, checked for what Jenkins, GitLab and GitHub's readers rely on."""
    text = junit(made)
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    cases = root.findall("testsuite/testcase")
    for element in [root, *root.findall("testsuite")]:
        mine = element.findall(".//testcase")
        assert int(element.get("tests")) == len(mine)
        for name, tag in (("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
            assert int(element.get(name)) == sum(case.find(tag) is not None for case in mine)
        assert float(element.get("time")) >= 0 and element.get("name") is not None
    names = [(case.get("classname"), case.get("name")) for case in cases]
    assert len(set(names)) == len(names)
    for case in cases:
        assert float(case.get("time")) >= 0 and case.get("classname")
        assert len(case) == 1 and case[0].tag in RESULTS
    assert len(cases) == len(made.answers)
    return root, cases


def test_answers_become_test_cases():
    root, (passed, failed, skipped) = parsed(report())
    assert passed.attrib["classname"] == "KMeans.collapse"
    assert passed.attrib["name"] == "fine measure"
    assert "fine measure: 0.25 (fine if < 0.5)" in passed.find("system-out").text
    failure = failed.find("failure")
    assert failure.get("type") == "warning"
    assert failure.get("message") == "Something at 12.5% of the rows."
    assert "What to do: Advice number 3." in failure.text
    assert skipped.find("skipped").get("message") == "Because 13."
    assert root.get("name") == "Audit 42"


def test_a_note_passes_and_has_something_to_say():
    _, (case,) = parsed(Report("r", [Finding("info", "A note.", FINE, check="c")]))
    assert case.find("failure") is None and "A note." in case.find("system-out").text


def test_models_are_suites_and_the_same_measure_twice_are_two_cases():
    answers = [
        Finding("critical", f"Mark {i}.", FINE, check="places", subject=subject)
        for subject in ("v1.2", "b")
        for i in range(3)
    ]
    root, cases = parsed(Report("r", answers))
    assert [suite.get("name") for suite in root] == ["v1.2", "b"]
    assert [case.get("name") for case in cases[:3]] == [
        "fine measure", "fine measure (2)", "fine measure (3)",
    ]  # fmt: skip
    assert cases[0].get("classname") == "v1_2.places"


def test_times_of_a_check_are_spread_over_its_answers():
    answers = [Passed(FINE, check="a"), Passed(FINE, check="a"), Passed(FINE, check="b")]
    root, cases = parsed(Report("r", answers, seconds={"a": 4.0, "b": 1.5}))
    assert [case.get("time") for case in cases] == ["2.000", "2.000", "1.500"]
    assert root.get("time") == "5.500"


def test_markup_stays_text():
    root, cases = parsed(hostile_report())
    assert root.find(".//script") is None
    assert any(
        HOSTILE in case.find("failure").text for case in cases if case.find("failure") is not None
    )


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=40))
def test_whatever_a_name_holds_the_file_can_be_parsed(name):
    answers = [
        Finding("critical", name, Measure(name, 1.0, "<", 0.5), name, check=name, subject=name),
        NotAssessable(name, name, check=name, subject=name),
    ]
    _, cases = parsed(Report(name, answers))
    assert cases[0].find("failure").get("message") == clean(name)


def test_long_names_are_cut():
    _, (case,) = parsed(Report("r", [NotAssessable("q" * 10**6, "r" * 10**6)]))
    assert len(case.get("name")) == LONGEST and case.get("name").endswith("…")


@pytest.mark.parametrize(
    "text", ["plain", "tab\tand\nline", "\u202eabc", "\U0001f600", "\ufffd", "a\u0085b"]
)
def test_legal_text_is_kept(text):
    _, (case,) = parsed(Report("r", [NotAssessable(text, text)]))
    assert case.get("name") == text and case.find("skipped").get("message") == text
