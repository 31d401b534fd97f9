"""ComBat against the paper's equations in plain loops, and what it does to a shortcut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

import xai
from neuralize import neuralize
from xai.errors import InputError
from xai.mitigate import ComBat


def data(n=90, q=6, seed=0):
    rng = np.random.default_rng(seed)
    site = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    label = (rng.random(n) < np.where(site == "a", 0.8, 0.3)).astype(int)
    h = rng.normal(size=(n, q)) * rng.uniform(0.5, 2, q) + rng.normal(size=q)
    for name, shift, scale in (("a", 3.0, 2.0), ("b", -1.0, 0.7)):
        rows = site == name
        h[rows] = h[rows] * scale + shift * rng.uniform(0.5, 1.5, q)
    h[:, 0] += 4 * label
    return h, site, label


def johnson(h, site, label, shrink=True, scale=True):
    """Section 3.2 of Johnson et al., feature by feature and row by row."""
    n, q = h.shape
    names = sorted(set(site))
    sizes = {b: int((site == b).sum()) for b in names}
    out = np.empty_like(h)
    z, back = np.empty_like(h), []
    for g in range(q):
        design = np.array(
            [
                [float(s == b) for b in names] + [float(y == 1)]
                for s, y in zip(site, label, strict=True)
            ]
        )
        beta = np.linalg.solve(design.T @ design, design.T @ h[:, g])
        alpha = sum(sizes[b] / n * beta[i] for i, b in enumerate(names))
        sigma = np.sqrt(sum((h[j, g] - design[j] @ beta) ** 2 for j in range(n)) / n)
        kept = [alpha + float(label[j] == 1) * beta[-1] for j in range(n)]
        z[:, g] = [(h[j, g] - kept[j]) / sigma for j in range(n)]
        back.append((sigma, kept))
    for b in names:
        rows = np.flatnonzero(site == b)
        gamma = [z[rows, g].mean() for g in range(q)]
        delta2 = [z[rows, g].var(ddof=1) if scale else 1.0 for g in range(q)]
        middle, tau2 = np.mean(gamma), np.var(gamma, ddof=1)
        m, s2 = np.mean(delta2), np.var(delta2, ddof=1)
        lam, theta = (m**2 + 2 * s2) / s2 if scale else 0, (m**3 + m * s2) / s2 if scale else 0
        for g in range(q):
            shift, spread = gamma[g], delta2[g]
            for _ in range(2000 if shrink else 0):
                shift = (len(rows) * tau2 * gamma[g] + spread * middle) / (
                    len(rows) * tau2 + spread
                )
                if scale:
                    total = sum((z[j, g] - shift) ** 2 for j in rows)
                    spread = (theta + total / 2) / (len(rows) / 2 + lam - 1)
            sigma, kept = back[g]
            for j in rows:
                out[j, g] = sigma / np.sqrt(spread) * (z[j, g] - shift) + kept[j]
    return out


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_it_is_the_papers(shrink, scale):
    h, site, label = data()
    found = ComBat(h, site, label, shrink=shrink, scale=scale).adjusted(h, site, label)
    expected = johnson(h, site, label, shrink, scale)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_groups_agree_afterwards_and_labels_still_differ():
    h, site, label = data(3000)
    out = ComBat(h, site, label, shrink=False).adjusted(h, site, label)
    for one in (0, 1):
        means = [out[(site == s) & (label == one)].mean(0) for s in "abc"]
        for mean in means:
            np.testing.assert_allclose(mean, means[0], atol=0.5)
    gap = out[label == 1].mean(0) - out[label == 0].mean(0)
    assert gap[0] > 3 and np.abs(gap[1:]).max() < 0.7


def test_the_module_is_the_same_map():
    h, site, label = data()
    combat = ComBat(h, site, label)
    whole = combat.adjusted(h, site, label)
    for s in "abc":
        for one in (0, 1):
            rows = (site == s) & (label == one)
            module = combat.for_group(s, one).double()
            np.testing.assert_allclose(
                module(torch.from_numpy(h[rows])).numpy(), whole[rows], atol=1e-5
            )


def test_without_scale_new_rows_need_no_label():
    h, site, label = data()
    combat = ComBat(h, site, label, scale=False)
    np.testing.assert_allclose(combat.adjusted(h, site), combat.adjusted(h, site, label), atol=1e-9)


def test_a_clustering_by_site_becomes_one_by_label():
    rng = np.random.default_rng(0)
    label, site = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    h = rng.normal(size=(400, 8))
    h[:, 0] += 5 * label
    h = h * np.where(site, 2.0, 1.0)[:, None] + 6.0 * site[:, None]
    fit, new = np.arange(400) < 200, np.arange(400) >= 200

    def agreement(x, column):
        found = KMeans(2, n_init=5, random_state=0).fit(x[fit]).predict(x[new])
        return max((found == column[new]).mean(), (found != column[new]).mean())

    combat = ComBat(h[fit], site[fit], label[fit])
    out = combat.adjusted(h, site)  # new rows without labels
    assert agreement(h, site) > 0.95 > 0.65 > agreement(h, label)
    assert agreement(out, label) > 0.9 > 0.65 > agreement(out, site)


def test_the_adjusted_model_is_explained_to_the_input():
    h, site, label = data(200)
    combat = ComBat(h, site, label)
    model = KMeans(2, n_init=3, random_state=0).fit(combat.adjusted(h, site))
    rows = site == "a"
    below = nn.Sequential(nn.Flatten(), combat.for_group("a")).double()
    net = neuralize(model, features=below)
    found = xai.explain(net, h[rows], composite="epsilon", progress=False)
    assert found.relative_conservation_error.max() < 1e-9
    np.testing.assert_array_equal(found.target, model.predict(combat.adjusted(h, site)[rows]))


def test_a_feature_that_never_varies_stays():
    h, site, label = data()
    h[:, 2] = 7.0
    out = ComBat(h, site, label).adjusted(h, site, label)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[:, 2], 7.0)


def test_bad_input_is_refused():
    h, site, label = data()
    with pytest.raises(InputError, match="at least two groups"):
        ComBat(h, np.zeros(len(h)))
    with pytest.raises(InputError, match="at least two rows"):
        ComBat(h, np.r_[["z"], site[1:]])
    with pytest.raises(InputError, match="cannot be told apart"):
        ComBat(h, site, site)
    combat = ComBat(h, site, label)
    with pytest.raises(InputError, match="one of the groups a, b, c"):
        combat.for_group("d")
    with pytest.raises(InputError, match="one of the labels"):
        combat.for_group("a", 7)
    with pytest.raises(InputError, match="one per row"):
        combat.adjusted(h, site[:5])
