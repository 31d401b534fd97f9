"""Replacements against dense solves and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralize import InputError
from xai.evaluate import (
    ConditionalReplacement,
    InpaintReplacement,
    MeanReplacement,
    harmonic_inpainting,
    replacement_rule,
)
from xai.evaluate.conditional import STIFFNESS_GRID, imputation_stiffness


def dense_inpainting(picture, removed):
    """Every removed pixel is the mean of its neighbours: one linear system over all pixels."""
    h, w = picture.shape
    matrix, right = np.eye(h * w), picture.astype(float).ravel().copy()
    for i, j in zip(*np.nonzero(removed), strict=True):
        near = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        near = [(a, b) for a, b in near if 0 <= a < h and 0 <= b < w]
        row = i * w + j
        right[row] = 0
        for a, b in near:
            matrix[row, a * w + b] = -1 / len(near)
    return np.linalg.solve(matrix, right).reshape(h, w)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    h=st.integers(1, 9),
    w=st.integers(2, 9),
    share=st.floats(0.05, 0.99),
)
def test_inpainting_is_the_dense_solution(seed, h, w, share):
    rng = np.random.default_rng(seed)
    pictures = rng.normal(size=(3, h, w, 2)) * 100
    removed = rng.random((3, h, w)) < share
    removed[:, 0, 0] = False
    solved = harmonic_inpainting(pictures, removed)
    warm = harmonic_inpainting(pictures, removed, rng.normal(size=pictures.shape))
    for n in range(3):
        for c in range(2):
            expected = dense_inpainting(pictures[n, :, :, c], removed[n])
            np.testing.assert_allclose(solved[n, :, :, c], expected, atol=1e-4)
            np.testing.assert_allclose(warm[n, :, :, c], expected, atol=1e-4)


def test_inpainting_on_black_ends_and_keeps_what_is_kept():
    pictures = np.zeros((2, 6, 6, 1))
    removed = np.zeros((2, 6, 6), dtype=bool)
    removed[:, 1:5, 1:5] = True
    start = np.full(pictures.shape, 7.0)
    np.testing.assert_allclose(harmonic_inpainting(pictures, removed, start), 0, atol=1e-6)
    pictures[:, 0, 0] = 3.0
    assert (harmonic_inpainting(pictures, removed)[~removed] == pictures[~removed]).all()


def test_inpainting_from_its_own_solution_on_a_black_frame_ends():
    picture = np.zeros((1, 9, 9, 1))
    picture[:, 2:7, 2:7] = 1.0
    removed = picture[..., 0] > 0
    solved = harmonic_inpainting(picture, removed)
    for _ in range(40):  # every restart shrinks the rest, down to where squares underflow
        solved = harmonic_inpainting(picture, removed, solved)
    np.testing.assert_allclose(solved, 0, atol=1e-6)


def test_inpainting_needs_something_to_go_by():
    with pytest.raises(ValueError, match="at least one kept pixel"):
        harmonic_inpainting(np.zeros((1, 2, 2, 1)), np.ones((1, 2, 2), dtype=bool))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (2, 4, 5)])
def test_pictures_are_inpainted_in_their_layout_down_to_the_mean(shape):
    rng = np.random.default_rng(0)
    d = int(np.prod(shape))
    x, reference = rng.normal(size=(2, d)), rng.normal(size=(7, d))
    rule = InpaintReplacement(reference, shape)
    path = rule.begin(x, [[0], [1]])
    order = rng.permuted(np.tile(np.arange(20), (2, 1)), axis=1)
    gone = np.zeros((2, 20), dtype=bool)
    for step in range(20):
        pixel = order[:, [step]]
        filled = path.remove(rule.pixels.reshape(20, -1)[pixel[:, 0]])
        np.put_along_axis(gone, pixel, True, axis=1)
        for row in range(2):
            if step == 19:
                np.testing.assert_allclose(filled[row], reference.mean(0))
                continue
            for channel in range(rule.pixels.shape[2]):
                index = rule.pixels[:, :, channel]
                expected = dense_inpainting(x[row][index], gone[row].reshape(4, 5))
                np.testing.assert_allclose(filled[row][index], expected, atol=1e-6)


def weights_by_loops(row, reference, scale, kept, g):
    logits = [-g * sum(((row[i] - u[i]) / scale[i]) ** 2 for i in kept) for u in reference]
    w = np.exp(np.array(logits) - max(logits))
    return w / w.sum()


@pytest.mark.parametrize("g", [0.01, 1.0, 50.0])
def test_conditional_means_by_loops_far_off_and_in_groups(g):
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(15, 6)) * [1, 10, 1, 1, 5, 1] + 1000
    scale = reference.std(0)
    x = rng.normal(size=(4, 6)) * 20 + 1000
    rule = ConditionalReplacement(reference, stiffness=g, scale=scale)
    path = rule.begin(x, [[i] for i in range(4)])
    order = rng.permuted(np.tile(np.arange(6), (4, 1)), axis=1)
    for first, last in [(0, 1), (1, 3), (3, 5), (5, 6)]:
        features = order[:, first:last]
        padded = np.hstack([features, np.full((4, 1), 6)])  # padding must do nothing
        filled = path.remove(padded)
        for row in range(4):
            kept = order[row, last:]
            w = weights_by_loops(x[row], reference, scale, kept, g)
            expected = x[row].copy()
            expected[order[row, :last]] = (w @ reference)[order[row, :last]]
            np.testing.assert_allclose(filled[row], expected, rtol=1e-8)
    np.testing.assert_allclose(filled, np.tile(reference.mean(0), (4, 1)))


def test_draws_follow_the_conditional_weights():
    rng = np.random.default_rng(2)
    reference = rng.normal(size=(5, 3))
    n, g = 20_000, 0.7
    row = np.array([0.3, -0.2, 0.5])
    x = np.tile(row, (n, 1))
    rule = ConditionalReplacement(reference, stiffness=g, sample=True)
    filled = rule.begin(x, [[0, i] for i in range(n)]).remove(np.tile([[1, 2]], (n, 1)))
    assert (filled[:, 0] == row[0]).all()
    w = weights_by_loops(row, reference, np.ones(3), [0], g)
    for u, share in zip(reference, w, strict=True):
        drawn = (filled[:, 1:] == u[1:]).all(1).mean()
        assert abs(drawn - share) < 5 * np.sqrt(share * (1 - share) / n)
    other = rule.begin(x, [[1, i] for i in range(n)]).remove(np.tile([[1, 2]], (n, 1)))
    assert (other != filled).any()


def test_the_stiffness_fills_gaps_best():
    rng = np.random.default_rng(3)
    bank = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(30, 5))
    masks = np.random.default_rng(0)
    kept = masks.random((30, 5)) < masks.random((30, 1))
    pairs = [
        ((bank[i] - bank[j])[kept[i]] ** 2).sum() for i in range(30) for j in range(30) if i != j
    ]
    middle = np.median(pairs)
    errors = []
    for g in STIFFNESS_GRID / middle:
        error = 0.0
        for i in range(30):
            rest = np.delete(bank, i, axis=0)
            w = weights_by_loops(bank[i], rest, np.ones(5), np.flatnonzero(kept[i]), g)
            error += (((w @ rest - bank[i]) ** 2)[~kept[i]]).sum()
        errors.append(error)
    best = STIFFNESS_GRID[int(np.argmin(errors))] / middle
    np.testing.assert_allclose(imputation_stiffness(bank), best)
    assert 0 < np.argmin(errors) < len(errors) - 1  # the grid is wide enough to say something


def test_the_stiffness_of_identical_or_single_rows_is_harmless():
    for rows in (np.ones((1, 3)), np.ones((4, 3))):
        rule = ConditionalReplacement(rows)
        filled = rule.begin(np.zeros((1, 3)), [[0]]).remove(np.array([[0]]))
        np.testing.assert_array_equal(filled, [[1.0, 0.0, 0.0]])


def test_tables_are_measured_in_standard_deviations_and_pictures_as_they_are():
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(20, 6)) * [1, 100, 1, 1, 1, 0]
    table = replacement_rule("conditional", rows, (6,))
    np.testing.assert_allclose(table.scale[:5], rows.std(0)[:5])
    assert table.scale[5] == 1.0
    pictures = replacement_rule("conditional", rows.reshape(20, 2, 3), (2, 3))
    np.testing.assert_array_equal(pictures.scale, np.ones(6))
    assert replacement_rule("conditional_sample", rows, (6,)).draws
    assert not table.draws


def test_names_and_references_are_checked():
    rows = np.ones((3, 2))
    assert isinstance(replacement_rule("mean", rows, (2,)), MeanReplacement)
    own = MeanReplacement(rows)
    assert replacement_rule(own, None, (2,)) is own
    with pytest.raises(InputError, match="'conditional_sample'"):
        replacement_rule("zero", rows, (2,))
    with pytest.raises(InputError, match="reference=<"):
        replacement_rule("mean", None, (2,))
    with pytest.raises(InputError, match=r"\(3, 2\)"):
        replacement_rule("mean", rows, (5,))
    with pytest.raises(InputError, match="NaN"):
        replacement_rule("mean", rows * np.nan, (2,))
    with pytest.raises(InputError, match="pictures"):
        replacement_rule("inpaint", rows, (2,))
