"""The demonstration finds the mark without being told, and objects to nothing without it."""

import json

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from xai.demo import CLASSES, MARKED_CLASS, models, run_demo, scene
from xai.explainer import explain
from xai.report.html import MAX_BYTES

SECTIONS = [
    "The same pictures, five strategies",
    "How alike are the strategies?",
    "With the answer in hand",
    "Control: without the mark",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "made" / "for it"
    return run_demo(out, progress=False), out


@pytest.fixture(scope="module")
def pictures():
    return scene()


def test_the_scene_is_what_the_introduction_says(pictures, demo):
    assert set(pictures.names) == set(CLASSES)
    assert set(pictures.names[pictures.has_mark]) == {MARKED_CLASS}
    differs = (pictures.clean != pictures.marked).any((1, 2))
    np.testing.assert_array_equal(differs, pictures.has_mark)
    assert not (pictures.clean != pictures.marked)[:, ~pictures.place].any()
    text = demo[0].introduction
    assert f"{pictures.has_mark.sum()} of the {len(pictures.names)} pictures" in text
    assert f"fitted on {pictures.fitted.sum()} pictures" in text


def test_every_model_is_found_to_rely_on_the_mark(demo, pictures):
    report, _ = demo
    held = pictures.has_mark[~pictures.fitted]
    rows = {f"row {i}" for i in np.flatnonzero(held)}
    found = {finding.subject: finding for finding in report.findings if finding.severity != "info"}
    assert set(found) == set(models())
    for finding in found.values():
        assert finding.check == "placement"
        assert set(finding.samples) == rows
        assert "rows 23 to 26, columns 23 to 26" in finding.title
    assert report.exit_code == 1


def test_the_same_audit_objects_to_nothing_without_the_mark(demo):
    section = demo[0].sections[3]
    assert section.text.endswith("It objects to none of them.")
    frame = section.tables[0].frame
    assert list(frame.index) == list(models())
    assert (frame["placement"] == "passed").all() and (frame["findings"] == "none").all()


def test_sections_and_files(demo):
    report, out = demo
    assert [section.title for section in report.sections] == SECTIONS
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.json"]
    assert (out / "report.html").stat().st_size < MAX_BYTES
    twin = json.loads((out / "report.json").read_text())
    assert twin == json.loads(json.dumps(report.to_dict()))


def test_similarities_and_shares_against_scikit_learn(demo, pictures):
    """Two of the models fitted and explained again, compared with another library's cosine."""
    report, _ = demo
    flat = pictures.marked.reshape(len(pictures.marked), -1)
    held = flat[~pictures.fitted]
    maps = {}
    for name in ("one-class SVM", "PCA"):
        model = models()[name].fit(flat[pictures.fitted])
        maps[name] = np.abs(explain(model, held, progress=False).values)
    expected = np.mean(
        [cosine_similarity(a[None], b[None])[0, 0] for a, b in zip(*maps.values(), strict=True)]
    )
    cosine = report.sections[1].tables[0].frame
    assert cosine.loc["one-class SVM", "PCA"] == pytest.approx(expected)
    np.testing.assert_allclose(np.diag(cosine), 1)
    marked = pictures.has_mark[~pictures.fitted]
    magnitude = maps["PCA"][marked]
    share = (magnitude[:, pictures.place.ravel()].sum(1) / magnitude.sum(1)).mean()
    table = report.sections[2].tables[0].frame
    assert table.loc["PCA", "marked dresses"] == pytest.approx(share)
