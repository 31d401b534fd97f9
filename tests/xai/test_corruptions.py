"""Corruptions: what all have in common, and what each one promises by its definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import rotate as scipy_rotate

from neuralize import InputError
from xai.corruptions import CORRUPTIONS, SEVERITIES, corrupt, difference
from xai.corruptions.weather import cloud
from xai.datasets import fashion_mnist

EVERY = pytest.mark.parametrize("name", sorted(CORRUPTIONS))


@pytest.fixture(scope="module")
def clothes():
    data = fashion_mnist("test")
    return data.images[[int(np.flatnonzero(data.labels == c)[1]) for c in range(10)]]


def test_there_are_the_fifteen():
    assert len(CORRUPTIONS) == 15


@EVERY
def test_shape_range_change_and_the_original_untouched(name, clothes):
    before = clothes.copy()
    for severity in SEVERITIES:
        after = corrupt(clothes, name, severity=severity)
        assert after.shape == clothes.shape
        assert after.dtype == np.float64
        assert after.min() >= 0 and after.max() <= 1
        assert (difference(clothes, after).max((1, 2)) > 1e-3).all()
    np.testing.assert_array_equal(clothes, before)


@EVERY
def test_the_seed_decides_and_batches_do_not(name, clothes):
    once = corrupt(clothes, name, seed=3)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    np.testing.assert_array_equal(once, corrupt(clothes, name, seed=3))
    np.testing.assert_array_equal(once[:4], corrupt(clothes[:4], name, seed=3))
    if name not in ("brightness", "canny_edges", "scale"):
        assert not np.array_equal(once, corrupt(clothes, name, seed=4))


@EVERY
def test_severity_grows(name, clothes):
    change = [difference(clothes, corrupt(clothes, name, severity=s)).mean() for s in SEVERITIES]
    assert change[0] < change[2] < change[4] or name == "canny_edges"


@EVERY
def test_other_sizes(name):
    picture = np.random.default_rng(0).random((2, 12, 40))
    assert corrupt(picture, name).shape == picture.shape
    black = corrupt(np.zeros((1, 9, 9)), name)
    assert np.isfinite(black).all()
    assert corrupt(np.zeros((0, 9, 9)), name).shape == (0, 9, 9)


def test_brightness_adds_and_saturates(clothes):
    np.testing.assert_allclose(
        corrupt(clothes, "brightness", severity=2), np.minimum(clothes + 0.2, 1)
    )


def test_shot_noise_keeps_the_mean_and_black():
    grey = np.full((1, 100, 100), 0.4)
    noisy = corrupt(grey, "shot_noise", severity=1)
    # Poisson(24) / 60: mean 0.4, standard deviation sqrt(24) / 60; clipping is out of reach.
    assert abs(noisy.mean() - 0.4) < 5 * np.sqrt(24) / 60 / 100
    assert abs(noisy.std() - np.sqrt(24) / 60) < 0.004
    assert corrupt(np.zeros((1, 9, 9)), "shot_noise").sum() == 0


def test_impulse_noise_hits_its_share():
    grey = np.full((1, 200, 200), 0.5)
    hit = corrupt(grey, "impulse_noise", severity=3)[0]
    assert set(np.unique(hit)) == {0.0, 0.5, 1.0}
    share = (hit != 0.5).mean()
    assert abs(share - 0.09) < 5 * np.sqrt(0.09 * 0.91) / 200
    assert abs((hit == 1).mean() - share / 2) < 0.01


@pytest.mark.parametrize("name", ["shear", "scale", "rotate"])
def test_maps_about_the_center_keep_it(name):
    picture = np.random.default_rng(0).random((1, 9, 9))
    for severity in SEVERITIES:
        after = corrupt(picture, name, severity=severity)
        np.testing.assert_allclose(after[0, 4, 4], picture[0, 4, 4])


def test_rotation_is_scipys(clothes):
    after = corrupt(clothes, "rotate", severity=4)
    for x, y in zip(clothes, after, strict=True):
        turned = [scipy_rotate(x, a, reshape=False, order=1, mode="constant") for a in (45, -45)]
        assert min(np.abs(y - t).max() for t in turned) < 1e-9


def test_a_disc_does_not_see_rotation():
    i, j = np.mgrid[:41, :41] - 20
    disc = np.exp(-(i**2 + j**2) / 60)[None]
    assert np.abs(corrupt(disc, "rotate", severity=5) - disc).max() < 0.01


def test_shear_moves_every_row_by_its_height():
    x = np.zeros((1, 21, 41))
    x[0, :, 20] = 1
    after = corrupt(x, "shear", severity=2)[0]
    centers = (after * np.arange(41)).sum(1) / after.sum(1)
    np.testing.assert_allclose(np.abs(np.diff(centers)), 0.3)


def test_scale_and_translate_move_mass_as_they_say():
    i, j = np.mgrid[:41, :41] - 20
    blob = np.exp(-(i**2 + j**2) / 20)[None]
    small = corrupt(blob, "scale", severity=5)
    np.testing.assert_allclose(small.sum(), blob.sum() / 4, rtol=0.02)
    moved = corrupt(blob, "translate", severity=3)[0]
    shift = [(moved * k).sum() / moved.sum() for k in (i, j)]
    np.testing.assert_allclose(np.hypot(*shift), 0.14 * 41, rtol=1e-3)


def test_motion_blur_keeps_the_mass_of_an_inner_dot_on_a_line():
    x = np.zeros((1, 41, 41))
    x[0, 20, 20] = 1
    after = corrupt(x, "motion_blur", severity=4)[0]
    np.testing.assert_allclose(after.sum(), 1)
    i, j = (np.argwhere(after > 0) - 20).T
    spread = np.linalg.svd(np.stack([i, j]), compute_uv=False)
    assert np.hypot(i, j).max() <= 0.35 * 41 / 2 + 1 and spread[1] < 0.2 * spread[0]


def test_glass_blur_is_flat_on_flat_pictures_and_keeps_inner_mass():
    np.testing.assert_allclose(corrupt(np.full((1, 9, 9), 0.3), "glass_blur"), 0.3)
    x = np.zeros((1, 41, 41))
    x[0, 18:23, 18:23] = 1
    np.testing.assert_allclose(corrupt(x, "glass_blur").sum(), 25, rtol=1e-6)


def test_stripe_inverts_whole_columns(clothes):
    after = corrupt(clothes, "stripe")
    changed = ~np.isclose(after, clothes)
    columns = changed.any(1)
    for row in range(len(clothes)):
        where = np.flatnonzero(columns[row])
        assert len(where) == 4 and np.ptp(where) == 3
        np.testing.assert_allclose(after[row][:, where], 1 - clothes[row][:, where])


@pytest.mark.parametrize("name", ["dotted_line", "zigzag"])
def test_lines_are_white_and_cross_the_picture(name, clothes):
    after = corrupt(clothes * 0.9, name, severity=1)
    drawn = after == 1
    np.testing.assert_allclose(np.where(drawn, 0.9 * clothes, after), 0.9 * clothes)
    for line in drawn:
        columns = np.flatnonzero(line.any(0))
        steps = np.diff(columns)
        assert columns[0] <= 2 and columns[-1] >= 25
        assert (steps == (3 if name == "dotted_line" else 1)).all()


def test_fog_is_a_mixture_with_a_cloud():
    for x in (np.zeros((1, 30, 50)), np.ones((1, 30, 50))):
        mist = corrupt(x, "fog", severity=2)[0]
        np.testing.assert_allclose([mist.min(), mist.max()], [x.max() / 1.6, (x.max() + 0.6) / 1.6])
    z = cloud((64, 64), 2.0, np.random.default_rng(0))
    neighbours = np.corrcoef(z[:, :-1].ravel(), z[:, 1:].ravel())[0, 1]
    assert neighbours > 0.9 > np.corrcoef(z[:, :-16].ravel(), z[:, 16:].ravel())[0, 1]


def test_spatter_covers_connected_drops_and_leaves_the_rest():
    after = corrupt(np.zeros((1, 60, 60)), "spatter", severity=3)[0]
    assert after.max() <= 0.8 and (after > 0.4).any()
    assert 0.05 < (after > 0.4).mean() < 0.15
    assert (after < 1e-6).mean() > 0.6


def test_canny_traces_a_square():
    x = np.zeros((1, 30, 30))
    x[0, 8:22, 8:22] = 1
    edges = corrupt(x, "canny_edges", severity=1)[0]
    assert set(np.unique(edges)) == {0.0, 1.0}
    i, j = np.argwhere(edges > 0).T
    distance = np.maximum(np.abs(i - 14.5), np.abs(j - 14.5))
    assert ((distance >= 6) & (distance <= 8)).all()
    assert 44 <= edges.sum() <= 60  # one pixel wide: the square has 4 x 14 pixels of rim


def test_misuse():
    good = np.zeros((1, 9, 9))
    with pytest.raises(InputError, match="'canny_edges', got 'blur'"):
        corrupt(good, "blur")
    with pytest.raises(InputError, match="severity of 1, 2, 3, 4 or 5, got 6"):
        corrupt(good, "fog", severity=6)
    with pytest.raises(InputError, match="seed >= 0"):
        corrupt(good, "fog", seed=-1)
    with pytest.raises(InputError, match=r"at least 8 x 8, got shape \(9, 9\)"):
        corrupt(good[0], "fog")
    with pytest.raises(InputError, match="Divide 8-bit"):
        corrupt(good + 255, "fog")
    with pytest.raises(InputError, match="NaN"):
        corrupt(good + np.nan, "fog")
    with pytest.raises(InputError, match="one shape"):
        difference(good, good[0])
