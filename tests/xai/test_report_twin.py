"""The published schema: it is that of this version, every report fits it, nothing else is read."""

import hashlib
import json

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine

from tests.xai.graph_examples import some_cells, some_relevance
from tests.xai.test_report import hostile_report, report
from xai.audit import Audit
from xai.cohort_report import cohort_report
from xai.errors import FileFormatError
from xai.report import BeforeAfter, Counterfactual, Finding, Measure, Report, read_report
from xai.report.document import FORMAT, VERSION
from xai.report.twin import MAX_BYTES, SCHEMA, report_schema, written_schema

WINE = load_wine().data


def audited():
    model = KMeans(3, n_init=1, random_state=0).fit(WINE)
    return Audit(model, WINE, groups=np.arange(178) % 2, progress=False).run()


def rich():
    """A finding with pairs and numbers that JSON does not have."""
    pairs = [BeforeAfter("share", 0.1, np.inf, None), BeforeAfter("n", 1, 2, 3)]
    test = Counterfactual("Tested.", {"nothing": np.nan}, pairs)
    return Report("r", [Finding("info", "t", Measure("m", 1, "<", np.inf), counterfactual=test)])


def test_the_published_file_is_the_schema_of_this_version():
    assert SCHEMA.read_text() == written_schema()
    assert report_schema()["properties"]["version"]["const"] == VERSION
    assert report_schema()["properties"]["format"]["const"] == FORMAT


@pytest.mark.parametrize("make", [report, hostile_report, audited, rich, lambda: Report("none")])
def test_every_report_fits_it(make, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    made = make()
    twin = json.loads(made.to_json(tmp_path / "r.json").read_text())
    jsonschema.Draft202012Validator.check_schema(report_schema())
    jsonschema.Draft202012Validator(report_schema()).validate(twin)
    read = read_report(tmp_path / "r.json")
    assert json.loads(read.model_dump_json()) == twin


def test_the_cohort_s_report_fits_it():
    jsonschema = pytest.importorskip("jsonschema")
    found = some_relevance(graph=some_cells(((12,), (9,))))
    jsonschema.validate(cohort_report(found).to_dict(), report_schema())


def test_the_digest_is_of_all_but_the_times(tmp_path):
    made = audited()
    twin = json.loads(made.to_json(tmp_path / "r.json").read_text())
    assert twin.pop("content_sha256") == made.digest
    assert [time["check"] for time in twin.pop("times")][:2] == ["conservation", "coverage"]
    text = json.dumps(twin, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == made.digest


def test_names_that_are_no_text_are_written_as_question_marks(tmp_path):
    found = Finding("info", "a \udcff name", Measure("m", 1, "<", 0), samples=("\udc80.png",))
    made = Report("r", [found])
    read = read_report(made.to_json(tmp_path / "r.json"))
    assert read.findings[0].title == "a ? name" and read.findings[0].samples == ["?.png"]
    assert read.content_sha256 == made.digest
    assert "a ? name" in made.to_html(tmp_path / "r.html").read_text()
    assert "a ? name" in made.to_junit(tmp_path / "r.xml").read_text()


def changed(**changes):
    return json.dumps({**report().to_dict(), **changes})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "does not fit the schema"),
        ("[]", "does not fit the schema"),
        ("[" * 100_000, "does not fit the schema"),
        ('{"format": "other"}', "format: "),
        (changed(version=1), "version 2 of its format, and .* is of another one"),
        (changed(more=1), "more: Extra inputs"),
        (changed(findings=[{}]), "findings.0.check: Field required"),
        (changed(findings=[1] * 100_000), "findings.0: "),
        (changed(exit_code=7), "exit_code: "),
        (changed(content_sha256="x"), "content_sha256: "),
        (changed(title=None), "title: "),
    ],
    ids=lambda value: value[:20],
)
def test_other_json_is_refused(tmp_path, text, complaint):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=complaint) as caught:
        read_report(path)
    assert len(str(caught.value)) < 600


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "r.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(FileFormatError, match=r"at most 20 MB"):
        read_report(path)
