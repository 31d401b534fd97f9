"""Blur and low-pass: against SciPy, their frequency response, and the engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.fft import dctn, idctn
from sklearn.neighbors import KernelDensity
from torch import nn

import xai
from neuralize import neuralize
from neuralize.deep import D2Neighbors
from xai.errors import InputError
from xai.mitigate import BlurFront, LowPass, encoded

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_blur_is_scipys(kernel):
    x = RNG.normal(size=(3, 2, 17, 13))
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    expected = np.stack(
        [
            [
                ndimage.gaussian_filter(plane, sigma, mode="mirror", radius=kernel // 2)
                for plane in row
            ]
            for row in x
        ]
    )
    blur = BlurFront(kernel).double()
    np.testing.assert_allclose(blur(torch.from_numpy(x)).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(blur(torch.from_numpy(x[:, 0])).numpy(), expected[:, 0], atol=1e-6)


def test_eleven_pixels_are_a_sigma_of_two():
    assert BlurFront(11).sigma == pytest.approx(2.0)


@pytest.mark.parametrize("frequency", [0.05, 0.12, 0.25, 0.5])
def test_response_is_what_happens_to_a_wave(frequency):
    wave = np.cos(2 * np.pi * frequency * np.arange(201))[None, None].repeat(40, 1)
    out = BlurFront(9).double()(torch.from_numpy(wave)).numpy()
    middle = out[0, 20, 60:140]
    expected = BlurFront(9).response(frequency) * wave[0, 20, 60:140]
    np.testing.assert_allclose(np.abs(middle), np.abs(expected), atol=1e-6)


def test_a_blur_against_a_frequency_is_the_smallest_that_does():
    blur = BlurFront.against(0.2, left=0.1)
    assert blur.response(0.2) <= 0.1 < BlurFront(blur.kernel - 2).response(0.2)


@pytest.mark.parametrize("soft", [True, False])
def test_low_pass_is_the_cosine_transform(soft):
    x, highest = RNG.normal(size=(2, 3, 12, 10)), 0.2
    along = [np.arange(n) / (2 * n) for n in (12, 10)]
    if soft:
        keep = [0.5 ** ((f / highest) ** 2) for f in along]
    else:
        keep = [f <= highest for f in along]
    spectrum = dctn(x, axes=(2, 3), norm="ortho") * np.outer(*keep)
    expected = idctn(spectrum, axes=(2, 3), norm="ortho")
    found = LowPass((12, 10), highest, soft=soft).double()(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("front", [BlurFront(5), LowPass((8, 8), 0.2)])
@pytest.mark.parametrize("composite", ["epsilon", "epsilon_gamma", None])
def test_relevance_adds_up(front, composite):
    x = RNG.random((30, 8, 8))
    below = nn.Sequential(front, nn.Flatten()).double()
    model = KernelDensity(bandwidth=0.5).fit(encoded(below, x))
    net = neuralize(model, features=below)
    found = xai.explain(net, x[:5], composite=composite, progress=False)
    assert found.relative_conservation_error.max() < 1e-8
    np.testing.assert_allclose(
        found.original, model.score_samples(encoded(below, x[:5])), rtol=1e-9
    )


def test_a_detector_that_reads_noise_finds_defects_behind_a_blur():
    """Deployed pictures are smoother; the raw detector then misses what the blurred one finds."""
    rng = np.random.default_rng(1)
    n, side = 120, 24
    ground = ndimage.gaussian_filter(rng.normal(size=(n, side, side)), (0, 3, 3)) * 0.5
    noise = 0.4 * rng.normal(size=ground.shape)
    defect = np.arange(n) >= 80
    ground[defect, 6:16, 6:16] += 0.5
    evaluated, deployed = ground + noise, ground + ndimage.gaussian_filter(noise, (0, 1, 1))

    def misses(front):
        shown = [encoded(front, x.astype(np.float32)) for x in (evaluated, deployed)]
        detector = D2Neighbors().fit(shown[0][:60])
        scores = detector.decision_function(shown[0][60:])
        bad = defect[60:]
        threshold = max(np.unique(scores), key=lambda t: _f1(scores > t, bad))
        then = detector.decision_function(shown[1][60:])
        return [float((s[bad] <= threshold).mean()) for s in (scores, then)]

    before, after = misses(nn.Identity()), misses(BlurFront(11))
    assert before[1] > 0.9
    assert after[1] < 0.3 and after[0] < 0.3


def _f1(called, bad):
    """Class-balanced: classes count alike, whatever their size."""
    hit, false = called[bad].mean(), called[~bad].mean()
    return 2 * hit / (1 + hit + false)


def test_bad_input_is_refused():
    for kernel in (4, 1):
        with pytest.raises(InputError, match="odd kernel"):
            BlurFront(kernel)
    with pytest.raises(InputError, match="more than 5 pixels"):
        BlurFront(11)(torch.zeros(1, 5, 9))
    with pytest.raises(InputError, match="cycles per pixel"):
        BlurFront.against(0.0)
    with pytest.raises(InputError, match="above 0 and up to"):
        LowPass((8, 8), 0.7)
    with pytest.raises(InputError, match="8 x 8"):
        LowPass((8, 8), 0.2)(torch.zeros(1, 7, 8))
