"""Localisation against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

import xai
from neuralize import InputError
from xai.evaluate import localisation

finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 1))


@settings(max_examples=60, deadline=None)
@given(relevance=arrays(float, (3, 12), elements=finite), data=st.data())
def test_average_precision_and_cosine_are_scikit_learns(relevance, data):
    inside = data.draw(st.integers(1, 11))
    masks = np.random.default_rng(inside).permuted(np.tile(np.arange(12) < inside, (3, 1)), axis=1)
    for magnitude in (False, True):
        frame = localisation(relevance, masks, magnitude=magnitude)
        values = np.abs(relevance) if magnitude else relevance
        for row in range(3):
            expected = average_precision_score(masks[row], values[row])
            np.testing.assert_allclose(frame["average_precision"][row], expected)
            cosine = cosine_similarity(values[[row]], masks[[row]].astype(float))[0, 0]
            np.testing.assert_allclose(frame["cosine"][row], cosine, atol=1e-12)
            top = [i for i in range(12) if values[row, i] == values[row].max()]
            np.testing.assert_allclose(
                frame["pointing_game"][row], np.mean([masks[row, i] for i in top])
            )
            positive = [max(v, 0.0) for v in values[row]]
            share = sum(v for v, m in zip(positive, masks[row], strict=True) if m)
            expected = share / sum(positive) if sum(positive) else 0.0
            np.testing.assert_allclose(frame["mass_inside"][row], expected, atol=1e-12)
        assert not frame.isna().any().any()


def test_perfect_and_reversed_relevance():
    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[:, 1:3, 1:3] = True
    frame = localisation(np.stack([masks[0] * 2.0, 1.0 - masks[1]]), masks)
    assert frame.loc[0].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert frame.loc[1, ["pointing_game", "cosine", "mass_inside"]].tolist() == [0.0, 0.0, 0.0]


def test_relevance_without_information():
    mask = np.array([[True, False, False, False]])
    flat = localisation(np.zeros((1, 4)), mask).iloc[0]
    assert flat.tolist() == [0.25, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("axis", [1, 3])
def test_channels_are_added_up(axis):
    rng = np.random.default_rng(0)
    picture = rng.normal(size=(2, 5, 6, 3))
    masks = rng.random((2, 5, 6)) < 0.3
    frame = localisation(np.moveaxis(picture, 3, axis), masks)
    np.testing.assert_allclose(frame, localisation(picture.sum(3), masks))


def test_a_relevance_object_brings_its_row_names():
    x = np.array([[1.0, 0.0], [0.0, 3.0]])
    relevance = xai.explain(np.array([[0.0, 0.0], [4.0, 4.0]]), x)
    masks = np.array([[True, False], [False, True]])
    frame = localisation(relevance, masks)
    np.testing.assert_allclose(frame, localisation(relevance.values, masks.astype(int)))
    assert frame.agg(["mean", "sem"]).shape == (2, 4)


def test_misuse():
    relevance = np.ones((2, 3))
    masks = np.array([[True, False, False], [False, False, False]])
    with pytest.raises(InputError, match="an empty mask in row 1"):
        localisation(relevance, masks)
    with pytest.raises(InputError, match="a full mask in row 1"):
        localisation(relevance, masks | [[False], [True]])
    with pytest.raises(InputError, match="1 and 0"):
        localisation(relevance, np.full((2, 3), 255))
    with pytest.raises(InputError, match="shape"):
        localisation(relevance, masks[:, :2])
    with pytest.raises(InputError, match="NaN"):
        localisation(relevance * np.nan, [[1, 0, 0], [1, 0, 0]])
