"""Both searches together: marks on top of centred objects, whole and once."""

import numpy as np
import pytest

from xai.audit.mark_search import search
from xai.datasets import fashion_mnist

CLOTHES = fashion_mnist("train", classes=["Pullover", "Bag", "Sneaker"])


def drawn(n, seed):
    rows = np.random.default_rng(seed).permutation(len(CLOTHES))[:n]
    return CLOTHES.images[rows][..., None]


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("seed", range(8))
def test_centred_objects_end_sharply_and_are_no_marks(seed):
    assert search(drawn(400, seed), np.random.default_rng(0)).marks == ()


@pytest.mark.parametrize("seed", range(4))
def test_letters_on_top_of_clothes_are_one_mark_and_whole(seed):
    pictures, rng = drawn(400, seed), np.random.default_rng(seed)
    glyph = np.array([[c == "1" for c in row] for row in ("1010111", "1010010", "1110010")])
    # At the sides, where clothes come and go: a grey amid greys is not told from them.
    top, left = rng.integers(1, 6), rng.choice([0, 1, 20])
    place = np.zeros((28, 28), dtype=bool)
    place[top : top + 3, left : left + 7] = glyph
    rows = np.sort(rng.choice(400, 80, replace=False))
    pictures[rows] = np.where(place[..., None], 0.9, pictures[rows])
    found = search(pictures, np.random.default_rng(0))
    (mark,) = found.marks
    assert found.on_ground and overlap(mark.pixels, place) > 0.9
    assert np.isin(rows, mark.rows).all() and len(mark.rows) <= 90


def test_bare_ground_of_one_class_is_no_part_of_its_mark():
    """Sneakers are marked at the top, where they are bare; bags and pullovers show something."""
    pictures = drawn(400, 0)
    bare = np.flatnonzero(pictures[:, :8].max((1, 2, 3)) < 0.1)
    place = np.zeros((28, 28), dtype=bool)
    place[1:4, 1:5] = True
    pictures[bare] = np.where(place[..., None], 0.8, pictures[bare])
    (mark,) = search(pictures, np.random.default_rng(0)).marks
    assert np.array_equal(mark.pixels, place)


def test_two_marks_on_other_rows_are_two():
    pictures = drawn(500, 1)
    pictures[:60, 1:4, 1:4] = 0.9
    pictures[200:300, 24:27, 22:27] = 0.5
    marks = search(pictures, np.random.default_rng(0)).marks
    assert [len(mark.rows) for mark in marks] == [100, 60]
    assert [int(mark.pixels.sum()) for mark in marks] == [15, 9]
