"""Agreement: equal scores for other reasons, and anomalies found for what is not anomalous."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuralize import neuralize
from xai.audit import Audit
from xai.audit.agreement import Agreement


def twins(n=300, seed=0):
    """Two features that say the same, and noise."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    x = rng.normal(size=(n, 10))
    x[:, 0] = 3 * z + 0.1 * rng.normal(size=n)
    x[:, 1] = 3 * z + 0.1 * rng.normal(size=n)
    return x


def density_of(x, column):
    """A density that looks at one column, by its scale."""
    scale = np.full(x.shape[1], 0.05)
    scale[column] = 1.0
    pipeline = make_pipeline(StandardScaler(), KernelDensity(bandwidth=0.5))
    pipeline.fit(x)
    pipeline[0].scale_ = x.std(0) / scale
    pipeline[1].fit(pipeline[0].transform(x))
    return neuralize(pipeline)


def asked(model, x, *args, check=None, **options):
    return Audit(model, x, *args, checks=[check], progress=False, **options).run()


def test_detectors_that_look_at_twin_columns():
    x = twins()
    report = asked(density_of(x, 0), x, check=Agreement(density_of(x, 1), "its twin"))
    (finding,) = report.findings
    assert "its twin scores alike for other reasons" in finding.title
    assert finding.measure.value < 0.2 and finding.severity == "warning"
    numbers = finding.counterfactual.numbers
    own = numbers[
        "where only this model looks: shift of its scores (median, in standard deviations)"
    ]
    assert own > 5 * numbers["where only this model looks: shift of the other's scores"]
    assert len(finding.pictures) == 1


@pytest.mark.parametrize("seed", range(3))
def test_nearly_the_same_detectors_agree(seed):
    x = np.random.default_rng(seed).normal(size=(200, 8))
    one, two = (KernelDensity(bandwidth=h).fit(x[:100]) for h in (1.5, 1.8))
    report = asked(one, x[100:], check=Agreement(two))
    assert not report.findings and len(report.passed) == 1


def test_clusterings_are_compared_by_their_clusters():
    x = np.random.default_rng(0).normal(size=(200, 8))
    x[:100, :2] += 6
    one, two = (KMeans(2, n_init=1, random_state=s).fit(x) for s in (0, 1))
    report = asked(one, x, check=Agreement(two))
    assert not report.findings and report.passed[0].measure.value > 0.9


def test_models_that_cannot_be_compared():
    x = twins()
    density, clusters = KernelDensity().fit(x), KMeans(2, n_init=1).fit(x)
    first, second = asked(density, x, check=Agreement(clusters)).answers
    assert "assigns clusters" in first.reason and "were not given" in second.reason
    rng = np.random.default_rng(1)
    other = KernelDensity().fit(rng.normal(size=(300, 10)) * 9)
    first, _ = asked(density_of(x, 0), x, check=Agreement(other, "a stranger")).answers
    assert "a stranger does not agree in score" in first.reason


SIZE = 10


def defects(n=120, seed=0, shortcut=True):
    """Bright squares in the middle third of anomalous pictures, and a bright last row beside."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.3, 0.05, size=(n, SIZE, SIZE))
    label = (np.arange(n) % 3 == 0).astype(int)
    masks = np.ones(x.shape, bool)  # nothing to locate in normal pictures
    for i in np.flatnonzero(label):
        a, b = rng.integers(2, 5, 2)
        masks[i] = False
        masks[i, a : a + 3, b : b + 3] = True
        x[i][masks[i]] += 0.25 if shortcut else 2.0
        if shortcut:
            x[i, -1] += 2.0
    return x, label, masks


@pytest.mark.parametrize("shortcut", [True, False])
def test_anomalies_found_by_something_else(shortcut):
    x, label, masks = defects(shortcut=shortcut)
    model = KernelDensity(bandwidth=0.3).fit(x[label == 0].reshape(-1, SIZE * SIZE))
    net = neuralize(model)
    normal = x[label == 0].reshape(-1, SIZE * SIZE)
    net.threshold = float(-model.score_samples(normal).min() * 0.3)
    report = asked(net, x, label, masks=masks, check=Agreement())
    if not shortcut:
        assert not report.findings and report.passed[0].measure.value > 0.6
        return
    (finding,) = report.findings
    assert finding.severity in ("critical", "warning") and finding.measure.value < 0.3
    numbers = finding.counterfactual.numbers
    assert numbers["anomaly replaced: fall of the scores (median, in standard deviations)"] < 0.2
    assert numbers["everything else replaced: fall of the scores"] > 1


def test_labels_that_are_no_anomalies():
    x, label, masks = defects()
    flat = x.reshape(len(x), -1)
    model = KernelDensity(bandwidth=0.5).fit(flat)
    (answer,) = asked(model, x, label + 3, masks=masks, check=Agreement()).answers
    assert "not 0 (normal) and 1" in answer.reason
    (answer,) = asked(model, x, np.zeros(len(x), int), masks=masks, check=Agreement()).answers
    assert "Fewer than" in answer.reason
    mixture = GaussianMixture(2, covariance_type="diag", random_state=0).fit(flat)
    (answer,) = asked(mixture, x, label, masks=masks, check=Agreement()).answers
    assert "detects nothing" in answer.reason
