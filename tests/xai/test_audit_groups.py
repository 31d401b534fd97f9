"""Groups: planted batches are found, their absence and entangled designs are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats.contingency import association as scipys
from sklearn.cluster import KMeans
from sklearn.neighbors import KernelDensity
from torch import nn

from xai.audit import Audit
from xai.audit.group_shift import association, permuted, random_shift, without_group
from xai.evaluate.robustness import index_of_each, robustness_index
from xai.report import Finding, NotAssessable, Passed


def rows(n=240, batch=0.0, seed=0, entangled=False):
    """Two classes apart in the first two features, two sites apart in the last two."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    site = label.copy() if entangled else rng.integers(0, 2, n)
    x = rng.normal(size=(n, 6))
    x[:, :2] += 2 * label[:, None]
    x[:, 4:] += batch * site[:, None]
    return x, label, np.array(["north", "south"])[site]


def answers(model, x, label, site):
    report = Audit(model, x, label, site, checks=["groups"], progress=False).run()
    return report


@pytest.mark.parametrize("seed", range(3))
def test_a_clustering_by_site_is_critical(seed):
    x, label, site = rows(batch=6, seed=seed)
    report = answers(KMeans(2, n_init=3, random_state=0).fit(x), x, label, site)
    first = report.findings[0]
    assert first.severity == "critical" and "go with the group" in first.title
    assert not first.measure.holds and first.counterfactual is not None
    assert "feature 4" in first.explanation and "feature 5" in first.explanation
    neighbours = [f for f in report.findings if "Neighbours" in f.title]
    assert len(neighbours) == 1 and neighbours[0].measure.value < 0.35


@pytest.mark.parametrize("seed", range(5))
def test_sites_without_a_difference_pass(seed):
    x, label, site = rows(batch=0, seed=seed)
    report = answers(KMeans(2, n_init=3, random_state=0).fit(x), x, label, site)
    assert not [f for f in report.findings if f.severity != "info"]
    assert len(report.passed) == 2


def test_a_visible_site_that_decides_nothing_is_no_finding():
    x, label, site = rows(n=400, batch=1.5)
    x[:, :2] += 6 * label[:, None]
    report = answers(KMeans(2, n_init=3, random_state=0).fit(x), x, label, site)
    assert not [f for f in report.findings if "go with the group" in f.title]
    said = next(p for p in report.passed if "association" in p.measure.name)
    assert "can be told from what the model sees" in said.note


def test_a_detector_that_calls_one_site_abnormal():
    x, label, site = rows(batch=5)
    model = KernelDensity(bandwidth=1.0).fit(x[(site == "north")])
    report = answers(model, x, label, site)
    assert report.findings[0].severity in ("critical", "warning")
    assert "outlier decisions go with the group" in report.findings[0].title.lower()


def test_what_cannot_be_told_is_not_assessed():
    x, label, site = rows(entangled=True)
    model = KMeans(2, n_init=3, random_state=0).fit(x)
    (answer,) = answers(model, x, label, site).not_assessable
    assert "cannot be told apart" in answer.reason
    (answer,) = answers(model, x, label, None).not_assessable
    assert "were given" in answer.reason
    (answer,) = answers(model, x, label, np.arange(len(x))).not_assessable
    assert "Fewer than two groups" in answer.reason


def test_neighbours_of_a_network_taken_as_a_whole_are_not_those_of_its_rows():
    """It sees one feature, and no site; its rows are near by site all the same."""
    x, label, site = rows(batch=6)
    blind = nn.Linear(6, 2)
    with torch.no_grad():
        blind.weight.copy_(torch.eye(2, 6))
    report = answers(blind, x.astype(np.float32), label, site)
    assert not report.findings
    (said,) = report.not_assessable
    assert "neighbours" in said.question and "as a whole" in said.reason


def test_without_labels_the_finding_says_so():
    x, _, site = rows(batch=6)
    report = answers(KMeans(2, n_init=3, random_state=0).fit(x), x, None, site)
    assert "may differ for good reason" in report.findings[0].explanation


def test_every_answer_is_of_a_kind_and_named():
    x, label, site = rows(batch=6)
    report = answers(KMeans(2, n_init=3, random_state=0).fit(x), x, label, site)
    for answer in report.answers:
        assert isinstance(answer, Finding | Passed | NotAssessable) and answer.check == "groups"


def test_association_is_the_mean_of_cramers_v_over_labels():
    rng = np.random.default_rng(0)
    decision, groups, labels = (
        rng.integers(0, 3, 300),
        rng.integers(0, 2, 300),
        rng.integers(0, 2, 300),
    )
    expected = 0.0
    for label in (0, 1):
        inside = labels == label
        table = np.histogram2d(decision[inside], groups[inside], bins=(3, 2))[0].astype(int)
        expected += inside.mean() * scipys(table, method="cramer")
    assert association(decision, groups, labels) == pytest.approx(expected)


def test_the_shift_makes_means_equal_within_labels():
    x, label, site = rows(batch=2)
    moved = x + without_group(x, site, label)
    for value in (0, 1):
        means = [moved[(label == value) & (site == s)].mean(0) for s in ("north", "south")]
        np.testing.assert_allclose(means[0], means[1], atol=1e-12)
    shift = without_group(x, site, label)
    other = random_shift(x, site, label, shift, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(other, axis=1), np.linalg.norm(shift, axis=1))


def test_permuting_keeps_groups_within_labels():
    _, label, site = rows()
    found = permuted(site, label, np.random.default_rng(0))
    assert (found != site).any()
    for value in (0, 1):
        assert sorted(found[label == value]) == sorted(site[label == value])


def test_the_probe_equals_one_fit_at_a_time():
    """Ridge on the divided indicators by scikit-learn, one fold and permutation at a time."""
    from sklearn.linear_model import Ridge

    from xai.audit import group_shift

    x, label, site = rows(batch=1)
    groups = np.unique(site, return_inverse=True)[1]
    z = (x - x.mean(0)) / x.std(0)
    dealt = np.stack([groups, permuted(groups, label, np.random.default_rng(1))])
    found = group_shift._accuracies(z, dealt, np.random.default_rng(5))
    fold = np.random.default_rng(5).permutation(np.arange(len(z)) % group_shift.FOLDS)
    for one, accuracy in zip(dealt, found, strict=True):
        guessed = np.empty_like(one)
        for k in range(group_shift.FOLDS):
            inside = fold != k
            hot = np.eye(2)[one[inside]]
            model = Ridge(alpha=group_shift.RIDGE * inside.sum())
            model.fit(z[inside], hot / hot.sum(0))
            guessed[~inside] = model.predict(z[~inside]).argmax(1)
        expected = np.mean([(guessed[one == g] == g).mean() for g in (0, 1)])
        assert accuracy == pytest.approx(expected)


def test_a_rare_group_that_neighbours_do_not_go_by_is_no_finding():
    """Of six labels that features hardly tell, with a site of one row in eight: 0.06 by chance."""
    rng = np.random.default_rng(0)
    label, site = rng.integers(0, 6, 400), np.where(rng.random(400) < 0.12, "rare", "usual")
    x = rng.normal(size=(400, 8)) + 0.5 * np.eye(6, 8)[label]
    model = KMeans(4, n_init=1, random_state=0).fit(x)
    report = Audit(model, x, label, site, checks=["groups"], progress=False).run()
    assert report.findings == ()
    (passed,) = [p for p in report.passed if "robustness index" in p.measure.name]
    assert passed.measure.value < 0.2 and passed.measure.threshold < 0.2
    x[site == "rare", :4] += 6
    model = KMeans(4, n_init=1, random_state=0).fit(x)
    report = Audit(model, x, label, site, checks=["groups"], progress=False).run()
    assert [f for f in report.findings if "Neighbours share" in f.title]


def test_the_index_of_permuted_groups_is_that_of_each():
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    dealt = rng.integers(0, 2, (4, 60))
    found = index_of_each(x, label, dealt, 7)
    for groups, index in zip(dealt, found, strict=True):
        assert index == robustness_index(x, label, groups, max_k=7).index[-1]
