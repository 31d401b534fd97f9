"""Repairs of a representation against their formulas, and what they do to a shortcut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

import xai
from neuralize import neuralize
from xai.errors import InputError
from xai.mitigate import (
    Projection,
    artefact_direction,
    egem,
    without_artefact,
    without_groups,
)

RNG = np.random.default_rng(0)


def apply(repair, h):
    return repair.double()(torch.from_numpy(h)).numpy()


def test_projection_row_by_row():
    h, z = RNG.normal(size=(20, 6)), RNG.normal(size=6)
    directions = RNG.normal(size=(2, 6))
    found = apply(Projection(directions, z), h)
    basis = np.linalg.qr(directions.T)[0]
    for row, out in zip(h, found, strict=True):
        expected = row + sum(v * (v @ z - v @ row) for v in basis.T)
        np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(found @ basis, np.tile(z @ basis, (20, 1)), atol=1e-5)


def test_directions_that_repeat_count_once():
    v = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]])
    assert Projection(v, np.zeros(3)).directions.shape == (1, 3)


@pytest.mark.parametrize("pca", [True, False])
def test_egem_is_its_formula(pca):
    clean = RNG.normal(size=(50, 5)) * np.array([5, 2, 1, 0.5, 0.1]) + 1
    repair = egem(clean, 0.6, pca=pca)
    assert float(repair.scale.mean()) == pytest.approx(0.6, abs=1e-6)
    if pca:
        mean = clean.mean(0)
        values, vectors = np.linalg.eigh(np.cov(clean.T, bias=True))
    else:
        mean, values, vectors = np.zeros(5), (clean**2).mean(0), np.eye(5)
    # lambda from the largest scale, then every other scale must follow from it
    largest = float(repair.scale.max())
    lam = values.max() * (1 / largest - 1)
    c = values / (values + lam)
    h = RNG.normal(size=(7, 5))
    expected = (((h - mean) @ vectors) * c) @ vectors.T + mean
    np.testing.assert_allclose(apply(repair, h), expected, atol=1e-5)


def test_egem_silences_what_clean_rows_never_use():
    clean = RNG.normal(size=(100, 4))
    clean[:, 3] = 0
    h = RNG.normal(size=(10, 4))
    out = apply(egem(clean, 0.7, pca=False), h)
    np.testing.assert_allclose(out[:, 3], 0, atol=1e-12)
    assert np.abs(out[:, :3] - h[:, :3]).max() < np.abs(h).max() * 0.2


def shortcut(n=300):
    """Two classes; an artefact on some rows of both moves them far along one direction."""
    label, marked = RNG.integers(0, 2, n), RNG.random(n) < 0.4
    x = RNG.normal(size=(n, 5))
    x[:, 0] += 4 * label
    x[:, 3] += 8 * marked
    return x, label, marked


def agreement(found, label):
    share = (found == label).mean()
    return max(share, 1 - share)


def test_a_clustering_by_artefact_becomes_one_by_class():
    x, label, marked = shortcut()
    before = KMeans(2, n_init=5, random_state=0).fit(x)
    assert agreement(before.labels_, marked) > 0.95 > 0.7 > agreement(before.labels_, label)
    repair = without_artefact(x, marked)
    after = KMeans(2, n_init=5, random_state=0).fit(apply(repair, x))
    assert agreement(after.labels_, label) > 0.95 > 0.7 > agreement(after.labels_, marked)


def test_the_repaired_model_is_explained_to_the_input():
    x, _, marked = shortcut()
    repair = Projection(np.eye(5)[3:4], x[~marked].mean(0)).double()
    model = KMeans(2, n_init=5, random_state=0).fit(apply(repair, x))
    encoder = nn.Sequential(nn.Linear(5, 5, bias=False), repair).double()
    with torch.no_grad():
        encoder[0].weight.copy_(torch.eye(5))
    net = neuralize(model, features=encoder)
    found = xai.explain(net, x[:20], progress=False)
    assert found.relative_conservation_error.max() < 1e-9
    assert np.abs(found.values[:, 3]).max() == 0 < np.abs(found.values).max()


def test_groups_agree_afterwards_within_labels():
    x, label, _ = shortcut()
    site = np.where(RNG.random(len(x)) < np.where(label, 0.8, 0.2), "north", "south")
    x[:, 4] += 5 * (site == "north")
    out = apply(without_groups(x, site, label), x)
    for value in (0, 1):
        means = [out[(label == value) & (site == s)].mean(0) for s in ("north", "south")]
        np.testing.assert_allclose(means[0], means[1], atol=1e-5)
    gap = out[label == 1].mean(0)[0] - out[label == 0].mean(0)[0]
    assert gap > 3


def test_the_signal_is_a_covariance():
    x, _, marked = shortcut()
    y = marked.astype(float)
    expected = ((x - x.mean(0)) * (y - y.mean())[:, None]).mean(0) / y.var()
    np.testing.assert_allclose(artefact_direction(x, marked), expected, atol=1e-12)


def test_bad_input_is_refused():
    x, label, marked = shortcut(20)
    with pytest.raises(InputError, match="of some length"):
        Projection(np.zeros((1, 3)), np.zeros(3))
    with pytest.raises(InputError, match="directions"):
        Projection(np.ones((1, 3)), np.zeros(4))
    with pytest.raises(InputError, match="one kind"):
        without_artefact(x, np.ones(20, bool))
    with pytest.raises(InputError, match="20 booleans"):
        without_artefact(x, marked.astype(int))
    with pytest.raises(InputError, match="cannot be told apart"):
        without_groups(x, label, label)
    with pytest.raises(InputError, match="between 0 and 1"):
        egem(x, 1.5)
    with pytest.raises(InputError, match="all the same"):
        egem(np.ones((5, 3)), 0.5)
    with pytest.raises(InputError, match="at least two rows"):
        egem(np.full((5, 3), np.nan), 0.5)
