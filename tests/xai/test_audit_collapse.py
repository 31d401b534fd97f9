"""Collapse: constant, tied and saturated scores, dominating and empty clusters."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from neuralize import neuralize
from xai.audit import Audit
from xai.audit.collapse import Collapse
from xai.audit.context import AuditContext

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3))


def audit(model, data):
    return Audit(model, data, checks=["collapse"], progress=False).run()


def of_scores(evidence):
    """What the check says of an evidence made by hand."""
    evidence = np.asarray(evidence, dtype=float)
    n = len(evidence)
    context = AuditContext(neuralize(KernelDensity().fit(X)), X[:n])
    context.__dict__.update(answers=evidence, original=None)
    return list(Collapse().run(context))


@pytest.mark.parametrize(
    "model",
    [
        KernelDensity(bandwidth=0.5),
        OneClassSVM(nu=0.1),
        IsolationForest(random_state=0, contamination=0.1),
        KMeans(3, n_init=1, random_state=0),
    ],
    ids=lambda m: type(m).__name__,
)
def test_working_models_pass(model):
    report = audit(model.fit(X[:100]), X[100:])
    assert report.findings == () and len(report.passed) >= 4


def test_a_saturated_score_collapses_though_its_evidence_does_not():
    """A kernel far narrower than the data: the decision function is the same for all new rows."""
    model = OneClassSVM(gamma=1e6, nu=0.1).fit(X[:100])
    assert len(np.unique(model.decision_function(X[100:]))) == 1
    report = audit(model, X[100:])
    titles = {f.title: f.severity for f in report.findings}
    assert titles["The decision_function is constant: the model tells no rows apart."] == "critical"
    assert "100% of the rows are called abnormal." in titles
    assert not any("evidence is constant" in title for title in titles)


def test_constant_evidence_is_critical():
    (finding,) = of_scores(np.full(50, 3.7))
    assert finding.severity == "critical" and finding.measure.value == 0


def test_rounding_is_no_spread():
    noise = np.random.default_rng(1).integers(0, 8, 50) * np.finfo(float).eps
    (finding,) = of_scores(1 + noise)
    assert finding.severity == "critical"


def test_all_zero_is_constant():
    (finding,) = of_scores(np.zeros(50))
    assert finding.severity == "critical"


def test_a_small_spread_is_a_warning_with_its_number():
    scores = 1000 + np.linspace(0, 0.5, 101)
    finding, passed = of_scores(scores)
    assert finding.severity == "warning"
    assert finding.measure.value == pytest.approx(0.9 * 0.5 / 1000.5)
    assert passed.measure.holds


def test_ties_are_counted_against_different_rows():
    scores = np.repeat(np.arange(4.0), 25)
    _, finding = of_scores(scores)
    assert finding.severity == "warning" and finding.measure.value == 4 / 100


def test_repeated_rows_may_share_a_score():
    x = np.repeat(X[:20], 30, axis=0)
    assert audit(KernelDensity().fit(X), x).findings == ()


def test_one_row_repeated_is_not_assessable():
    report = audit(KernelDensity().fit(X), np.repeat(X[:1], 30, axis=0))
    assert report.exit_code == 1  # nothing was assessed, so nothing is fine
    assert report.headline == "Nothing could be assessed."


def test_a_cluster_that_takes_all_is_critical_and_the_others_are_empty():
    centroids = np.array([[0.0, 0, 0], [50, 0, 0], [0, 50, 0]])
    report = audit(centroids, X)
    severities = {f.title: f.severity for f in report.findings}
    assert severities == {
        "Cluster 0 holds 100.0% of the rows.": "critical",
        "2 of 3 clusters have no row.": "warning",
    }


def test_a_dominating_cluster_is_a_warning():
    x = np.concatenate([X, [[50.0, 0, 0]]])
    (finding,) = audit(np.array([[0.0, 0, 0], [50, 0, 0]]), x).findings
    assert finding.severity == "warning" and finding.measure.value == pytest.approx(200 / 201)
