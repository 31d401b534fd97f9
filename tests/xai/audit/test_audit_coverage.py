"""Coverage of the audit: rules, growth and dead ends of networks; maps that point somewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor, nn

from neuralize import neuralize
from neuralize.composites import epsilon
from xai.audit import Audit
from xai.audit.coverage import Coverage
from xai.audit.pointing import MORE_OFTEN
from xai.report import Finding, NotAssessable, Passed


def asked(model, x, **options):
    return Audit(model, x, checks=[Coverage()], progress=False, **options).run()


def encoder(last: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 8), last
    )


def digits(n=120):
    return (load_digits().images[:n, None] / 16).astype(np.float32)


def test_a_table_has_exact_rules_and_maps_that_point():
    x = load_digits().data[:200]
    report = asked(KMeans(4, n_init=2, random_state=0).fit(x), x)
    assert not report.findings and not report.not_assessable
    assert report.passed[0].measure.value == 0
    assert report.passed[1].measure.value > 0.8


@pytest.mark.filterwarnings("ignore::neuralize.errors.AmplificationWarning")
def test_an_encoder_lists_its_rules():
    x = digits()
    below = encoder(nn.ReLU())
    with torch.no_grad():
        phi = below(torch.tensor(x)).numpy()
    report = asked(KMeans(3, n_init=2, random_state=0).fit(phi), x, features=below)
    first = report.answers[0]
    assert isinstance(first, Passed) and "Gamma" in first.note and "Epsilon" in first.note
    assert len([a for a in report.answers if isinstance(a, Passed)]) >= 3


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sinc(x)


@pytest.mark.filterwarnings("ignore::neuralize.errors.AmplificationWarning")
def test_the_plain_gradient_is_a_warning():
    x = digits()
    net = nn.Sequential(encoder(Odd()), nn.Linear(8, 2))
    report = asked(net, x, composite=epsilon().with_rules(unmapped="gradient"))
    (finding,) = [f for f in report.findings if f.severity == "warning"]
    assert "plain gradient" in finding.title and "sinc" in finding.explanation


def test_growing_relevance_is_a_warning():
    """Differences of nearly equal things: what cancels is a thousand times what is left."""
    x = np.random.default_rng(0).normal(5, 1, size=(40, 12)).astype(np.float32)
    net = nn.Sequential(nn.Linear(12, 12, bias=False), nn.Linear(12, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(12))
        sign = torch.tensor([1.0, -1.0]).repeat(6)
        net[1].weight.copy_(torch.stack([sign * 1000 + 0.01, sign * 1000]))
    x[:, 1::2] = x[:, ::2] + 1e-3
    with pytest.warns(UserWarning, match="too much to read"):
        report = asked(net, x, composite="epsilon")
    assert [f.severity for f in report.findings if "noise" in f.title] == ["warning"]


def test_relevance_that_ends_inside():
    x = digits()
    net = encoder(nn.Linear(8, 2))
    with torch.no_grad():  # nothing but the bias is left
        net[5].weight.zero_()
        net[5].bias.copy_(torch.tensor([1.0, 2.0]))
    report = asked(net, x)
    (finding,) = [f for f in report.findings if "ends inside" in f.title]
    assert finding.severity == "info" and "5 (linear)" in finding.explanation
    assert any("moves no score" in a.reason for a in report.not_assessable)


def test_maps_of_a_scrambled_network_do_not_point(monkeypatch):
    x = load_digits().data[:200]
    net = neuralize(KMeans(4, n_init=2, random_state=0).fit(x))
    audit = Audit(net, x, checks=[Coverage()], progress=False)
    values = audit.context.relevance.values
    rng = np.random.default_rng(0)
    values[:] = rng.permuted(values, axis=1)
    (finding,) = audit.run().findings
    assert finding.severity == "info" and finding.measure.value < MORE_OFTEN
    assert finding.counterfactual is not None


def test_few_features_are_not_asked():
    x = np.random.default_rng(0).normal(size=(60, 3))
    report = asked(KMeans(2, n_init=1, random_state=0).fit(x), x)
    assert not [a for a in report.answers if isinstance(a, Finding)]
    assert [a for a in report.answers if isinstance(a, NotAssessable)]
