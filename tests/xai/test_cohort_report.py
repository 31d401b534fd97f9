"""The report on a cohort: every number is there and nothing in a name becomes markup."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import xai.cohort_report
import xai.report.html
from graphs.survival import Outcome
from tests.xai.examples import HOSTILE
from tests.xai.graph_examples import some_cells, some_relevance
from tests.xai.test_report import Page
from xai.cohort_report import LISTED, cohort_report
from xai.errors import InputError
from xai.report import Finding, NotAssessable, Passed

SIZES = tuple((12,) for _ in range(24))


def some_outcome(relevance, sign=-1.0):
    """Survival that follows the log hazard exactly (sign -1) or against it."""
    hazard = relevance.log_hazard
    time = 100 + 50 * (np.argsort(np.argsort(sign * hazard)))
    return Outcome(relevance.graph.patient_names, time, np.ones(len(hazard)), "days")


def interaction(relevance):
    names = relevance.graph.patient_names
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "cell_size": np.repeat([10.0, 40.0], len(names)),
            "patient": names * 2,
            "parts": 3,
            "inside": rng.normal(size=2 * len(names)),
            "across": rng.normal(size=2 * len(names)),
            "agreement": rng.random(2 * len(names)),
        }
    )


def answers(report):
    return {answer.check: answer for answer in report.answers}


@pytest.fixture(scope="module", autouse=True)
def blank_pictures():
    """Drawing takes most of the time; the pictures have tests of their own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(xai.report.Picture, "png", lambda picture, dpi: f"{dpi}".encode())
        patched.setattr(xai.cohort_report, "MAPPED", 1)
        yield


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    found = some_relevance(grid=60, graph=some_cells(SIZES))
    report = cohort_report(
        found, some_outcome(found), interaction(found), subject="net", provenance={"a": "b"}
    )
    folder = tmp_path_factory.mktemp("report")
    html = report.to_html(folder / "report.html").read_text()
    return found, report, html, json.loads(report.to_json(folder / "report.json").read_text())


def test_everything_is_in_it(full):
    found, report, html, document = full
    assert report.headline.startswith("288 cells of 24 patients; log hazards from")
    assert report.exit_code == 0
    titles = [section["title"] for section in document["sections"]]
    assert titles == [
        "What the risk is made of", "Risk groups", "Phenotypes",
        "Tissue of the highest and the lowest risks", "How far cells act together",
    ]  # fmt: skip
    accounts = document["sections"][0]["tables"][1]
    order = np.argsort(-found.log_hazard)
    names = np.array(found.graph.patient_names)[order]
    assert accounts["index"] == [*names[:LISTED], *names[-LISTED:]]
    column = accounts["columns"].index("log hazard")
    shown = [row[column] for row in accounts["rows"]]
    np.testing.assert_allclose(shown, np.sort(found.log_hazard)[::-1][[*range(10), *range(14, 24)]])
    for row, values in zip(names[:LISTED], accounts["rows"], strict=False):
        p = found.graph.patient_names.index(row)
        cells = found.values[found.graph.patient_of_cell == p].sum()
        assert values[accounts["columns"].index("cells")] == pytest.approx(cells)
        assert sum(values) - values[column] == pytest.approx(values[column])
    maps = document["sections"][3]["pictures"]
    for patient in (names[0], names[-1]):
        assert sum(f"Patient {patient}," in picture["caption"] for picture in maps) == 2
    assert document["provenance"] == {"composite": "GraphGamma(0.25)", "a": "b"}
    page = Page(html)
    assert len(page.all("img")) == sum(len(s["pictures"]) for s in document["sections"])
    assert all(tag["src"].startswith("data:image/png;base64,") and tag["alt"] for tag in
               page.all("img"))  # fmt: skip
    assert not page.all("script")


def test_the_two_questions(full):
    _, report, _, _ = full
    found = answers(report)
    assert isinstance(found["conservation"], Passed)
    assert isinstance(found["concordance"], Passed)
    assert "Harrell's C is 1.000" in found["concordance"].note


def test_a_risk_that_orders_nobody_is_a_warning():
    found = some_relevance(graph=some_cells(SIZES))
    report = cohort_report(found, some_outcome(found, sign=1.0))
    assert isinstance(answers(report)["concordance"], Finding)
    assert report.headline.startswith("Look at the warnings")
    assert report.exit_code == 1


def test_relevance_that_does_not_add_up_is_critical():
    found = some_relevance()
    hazard = found.log_hazard + np.array([0, 0.1, 0])
    report = cohort_report(replace(found, log_hazard=hazard))
    (finding,) = report.findings
    assert finding.severity == "critical" and finding.samples == ["P1"]


def test_without_outcome_and_for_one_patient(tmp_path):
    found = some_relevance(graph=some_cells(((30, 20),)))
    report = cohort_report(found)
    assert isinstance(answers(report)["concordance"], NotAssessable)
    titles = [section.title for section in report.sections]
    assert titles == [
        "What the risk is made of", "Phenotypes", "Tissue of the highest and the lowest risks"
    ]  # fmt: skip
    assert "Accounts of every patient" in report.to_html(tmp_path / "a.html").read_text()


def test_nobody_died():
    found = some_relevance()
    outcome = replace(some_outcome(found), event=np.zeros(3))
    report = cohort_report(found, outcome)
    assert isinstance(answers(report)["concordance"], NotAssessable)


def test_outcomes_of_others_are_left_out_and_missing_ones_refused():
    found = some_relevance()
    more = Outcome(("X", "P2", "P0", "P1"), np.array([9.0, 3, 2, 1]), np.ones(4))
    cohort_report(found, more)
    with pytest.raises(InputError, match="'P1'"):
        cohort_report(found, more[:3])
    found.values[0] = np.nan
    with pytest.raises(InputError, match="finite"):
        cohort_report(found)


def test_names_are_shown_and_never_markup(tmp_path):
    graph = some_cells(((20,), (20,), (20,), (20,)))
    graph = replace(
        graph, phenotype_names=(HOSTILE, "$x$", "c"), image_names=(HOSTILE, "b$", "c", "d"),
        patients=(HOSTILE, "q$_", "r", "s"),
    )  # fmt: skip
    found = some_relevance(grid=80, graph=graph)
    found = replace(found, absorbed={HOSTILE: sum(found.absorbed.values())})
    report = cohort_report(
        found, some_outcome(found), interaction(found), title=HOSTILE, subject=HOSTILE,
        provenance={HOSTILE: HOSTILE},
    )  # fmt: skip
    plain = cohort_report(some_relevance(grid=80, graph=some_cells(((20,), (20,), (20,), (20,)))),
                          some_outcome(some_relevance(graph=some_cells(((20,),) * 4))))  # fmt: skip
    page = Page(report.to_html(tmp_path / "a.html").read_text())
    other = Page(plain.to_html(tmp_path / "b.html").read_text())
    assert HOSTILE in "".join(page.text)
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in other.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
