"""A bag of detectors: one member's shortcut counts less, and relevance is the same average."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity

import xai
from neuralize import neuralize
from neuralize.deep import Ensemble


def rows(n, seed, odd=False, flagged=False):
    """Outliers lie off in all of five columns; a flag in the last says nothing of it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) * np.array([1, 1, 1, 1, 1, 0.02])
    x[:, :5] += 2.2 * odd * rng.choice([-1, 1], size=(n, 5))
    x[:, 5] += 0.4 * flagged
    return x


def test_a_flag_that_fools_one_member_fools_the_bag_less():
    train, usual = rows(300, 0), rows(200, 1)
    odd, flagged = rows(200, 2, odd=True), rows(200, 1, flagged=True)
    members = {
        "ellipsoid": EmpiricalCovariance(),  # whitens, so that a column of small spread counts
        "density": KernelDensity(bandwidth=1.0),  # Euclidean, so that it hardly does
        "wide density": KernelDensity(bandwidth=2.0),
    }
    bag = Ensemble(members).fit(train, reference=rows(300, 3))
    scores = {n: bag.member_scores(x) for n, x in (("usual", usual), ("flagged", flagged))}
    moved = {m: np.mean(scores["flagged"][m] - scores["usual"][m]) for m in members}
    together = np.mean(bag.decision_function(flagged) - bag.decision_function(usual))
    assert moved["ellipsoid"] > 20 * abs(moved["density"])
    np.testing.assert_allclose(together, np.mean(list(moved.values())), rtol=1e-9)
    assert together < 0.4 * moved["ellipsoid"]

    def task(score):
        return roc_auc_score(np.repeat([0, 1], 200), np.r_[score(usual), score(odd)])

    single = task(lambda x: bag.member_scores(x)["ellipsoid"])
    assert task(bag.decision_function) > single - 0.02 > 0.9


def test_relevance_is_the_average_of_the_members():
    train, x = rows(200, 0), rows(5, 1, odd=True)
    members = {"ellipsoid": EmpiricalCovariance(), "density": KernelDensity(bandwidth=1.0)}
    bag = Ensemble(members).fit(train)
    found = xai.explain(bag, x, progress=False)
    assert found.relative_conservation_error.max() < 1e-9
    expected = np.zeros_like(x)
    for name in members:
        own = neuralize(bag.members_[name]).relevance(torch.from_numpy(x)).values.numpy()
        expected += own / bag.scales_[name] / 2
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
