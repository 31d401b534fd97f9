"""What comes before the model: places replaced, artefacts shown at random, heads fitted again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KernelDensity
from torch import nn

import xai
from neuralize import neuralize
from neuralize.deep import D2Neighbors, Ensemble, PatchCore
from xai.errors import InputError, UnsupportedModelError
from xai.mitigate import Replaced, encoded, randomise_artefact, refit

PLACE = np.zeros((8, 8), bool)
PLACE[6:, :2] = True


def pictures(n=60, seed=0):
    return np.random.default_rng(seed).random((n, 8, 8))


def test_replaced_changes_nothing_else():
    x, content = pictures(4), np.full((8, 8), 0.25)
    out = Replaced(PLACE, content)(torch.from_numpy(x)).numpy()
    expected = x.copy()
    for row in expected:
        row[PLACE] = 0.25
    np.testing.assert_array_equal(out, expected)


def test_replaced_pixels_get_exactly_no_relevance():
    below = nn.Sequential(Replaced(PLACE, pictures().mean(0)), nn.Flatten())
    model = KernelDensity(bandwidth=0.4).fit(encoded(below, pictures()))
    x = pictures(seed=1)
    found = xai.explain(neuralize(model, features=below), x[:6], progress=False)
    assert found.relative_conservation_error.max() < 1e-9
    assert np.abs(found.values[:, PLACE]).max() == 0 < np.abs(found.values[:, ~PLACE]).max()
    altered = x[:6].copy()
    altered[:, PLACE] = 99.0
    again = xai.explain(neuralize(model, features=below), altered, progress=False)
    np.testing.assert_array_equal(again.evidence, found.evidence)


def test_artefacts_are_shown_at_random():
    x = pictures(400)
    shown = x.copy()
    carries = np.arange(400) < 100
    shown[carries] = np.where(PLACE, 1.0, shown[carries])
    out, which = randomise_artefact(
        shown, PLACE, np.ones((8, 8)), usual=np.zeros((8, 8)), p=0.25,
        rng=np.random.default_rng(3),
    )  # fmt: skip
    assert which.sum() == 100
    for row, original, has in zip(out, x, which, strict=True):
        assert (row[PLACE] == float(has)).all()
        np.testing.assert_array_equal(row[~PLACE], original[~PLACE])
    # whether a picture had it says nothing of whether it has it now
    assert abs(which[carries].mean() - 0.25) < 0.1


def test_content_may_be_drawn_from_examples_and_channels():
    x = np.zeros((50, 3, 8, 8), np.float32)
    looks = np.stack([np.full((3, 8, 8), v, np.float32) for v in (1.0, 2.0)])
    out, which = randomise_artefact(x, PLACE, looks)
    assert set(np.unique(out[which][:, :, PLACE])) == {1.0, 2.0}
    assert not out[~which].any() and not out[:, :, ~PLACE].any()


def test_a_shortcut_probe_fitted_on_random_artefacts_reads_the_content():
    rng = np.random.default_rng(0)
    x, label = pictures(600), rng.integers(0, 2, 600)
    x[:, 2:4, 3:6] += 0.5 * label[:, None, None]
    fit, new = np.arange(600) < 300, np.arange(600) >= 300
    marked = np.where((label == 1)[:, None, None] & PLACE, 3.0, x)
    below = nn.Flatten()
    probe = LogisticRegression(C=0.01, max_iter=1000).fit(encoded(below, marked[fit]), label[fit])
    everywhere = np.where(PLACE, 3.0, x)
    assert probe.score(encoded(below, everywhere[new]), label[new]) < 0.7
    shown, _ = randomise_artefact(marked[fit], PLACE, np.full((8, 8), 3.0), usual=x[fit].mean(0))
    again = refit(probe, shown, label[fit], features=below)
    assert again.score(encoded(below, everywhere[new]), label[new]) > 0.9
    assert again.score(encoded(below, x[new]), label[new]) > 0.9


def test_deep_detectors_are_fitted_again():
    x = 0.1 * pictures(30)
    shown, _ = randomise_artefact(x, PLACE, np.ones((8, 8)), usual=np.zeros((8, 8)))
    lone = np.where(PLACE, 1.0, 0.1 * pictures(10, seed=1)).astype(np.float32)
    clean = np.where(PLACE, 0.0, 0.1 * pictures(10, seed=1)).astype(np.float32)
    before = np.where(PLACE, 0.0, x).astype(np.float32)
    backbone = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
    for detector in (
        D2Neighbors(perplexity=0.1),
        PatchCore(backbone, layers=["1"], coreset=300, mean=None, std=None),
        Ensemble({"pixels": D2Neighbors(), "density": KernelDensity(bandwidth=0.5)}),
    ):
        torch.manual_seed(0)
        fitted = detector.fit(before)
        gap = fitted.decision_function(lone).mean() - fitted.decision_function(clean).mean()
        again = refit(fitted, shown)
        left = again.decision_function(lone).mean() - again.decision_function(clean).mean()
        assert again is not fitted and left < 0.5 * gap


def test_refit_keeps_settings_and_the_old_model():
    x = pictures()
    model = KMeans(4, n_init=1, random_state=3).fit(x.reshape(60, -1))
    centroids = model.cluster_centers_.copy()
    again = refit(model, x + 1)
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(model.cluster_centers_, centroids)
    np.testing.assert_allclose(
        again.cluster_centers_, KMeans(4, n_init=1, random_state=3)
        .fit((x + 1).reshape(60, -1)).cluster_centers_,
    )  # fmt: skip


def test_bad_input_is_refused():
    x = pictures(5)
    with pytest.raises(InputError, match="same shape"):
        Replaced(PLACE, np.zeros((4, 4)))
    with pytest.raises(InputError, match="but not all"):
        Replaced(np.ones((2, 2), bool), np.zeros((2, 2)))
    with pytest.raises(InputError, match="finite"):
        Replaced(PLACE, np.full((8, 8), np.nan))
    with pytest.raises(InputError, match="rows of shape"):
        Replaced(PLACE, np.zeros((8, 8)))(torch.zeros(2, 4, 4))
    with pytest.raises(InputError, match="some of them true"):
        randomise_artefact(x, np.zeros((8, 8), bool), x[0])
    with pytest.raises(InputError, match="shape of a row"):
        randomise_artefact(x, PLACE[4:], x[0])
    with pytest.raises(InputError, match="or several of them"):
        randomise_artefact(x, PLACE, np.zeros((4, 4)))
    with pytest.raises(InputError, match="usual content"):
        randomise_artefact(x, PLACE, x[0], usual=np.zeros(3))
    with pytest.raises(InputError, match="p as a share"):
        randomise_artefact(x, PLACE, x[0], p=1.5)
    with pytest.raises(UnsupportedModelError, match="fitted again"):
        refit(np.eye(3), x)
