"""Audits as a whole: adding a check, what is refused, and that nothing stays unsaid."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader, TensorDataset

import xai
from neuralize import UnfittedModelError, UnsupportedModelError, neuralize
from xai.audit import CHECKS, Audit, AuditContext, Check
from xai.errors import InputError
from xai.report import Finding, Measure, NotAssessable, Passed

WINE = load_wine(as_frame=True)
MODEL = KMeans(3, n_init=1, random_state=0).fit(WINE.data.to_numpy())


# docs/audit.md shows this class; keep the two alike.
class Lonely(Check):
    name = "lonely rows"
    question = "Is the evidence of any row far from that of all others?"

    def run(self, audit):
        far = np.abs(audit.evidence - np.median(audit.evidence)) / audit.spread
        rows = np.flatnonzero(far > 6)
        share = Measure("rows beyond six standard deviations", len(rows) / len(audit), "<=", 0.01)
        if share.holds:
            yield Passed(share)
        else:
            yield Finding("warning", "Some rows stand alone.", share, samples=audit.names(rows))


def test_a_check_of_ones_own_runs_beside_the_others():
    report = Audit(MODEL, WINE.data, checks=["collapse", Lonely()]).run()
    assert {p.check for p in report.passed} == {"collapse", "lonely rows"}
    assert {p.subject for p in report.passed} == {"KMeans"}
    x = np.concatenate([WINE.data.to_numpy(), np.full((4, 13), 1e5)])
    report = Audit(MODEL, x, checks=[Lonely()], name="wines").run()
    (finding,) = report.findings
    assert finding.samples == ("row 178", "row 179", "row 180", "row 181")
    assert (finding.check, finding.subject) == ("lonely rows", "wines")
    assert report.exit_code == 1


def test_the_ten_lines_of_the_documentation_are_these():
    import inspect
    from pathlib import Path

    page = Path(__file__).parents[2] / "docs" / "audit.md"
    source = inspect.getsource(Lonely)
    assert source in page.read_text()
    assert len(source.split("def run", 1)[1].strip().splitlines()) <= 10


def test_all_checks_are_asked_and_answer():
    report = Audit(MODEL, WINE.data, labels=WINE.target).run()
    asked = [check.name for check in CHECKS if not check.needs]
    assert list(report.overview.columns) == asked
    assert list(report.overview.index) == ["KMeans"]
    assert report.provenance["checks"] == ", ".join(asked)
    assert report.provenance["input_sha256"]
    assert "178 rows of shape 13" in report.introduction


def test_a_silent_check_is_an_error():
    class Silent(Check):
        name, question = "silent", "Does it say something?"

        def run(self, audit):
            yield from ()

    with pytest.raises(InputError, match="said nothing"):
        Audit(MODEL, WINE.data, checks=[Silent()]).run()


def test_what_a_model_does_not_support_is_not_assessable_and_errors_are_errors():
    class Decides(Check):
        name, question = "decides", "Does it decide?"

        def run(self, audit):
            audit.net.predict(torch.as_tensor(audit.flat))
            yield NotAssessable(self.question, "never reached")

    class Broken(Check):
        name, question = "broken", "Does it break?"

        def run(self, audit):
            yield Passed(Measure("x", 1 / 0, "<", 1))

    x = WINE.data.to_numpy()
    pca = PCA(2).fit(x)
    (answer,) = Audit(pca, x, checks=[Decides()]).run().not_assessable
    assert "has no threshold" in answer.reason and answer.question == "Does it decide?"
    with pytest.raises(ZeroDivisionError):
        Audit(pca, x, checks=[Broken()]).run()


def test_frames_tensors_arrays_and_loaders_are_the_same_data():
    x = WINE.data.to_numpy()
    rows = torch.tensor(x)
    loader = DataLoader(TensorDataset(rows, torch.zeros(len(x))), batch_size=50)
    reports = [Audit(MODEL, d).run() for d in (x, rows, WINE.data, loader)]
    twins = []
    for report in reports:
        twin = report.to_dict()
        said = {name: twin[name] for name in ("findings", "passed", "not_assessable", "tally")}
        # Only the frame knows its columns by name.
        twins.append(json.dumps(said).replace("proline", "feature 12").replace("hue", "feature 10"))
    assert len(set(twins)) == 1


def test_names_of_a_frame_are_kept():
    context = Audit(MODEL, WINE.data).context
    assert context.feature_name(0) == "alcohol"
    frame = WINE.data.rename(index=lambda i: f"wine {i}")
    assert Audit(MODEL, frame).context.names(np.array([2])) == ("wine 2",)
    assert Audit(MODEL, WINE.data.to_numpy()).context.feature_name(3) == "feature 3"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"labels": [1, 2]}, "Expected 178 labels"),
        ({"groups": np.zeros((178, 2))}, "Expected 178 groups"),
        ({"checks": ["placement", "unknown"]}, "names of conservation, coverage, collapse"),
        ({"checks": []}, "Expected a list of checks"),
        ({"checks": "collapse"}, "Expected a list of checks"),
        ({"checks": [Lonely]}, "Expected checks as objects"),
    ],
)
def test_wrong_use_is_refused(options, complaint):
    with pytest.raises(InputError, match=complaint):
        Audit(MODEL, WINE.data, **options)


@pytest.mark.parametrize(
    "data", [np.full((3, 13), np.nan), np.zeros((0, 13)), np.zeros((3, 5)), []]
)
def test_data_that_do_not_fit_are_refused(data):
    with pytest.raises(InputError):
        Audit(MODEL, data)


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(UnfittedModelError):
        Audit(KMeans(3), WINE.data)
    with pytest.raises(UnsupportedModelError):
        Audit(object(), WINE.data)


def test_nothing_is_changed_by_an_audit():
    x = WINE.data.to_numpy()
    kept, centres = x.copy(), MODEL.cluster_centers_.copy()
    Audit(MODEL, x).run()
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(MODEL.cluster_centers_, centres)


def test_rescoring_says_what_the_model_says():
    x = WINE.data.to_numpy()
    context = AuditContext(neuralize(MODEL), x)
    rows = np.array([3, 50, 170])
    altered = x[rows] + np.array([[0.0] * 12 + [300.0]])
    answer = context.rescore(rows, altered)
    np.testing.assert_array_equal(answer.changed, MODEL.predict(altered) != MODEL.predict(x[rows]))
    assert answer.changed.any() and not answer.changed.all()

    def gap(points, own):
        d = ((points[:, None] - MODEL.cluster_centers_) ** 2).sum(2)
        others = np.where(np.eye(3, dtype=bool)[own], np.inf, d).min(1)
        return others - d[np.arange(len(d)), own]

    own = MODEL.predict(x[rows])
    np.testing.assert_allclose(answer.shift, gap(altered, own) - gap(x[rows], own), rtol=1e-9)


def test_a_model_that_scores_rows_against_their_batch_sees_the_whole_batch():
    pytest.importorskip("pyod")
    from pyod.models.ecod import ECOD

    x = WINE.data.to_numpy().copy()  # pandas hands out a view that torch may not write to
    net = neuralize(ECOD().fit(x[:100]))
    if net.row_independent:
        pytest.skip("this detector scores every row by itself")
    context = AuditContext(net, x)
    rows = np.array([5, 60])
    answer = context.rescore(rows, x[rows] * 1.5)
    batch = x.copy()
    batch[rows] *= 1.5
    before, after = (net(torch.as_tensor(b)).numpy() for b in (x, batch))
    np.testing.assert_allclose(answer.shift, (after - before)[rows], atol=1e-12)


def test_composition_counts_labels_groups_and_decisions():
    x = WINE.data.to_numpy()
    groups = np.where(np.arange(178) < 89, "A", "B")
    context = Audit(MODEL, x, labels=WINE.target, groups=groups).context
    rows = np.arange(59)
    text = context.composition(rows)
    assert text.startswith("100% have label 0 (33% of all rows do); 100% have group A (50% ")
    cluster, count = pd.Series(MODEL.labels_[:59]).value_counts().items().__next__()
    assert f"{count / 59:.0%} are in cluster {cluster}" in text


def test_public_names():
    assert xai.Audit is Audit and xai.Check is Check and xai.Finding is Finding
