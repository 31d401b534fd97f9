"""Conservation: rounding passes, a lost share does not, and what constants take is told."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from neuralize import neuralize
from tests.xai.examples import made
from xai.audit import Audit
from xai.audit.conservation import ABSORBED, BOUND, Conservation
from xai.audit.context import AuditContext

X = np.random.default_rng(0).normal(size=(40, 3))


def answers(relevance, dtype=torch.float64):
    """What the check says of relevance made by hand."""
    context = AuditContext(neuralize(np.eye(3)[:2], dtype=dtype), X[: len(relevance)])
    context.__dict__["relevance"] = relevance
    return list(Conservation().run(context))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exact_network_passes_in_both_precisions(dtype):
    net = neuralize(KMeans(3, n_init=1, random_state=0).fit(X), dtype=dtype)
    report = Audit(net, X, checks=["conservation"]).run()
    assert report.findings == ()
    assert report.passed[0].measure.threshold == BOUND[dtype]
    assert str(dtype).removeprefix("torch.") in report.passed[0].note


def test_lost_relevance_is_critical_and_names_the_rows():
    good = made((6, 3))
    evidence = good.evidence.copy()
    evidence[[1, 4]] += 0.01 * np.abs(good.values[[1, 4]]).sum(1)
    finding, _ = answers(made((6, 3), evidence=evidence))
    assert finding.severity == "critical" and finding.samples == ("row 1", "row 4")
    mass = np.abs(good.values).sum(1) + np.abs(good.absorbed["bias"])
    expected = (np.abs(evidence - good.evidence) / np.maximum(mass, np.abs(evidence))).max()
    assert finding.measure.value == pytest.approx(expected)


def test_nan_relevance_never_passes():
    values = made((4, 3)).values.copy()
    values[2, 0] = np.nan
    finding, *_ = answers(made((4, 3), values=values))
    assert finding.severity == "critical" and finding.samples == ("row 2",)


def test_single_precision_is_held_to_its_own_bound():
    good = made((5, 3))
    evidence = good.evidence * (1 + 1e-7)
    assert answers(made((5, 3), evidence=evidence))[0].severity == "critical"
    assert answers(made((5, 3), evidence=evidence), torch.float32)[0].measure.holds


def test_what_constants_take_is_told_by_name():
    values = np.ones((4, 3))
    shares = {"bias": np.full(4, 2.0), "log-determinant": np.full(4, -5.0)}
    evidence = values.sum(1) + sum(shares.values())
    _, passed = answers(made((4, 3), values=values, absorbed=shares, evidence=evidence))
    assert passed.measure.value == pytest.approx(7 / 10)
    assert passed.note == "Absorbed by bias: 20.0%; log-determinant: 50.0%."


def test_a_map_that_is_next_to_nothing_is_worth_knowing():
    values = np.full((4, 3), 0.01)
    shares = {"bias": np.ones(4)}
    evidence = values.sum(1) + 1
    _, finding = answers(made((4, 3), values=values, absorbed=shares, evidence=evidence))
    assert finding.severity == "info"
    assert finding.measure.value == pytest.approx(1 / 1.03) and finding.measure.value > ABSORBED
