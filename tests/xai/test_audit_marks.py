"""Finding marks: what must be found, what must not, and the levels against counting by hand."""

import numpy as np
import pytest

from xai.audit.marks import BINS, LEVEL, MAX_AREA, MIN_ROWS, _fullest_level, find_marks
from xai.datasets import CORNERS, fashion_mnist, plant_mark


def scan(images, seed=0):
    planes = images[..., None] if images.ndim == 3 else images
    return find_marks(planes, np.random.default_rng(seed))


def clothes(seed, *classes, n=400):
    data = fashion_mnist("train", classes=classes)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(data))[:n]
    return data.images[chosen], data.names[chosen]


def exactly(marks, rows, place):
    """One mark, on these rows, on this place."""
    (mark,) = marks
    assert mark.rows.tolist() == sorted(rows)
    np.testing.assert_array_equal(mark.pixels, place)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize(("size", "value"), [(2, 0.5), (3, 1.0), (4, 0.8)])
def test_finds_a_mark_in_any_corner(corner, size, value):
    images, names = clothes(size, "Trouser", "Dress")
    rows = np.flatnonzero(names == "Dress")[::3]
    marked, place = plant_mark(images, rows, size=size, corner=corner, margin=0, value=value)
    exactly(scan(marked).marks, rows, place)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_it_is_the_marked_rows_however_many_they_are(share):
    images, _ = clothes(0, "Trouser", n=300)
    rows = np.arange(0, 300)[: round(300 * share)]
    marked, place = plant_mark(images, rows, size=3)
    exactly(scan(marked).marks, rows, place)


def test_finds_a_mark_with_noise_and_a_pattern():
    rng = np.random.default_rng(0)
    images, _ = clothes(0, "Pullover", "Sneaker", n=300)
    rows = np.arange(40, 90)
    marked, place = plant_mark(images, rows, size=4, corner="top left")
    stroke = np.zeros((4, 4), dtype=bool)
    stroke[0], stroke[:, 1] = True, True  # a letter, not a square
    pattern = np.zeros_like(place)
    pattern[1:5, 1:5] = stroke
    marked[rows] = np.where(pattern, marked[rows], images[rows])
    noisy = np.clip(marked + rng.normal(0, 0.01, marked.shape), 0, 1)
    (mark,) = scan(noisy).marks
    assert mark.rows.tolist() == rows.tolist()
    np.testing.assert_array_equal(mark.pixels, pattern)


def test_two_marks_are_two():
    images, _ = clothes(1, "Trouser", "T-shirt/top")
    a, b = np.arange(20, 60), np.arange(200, 230)
    marked, place_a = plant_mark(images, a, size=3, corner="top left", margin=0)
    marked, place_b = plant_mark(marked, b, size=3, corner="bottom right", margin=0)
    first, second = scan(marked).marks
    exactly([first], a, place_a)
    exactly([second], b, place_b)


def test_a_mark_in_one_colour_is_found_in_pictures_of_several():
    images, _ = clothes(2, "Dress", n=200)
    colour = np.stack([images, images * 0.8, images * 0.5], axis=-1)
    rows = np.arange(30, 70)
    colour[rows, :3, :3, 1] = 0.6
    place = np.zeros((28, 28), dtype=bool)
    place[:3, :3] = True
    exactly(scan(colour).marks, rows, place)


def test_large_pictures_are_searched_coarsely_and_answered_in_their_own_pixels():
    rng = np.random.default_rng(0)
    images = np.zeros((60, 150, 130))
    images[:, 40:100, 40:100] = rng.uniform(size=(60, 60, 60))
    rows = np.arange(5, 25)
    images[rows, :18, 112:] = 1.0  # six of the blocks of three pixels in each direction
    (mark,) = scan(images).marks
    assert mark.rows.tolist() == rows.tolist()
    assert mark.pixels.shape == (150, 130)
    assert mark.pixels[:18, 112:].mean() > 0.9
    assert mark.pixels.sum() < 1.2 * 18 * 18


@pytest.mark.parametrize("seed", range(12))
def test_stays_quiet_on_clothes(seed):
    rng = np.random.default_rng(seed)
    names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker"]
    names += ["Bag", "Ankle boot"]
    images, _ = clothes(seed, *rng.choice(names, 1 + seed % 5, replace=False), n=500)
    assert scan(images).marks == ()


def test_stays_quiet_where_content_differs_from_row_to_row():
    rng = np.random.default_rng(0)
    images, _ = clothes(0, "Trouser", n=300)
    rows = np.arange(50)
    images[rows, 24:, 24:] = rng.uniform(0.3, 1, (50, 4, 4))
    assert scan(images).marks == ()


def test_stays_quiet_where_content_is_graded():
    """All or nothing: a corner that grows brighter from row to row is no mark."""
    images, _ = clothes(0, "Trouser", n=300)
    images[:100, 24:, 24:] = np.linspace(0, 1, 100)[:, None, None]
    assert scan(images).marks == ()


def test_stays_quiet_where_the_place_belongs_to_a_larger_content():
    images, _ = clothes(0, "Trouser", n=300)
    side = 1 + int(np.sqrt(MAX_AREA * 28 * 28))
    images[:40, :side, :side] = 1.0  # not small
    assert scan(images).marks == ()


def test_too_few_rows_are_no_group():
    images, _ = clothes(0, "Trouser", n=300)
    marked, _ = plant_mark(images, np.arange(MIN_ROWS - 1), size=4)
    assert scan(marked).marks == ()
    marked, _ = plant_mark(images, np.arange(MIN_ROWS), size=4)
    assert len(scan(marked).marks) == 1


def test_pictures_without_ground_have_no_empty_pixels():
    rng = np.random.default_rng(0)
    seen = scan(rng.uniform(size=(100, 16, 16)))
    assert seen.marks == () and seen.empty == 0


def test_constant_pictures_are_all_ground():
    seen = scan(np.ones((50, 6, 6)))
    assert seen.marks == () and seen.empty == 1


def test_fullest_level_against_counting():
    rng = np.random.default_rng(0)
    bins = rng.integers(0, BINS, (30, 25)).astype(np.int16)
    where = rng.uniform(size=bins.shape) < 0.7
    where[:, 3] = False
    level = _fullest_level(bins, where)
    for column in range(bins.shape[1]):
        counts = [
            (where[:, column] & (bins[:, column] >= b) & (bins[:, column] < b + LEVEL)).sum()
            for b in range(BINS)
        ]
        assert level[:, column].sum() == max(counts)
        inside = bins[level[:, column], column]
        assert len(inside) == 0 or np.ptp(inside) < LEVEL
        assert not (level[:, column] & ~where[:, column]).any()


def test_stays_quiet_on_strokes_and_holes():
    """Thin strokes in half of the pictures share saturated pixels; their ends fade row by row."""
    rng = np.random.default_rng(0)
    images = np.zeros((200, 16, 16))
    for i in range(100):
        top, bottom = rng.integers(1, 6), rng.integers(10, 15)
        images[i, top:bottom, 8] = 1.0
        images[100 + i, top:bottom, 4] = images[100 + i, top:bottom, 12] = 1.0
    assert scan(images).marks == ()
