"""Subspaces: a direction that goes with the group is found, others pass, and accounts add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import KernelDensity
from torch import nn

from neuralize import neuralize
from neuralize.lrp import LRP
from xai.audit import Audit, AuditContext
from xai.audit.direction_pictures import restricted
from xai.audit.subspaces import Subspaces, between, directions, projected_out


def rows(n=240, batch=0.0, seed=0):
    """Two classes apart in the first features, two sites apart in the last."""
    rng = np.random.default_rng(seed)
    label, site = rng.integers(0, 2, n), rng.integers(0, 2, n)
    x = rng.normal(size=(n, 10))
    x[:, :3] += 2 * label[:, None]
    x[:, -2:] += batch * site[:, None]
    return x, label, np.array(["north", "south"])[site]


def asked(model, x, label=None, site=None, **options):
    check = Subspaces(**options)
    return Audit(model, x, label, site, checks=[check], progress=False).run()


@pytest.mark.parametrize("seed", range(3))
def test_a_clustering_by_site_rests_on_its_direction(seed):
    x, label, site = rows(batch=6, seed=seed)
    report = asked(KMeans(2, n_init=3, random_state=0).fit(x), x, label, site)
    (finding,) = [f for f in report.findings if "goes with the group" in f.title]
    assert finding.severity in ("critical", "warning") and finding.measure.value > 0.8
    vector = finding.suspect["vector"]
    assert np.linalg.norm(vector[-2:]) > 0.9 * np.linalg.norm(vector)
    assert len(finding.pictures) == 1


@pytest.mark.parametrize("seed", range(6))
def test_sites_without_a_difference_pass(seed):
    x, label, site = rows(seed=seed)
    for model in (KMeans(2, n_init=3, random_state=0), KernelDensity(bandwidth=1.5)):
        report = asked(model.fit(x), x, label, site)
        assert not [f for f in report.findings if f.severity != "info"]


def test_a_label_is_no_group():
    """Groups that differ by label only differ within no label."""
    x, label, _ = rows(n=400)
    site = np.where(np.random.default_rng(0).random(400) < 0.8, label, 1 - label)
    report = asked(KMeans(2, n_init=3, random_state=0).fit(x), x, label, site)
    assert not report.findings


def test_pictures_are_shown_when_asked():
    x, label, _ = rows()
    model = KMeans(2, n_init=3, random_state=0).fit(x)
    assert not asked(model, x, label).findings
    for disentangle in (False, True):
        (finding,) = asked(model, x, label, show=True, disentangle=disentangle).findings
        assert finding.severity == "info" and len(finding.pictures) == 1
        assert finding.suspect["vector"].shape == (10,)


def test_between_is_one_minus_the_share_within():
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    within = sum(((x[groups == g] - x[groups == g].mean(0)) ** 2).sum(0) for g in range(3))
    np.testing.assert_allclose(between(x, groups), 1 - within / ((x - x.mean(0)) ** 2).sum(0))


def test_directions_take_the_relevance_and_maps_of_all_add_up():
    torch.manual_seed(0)
    below = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    ).eval()
    x = np.random.default_rng(0).uniform(size=(60, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        phi = below(torch.tensor(x)).numpy()
    net = neuralize(KMeans(3, n_init=2, random_state=0).fit(phi), below)
    audit = AuditContext(net, x, composite="epsilon", progress=False)
    found = directions(audit, 20)
    assert found.vectors.shape == (20, 20)
    seen = (found.phi * found.context).sum(1)
    np.testing.assert_allclose(found.carried.sum(1), seen, atol=1e-6 * np.abs(seen).max())
    large = np.abs(found.phi) > np.sqrt((found.phi**2).mean(0))
    ratio = found.phi[large] * found.context[large] / found.relevance[large]
    assert (ratio > 0.98).all() and (ratio <= 1).all()
    assert (np.diff(found.carried.mean(0)) <= 1e-9).all()
    chosen = np.arange(4)
    summed = sum(restricted(audit, found, k, chosen) for k in range(20))
    trace = LRP(below, "epsilon").trace(torch.tensor(x[found.rows[chosen]]))
    seed = torch.tensor((found.phi * found.context)[chosen]).float()
    whole = trace.relevance(seed)[0].numpy()
    np.testing.assert_allclose(summed, whole, atol=1e-4 * np.abs(whole).max())


def test_projecting_out_asks_the_model_about_rows_without_the_direction():
    x, _, _ = rows(batch=6)
    model = KernelDensity(bandwidth=1.5).fit(x)
    audit = AuditContext(neuralize(model), x, progress=False)
    found = directions(audit, 3)
    effect = projected_out(audit, found, 0)
    along = found.phi @ found.vectors[0]
    flat = found.phi - np.outer(along - along.mean(), found.vectors[0])
    scores = -model.score_samples(flat) + model.score_samples(found.phi)
    evidence = -model.score_samples(x)
    ratio = np.median(np.abs(audit.rescore(found.rows, flat).shift)) / audit.spread
    assert effect.moved == pytest.approx(ratio)
    assert np.sign(effect.direction) == np.sign(np.median(scores)) and evidence.std() > 0
    assert len(effect.random_moved) == 40


def test_what_cannot_be_asked():
    x, label, _ = rows()
    net = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2))
    (answer,) = asked(net, x.astype(np.float32)).answers
    assert "not a head" in answer.reason
    (_, answer) = asked(KMeans(2, n_init=1).fit(x), x, label).answers
    assert "No groups" in answer.reason
    (_, answer) = asked(KMeans(2, n_init=1).fit(x), x, label, np.arange(240)).answers
    assert "Fewer than two groups" in answer.reason
