"""Reports: the HTML is self-contained and escaped, and its JSON twin has every number."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine

import xai.report.html
from tests.xai.examples import HOSTILE
from xai.audit import Audit
from xai.errors import InputError
from xai.report import (
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Picture,
    Report,
    Section,
    Table,
    shown,
)

FINE = Measure("fine measure", 0.25, "<", 0.5)


class Page(HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.text, self._hidden = [], [], False
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == "style"

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.text.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def picture(seed=0, **options):
    figure = Figure(figsize=options.get("figsize", (3, 2)))
    figure.subplots().plot(np.random.default_rng(seed).uniform(size=5))
    return Picture(figure, f"caption {seed}", f"words for picture {seed}")


def report(**changes):
    finding = Finding(
        "warning",
        "Something at 12.5% of the rows.",
        Measure("share", 0.125, "<=", 0.1),
        "An explanation with the number 7.25.",
        "Advice number 3.",
        Counterfactual("Tested in 31 rows.", {"moved": -1.23456789, "nothing": math.nan}),
        (picture(),),
        tuple(f"row {i}" for i in range(40)),
        check="placement",
        subject="KMeans",
    )
    frame = pd.DataFrame(
        {"a": [0.123456789, np.nan], "b": ["text 17", 2]}, index=pd.Index(["x1", "x2"], name="i")
    )
    parts = {
        "title": "Audit 42",
        "answers": [
            Passed(FINE, "A note with 99.", check="collapse", subject="KMeans"),
            finding,
            NotAssessable("Why 11?", "Because 13.", check="placement", subject="KMeans"),
        ],
        "sections": [
            Section("Section 5", "Text 6.\n\nMore 8.", [picture(1)], [Table(frame, "T 9")])
        ],
        "provenance": {"seed": "271828"},
        "introduction": "Introduction of 314 rows.",
    }
    return Report(**{**parts, **changes})


def test_html_is_self_contained(tmp_path):
    document = report().to_html(tmp_path / "r.html").read_text()
    page = Page(document)
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not {"href", "onclick", "onload", "action"} & set(attributes), tag
        for name, value in attributes.items():
            if name in ("src", "srcset", "data", "poster"):
                assert value.startswith("data:image/png;base64,")
    assert "url(" not in document and "@import" not in document
    images = page.all("img")
    assert [image["alt"] for image in images] == ["words for picture 0", "words for picture 1"]
    assert document.startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in page.tags
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy and "script" not in policy


def hostile_report():
    everywhere = HOSTILE + ' " onerror="alert(2)'
    finding = Finding(
        "critical",
        everywhere,
        Measure(everywhere, 1.0, "<", 0.5),
        everywhere,
        everywhere,
        Counterfactual(everywhere, {everywhere: 1.0}),
        (Picture(Figure(), everywhere, everywhere),),
        (everywhere,),
        check=everywhere,
        subject=everywhere,
    )
    frame = pd.DataFrame({everywhere: [everywhere]}, index=pd.Index([everywhere], name=everywhere))
    return Report(
        everywhere,
        [
            finding,
            Passed(Measure(everywhere, 0, "<", 1), everywhere, check=everywhere),
            NotAssessable(everywhere, everywhere, check=everywhere),
        ],
        [Section(everywhere, everywhere, (), [Table(frame, everywhere)])],
        {everywhere: everywhere},
        everywhere,
    )


def test_whatever_it_shows_is_escaped(tmp_path):
    document = hostile_report().to_html(tmp_path / "r.html").read_text()
    page = Page(document)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert sum(HOSTILE in text for text in page.text) >= 15


def test_every_number_of_the_html_is_in_the_json():
    number = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
    wine = load_wine(as_frame=True).data
    audited = Audit(KMeans(3, n_init=1, random_state=0).fit(wine.to_numpy()), wine).run()
    for made in (report(), audited):
        text = " ".join(Page(xai.report.html.page(made)).text)
        twin = json.dumps(made.to_dict())
        numbers = set(number.findall(text))
        assert len(numbers) > 10
        known = set(number.findall(twin))
        assert numbers - known - {"16"} == set()  # "and 16 more": 40 rows, 24 shown


def test_json_is_strict_and_unrounded(tmp_path):
    path = report().to_json(tmp_path / "r.json")
    document = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    numbers = document["findings"][0]["counterfactual"]["numbers"]
    assert numbers["moved"] == {"value": -1.23456789, "shown": "-1.235"}
    assert numbers["nothing"] == {"value": None, "shown": "none"}
    table = document["sections"][0]["tables"][0]
    assert table["rows"] == [[0.123456789, "text 17"], [None, 2]]
    assert table["index"] == ["x1", "x2"] and table["index_name"] == "i"
    assert len(document["findings"][0]["samples"]) == 40
    assert document["exit_code"] == 1 and document["severity"] == "warning"


def test_too_large_a_report_is_drawn_more_coarsely_then_refused(monkeypatch):
    big = report(sections=[Section("s", "", [picture(i, figsize=(8, 6)) for i in range(4)])])
    full = len(xai.report.html.page(big).encode())
    monkeypatch.setattr(xai.report.html, "MAX_BYTES", full)
    coarser = xai.report.html.page(big)
    assert len(coarser.encode()) < full
    assert coarser.count("<img") == 5
    monkeypatch.setattr(xai.report.html, "MAX_BYTES", 20_000)
    with pytest.raises(InputError, match=r"5 pictures at 45 dots per inch"):
        xai.report.html.page(big)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    report().to_html(path)
    before = path.read_bytes()
    monkeypatch.setattr(xai.report.html, "MAX_BYTES", 10)
    with pytest.raises(InputError):
        report().to_html(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize(
    ("severities", "code", "headline"),
    [
        ([], 0, "No objection."),
        (["info"], 0, "No objection."),
        (["info", "warning"], 1, "Look at the warnings before relying on M."),
        (
            ["warning", "critical", "info"],
            1,
            "Do not rely on M before the critical findings are settled.",
        ),
    ],
)
def test_verdict_and_exit_code(severities, code, headline):
    answers = [Passed(FINE, subject="M", check="c")]
    answers += [Finding(s, f"a {s}", FINE, subject="M", check="c") for s in severities]
    made = Report("t", answers)
    assert made.exit_code == code and made.headline == headline
    ranked = [f.severity for f in made.findings]
    assert ranked == sorted(severities, key=["critical", "warning", "info"].index)
    assert made.overview.loc["M", "c"] == (ranked[0] if ranked else "passed")
    assert made.reasons == tuple(f"M: a {s}" for s in ranked if s != "info")


def test_nothing_assessed_is_not_fine():
    made = Report("t", [NotAssessable("q", "r", check="c", subject="M")])
    assert made.exit_code == 1 and made.headline == "Nothing could be assessed."
    assert made.overview.loc["M", "c"] == "not assessable"
    assert made.tally == "1 question not assessable."
    assert Report("only sections").exit_code == 0


def test_a_pass_with_an_open_question_says_so():
    answers = [Passed(FINE, check="c"), NotAssessable("q", "r", check="c")]
    assert Report("t", answers).overview.iloc[0, 0] == "passed, 1 open"
    assert "Not assessable" in xai.report.html.page(Report("t", answers))


def test_the_same_reason_is_given_once_for_all_models():
    answers = [Finding("critical", "A mark.", FINE, subject=s) for s in ("b", "a", "b")]
    made = Report("t", answers)
    assert made.reasons == ("b, a: A mark.",)
    assert made.headline.startswith("Do not rely on b and a before")


def test_an_unknown_severity_is_refused():
    with pytest.raises(InputError, match="'critical', 'warning', 'info'"):
        Finding("fatal", "x", FINE)


@pytest.mark.parametrize(
    ("relation", "below", "at", "above"),
    [
        ("<=", True, True, False),
        ("<", True, False, False),
        (">=", False, True, True),
        (">", False, False, True),
    ],
)
def test_measures_hold_or_not(relation, below, at, above):
    holds = [Measure("m", value, relation, 1.0).holds for value in (0.5, 1.0, 1.5)]
    assert holds == [below, at, above]
    assert not Measure("m", math.nan, relation, 1.0).holds


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-16, "1e-16"), (-0.0, "-0"), (True, "True"), (123456.0, "1.235e+05"), ("a", "a")],
)
def test_shown(value, text):
    assert shown(value) == text


def test_in_a_notebook_it_is_framed_and_without_script():
    page = Page(hostile_report()._repr_html_())
    ((tag, attributes),) = page.tags
    assert tag == "iframe" and "sandbox" in attributes
    inner = Page(attributes["srcdoc"])
    assert "script" not in {tag for tag, _ in inner.tags}
    assert inner.all("h1")


def test_repr_is_one_line():
    assert repr(report()) == (
        "<Report 'Audit 42': Look at the warnings before relying on KMeans. "
        "1 warning finding, 1 measure passed, 1 question not assessable.>"
    )
