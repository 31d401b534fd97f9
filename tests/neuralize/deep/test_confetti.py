"""Confetti: sizes and turns of the squares, numbers of them, labels, and repeatability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from neuralize import InputError
from neuralize.deep import FCDD, Training
from neuralize.deep.confetti import Confetti


def drawn(n: int = 4000, seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [224, 56])
def test_squares_have_the_authors_sides_in_proportion(size: int) -> None:
    n = 300
    masks = Confetti()._squares(n, size, size, drawn()).numpy()
    scale = size / 224
    sides, upright = [], 0
    for mask in masks:
        assert ndimage.label(mask)[1] == 1, "one square"
        y, x = np.nonzero(mask)
        if min(y.min(), x.min()) == 0 or max(y.max(), x.max()) == size - 1:
            continue  # cut by the edge
        area = mask.sum()
        sides.append(np.sqrt(area))
        # a square turned by a has a box of side (cos a + sin a), 1 upright and 1.41 at 45 degrees
        box = (np.ptp(y) + 1) / np.sqrt(area)
        assert 0.75 < box < 1.65
        assert abs(np.ptp(y) - np.ptp(x)) <= 2
        upright += box < 1.1
    assert 8 * scale - 1 < min(sides) < 14 * scale < 46 * scale < max(sides) < 54 * scale + 1.5
    assert 0.02 < upright / len(sides) < 0.5


def test_numbers_of_squares_are_the_authors_on_average() -> None:
    only = {"blur": 0.0, "smallest": 2 / 60, "largest": 2 / 60}
    # squares too small to overlap: each kind counted by its colours
    layer = Confetti(**only).layer((800, 3, 60, 60), drawn())
    pixels = (layer != 0).any(1).flatten(1).sum(1).float() / 4
    solid = (layer.abs() == 1).all(1).flatten(1).sum(1).float() / 4
    assert float(pixels.min()) > 0, "every picture has one"
    # Poisson numbers of mean 0.9 + 0.6, and one more where both are zero: probability exp(-1.5)
    expected = 1.5 + np.exp(-1.5)
    assert abs(float(pixels.mean()) / expected - 1) < 0.15
    assert abs(float(solid.mean()) / (0.6 + np.exp(-1.5) / 2) - 1) < 0.15


def test_half_of_the_normal_pictures_change_and_get_their_label() -> None:
    x = torch.rand(2000, 12, 12, generator=drawn())
    y = torch.zeros(2000)
    y[:400] = 1  # known anomalies are left alone
    z, label = Confetti()(x, y, drawn(seed=1))
    changed = (z != x).flatten(1).any(1)
    assert not changed[:400].any() and label[:400].all()
    assert 0.45 < float(changed[400:].float().mean()) < 0.55
    differs = (z - x).abs().flatten(1).amax(1)
    assert label[400:].bool()[differs[400:] > 0.03].all()
    assert not label[400:].bool()[differs[400:] < 0.01].any()
    assert float(z.min()) >= 0 and float(z.max()) <= 1
    assert not y[400:].any(), "the batch that came is left as it was"


def test_maps_are_where_pixels_changed() -> None:
    x = torch.full((50, 3, 30, 30), 2.0)
    x[:, :, :15] = 4.0
    truth = torch.zeros(50, 30, 30)
    z, found = Confetti(low=1.0, high=5.0, probability=1.0)(x, truth, drawn())
    expected = (z - x).abs().amax(1) > 0.02 * 4
    assert torch.equal(found.bool(), expected)
    assert 0 < float(expected.float().mean()) < 0.3
    assert float(z.min()) >= 1 and float(z.max()) <= 5


def test_black_squares_on_black_make_no_anomaly() -> None:
    x = torch.zeros(200, 1, 20, 20)
    z, label = Confetti(probability=1.0, coloured=0.0, solid=0.6)(x, torch.zeros(200), drawn())
    assert torch.equal(label.bool(), (z > 0.02).flatten(1).any(1))
    assert 0.2 < float(label.mean()) < 0.9


def test_the_same_generator_gives_the_same_confetti_and_nothing_else_is_touched() -> None:
    x, y = torch.zeros(8, 1, 16, 16), torch.zeros(8)
    before = torch.get_rng_state()
    one, other, third = (Confetti()(x, y, drawn(seed=s))[0] for s in (3, 3, 4))
    assert torch.equal(one, other) and not torch.equal(one, third)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_makes_no_confetti_is_refused() -> None:
    with pytest.raises(InputError, match="probability"):
        Confetti(probability=1.5)
    with pytest.raises(InputError, match="low < high"):
        Confetti(low=1.0, high=1.0)
    short = Training(epochs=1, progress=False)
    with pytest.raises(InputError, match="low < high"):
        FCDD(training=short).fit(np.ones((6, 12, 12)))
