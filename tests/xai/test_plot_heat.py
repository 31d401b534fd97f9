"""Colours of anomaly maps: the scale of every scope against plain loops, and what figures say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xai.errors import InputError
from xai.plot import anomaly_maps, heat_colors

MAPS = np.random.default_rng(0).gamma(1.0, size=(4, 6, 5)) * np.array([1, 2, 5, 0.1])[:, None, None]
DATA = np.random.default_rng(1).gamma(2.0, size=(9, 6, 5))


def scaled(value: float, of: np.ndarray, q: float) -> float:
    """Shift by the smallest, divide by the quantile of what is left, cut at 1."""
    rest = np.sort(of.ravel() - of.min())
    at = q * (len(rest) - 1)
    low = int(at)
    high = min(low + 1, len(rest) - 1)
    end = rest[low] + (at - low) * (rest[high] - rest[low])
    return float(np.clip((value - of.min()) / end, 0, 1))


@pytest.mark.parametrize("scope", ["local", "semi-global", "global"])
@pytest.mark.parametrize("quantile", [0.85, 0.97, 1.0])
def test_scales_are_the_papers(scope: Any, quantile: float) -> None:
    reference = DATA if scope == "global" else None
    found = heat_colors(MAPS, scope=scope, quantile=quantile, reference=reference)
    for i, picture in enumerate(MAPS):
        of = {"local": picture, "semi-global": MAPS, "global": DATA}[scope]
        for place in np.ndindex(picture.shape):
            assert found[(i, *place)] == pytest.approx(scaled(picture[place], of, quantile))


def test_maps_without_contrast_stay_finite() -> None:
    flat = np.full((2, 3, 3), 0.5)
    assert not heat_colors(flat, scope="local").any()
    spot = np.zeros((1, 20, 20))
    spot[0, 3, 3] = 7.0  # rarer than the quantile
    colors = heat_colors(spot, quantile=0.9)
    assert colors[0, 3, 3] == 1 and colors.sum() == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"scope": "figure"}, "'semi-global'"),
        ({"scope": "global"}, "got none"),
        ({"reference": DATA}, "only"),
        ({"quantile": 0.0}, "quantile"),
    ],
)
def test_impossible_scales_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        heat_colors(MAPS, **options)


def test_maps_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="finite maps"):
        heat_colors(np.full((2, 3, 3), np.nan))
    with pytest.raises(InputError, match="1 to 16 pictures"):
        anomaly_maps(np.zeros((4, 6, 6)), MAPS)
    with pytest.raises(InputError, match="1 to 16 pictures"):
        anomaly_maps(np.zeros((20, 6, 5)), np.zeros((20, 6, 5)))


def test_figures_show_the_scaled_maps_and_name_their_scope() -> None:
    images = np.random.default_rng(2).random((4, 3, 6, 5))
    figure = anomaly_maps(images, MAPS, quantile=0.9, titles=["a", "b", "c", "$d"])
    drawn = [ax.images[0].get_array() for ax in figure.axes[:8]]
    np.testing.assert_allclose(drawn[4:], heat_colors(MAPS, quantile=0.9))
    bar = figure.axes[-1]
    np.testing.assert_allclose(bar.get_ylim(), (MAPS.min(), np.quantile(MAPS, 0.9)))
    assert "semi-global" in figure.get_supxlabel() and "0.9 quantile" in figure.get_supxlabel()
    figure = anomaly_maps(images[:1], MAPS[:1], scope="local")
    assert "its own" in figure.get_supxlabel()
    figure.canvas.draw()
