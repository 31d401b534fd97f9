"""The pictures that ship, and the mark that can be planted in them."""

import hashlib
from importlib.resources import files

import numpy as np
import pytest

from xai.datasets import CORNERS, fashion_mnist, plant_mark
from xai.errors import InputError


@pytest.mark.parametrize(("split", "each"), [("train", 600), ("test", 100)])
def test_balanced_grey_pictures(split, each):
    data = fashion_mnist(split)
    assert data.images.shape == (10 * each, 28, 28) and len(data) == 10 * each
    assert data.images.dtype == np.float64
    assert data.images.min() == 0 and data.images.max() == 1
    assert np.bincount(data.labels).tolist() == [each] * 10
    names, counts = np.unique(data.names, return_counts=True)
    assert set(names) == set(data.classes) and set(counts) == {each}


def test_train_and_test_share_no_picture():
    digests = [
        {hashlib.sha256(image.tobytes()).digest() for image in fashion_mnist(split).images}
        for split in ("train", "test")
    ]
    assert not digests[0] & digests[1]


def test_classes_are_what_they_are_called():
    """Trousers are tall, sneakers wide: the labels fit the pictures."""

    def proportions(name):
        used = fashion_mnist("test", classes=[name]).images > 0.1
        return used.any(2).sum(1).mean() / used.any(1).sum(1).mean()

    assert proportions("Trouser") > 1.5 > 1 > proportions("Sneaker")


def test_the_licence_lies_beside_the_data():
    text = (files("xai") / "data" / "fashion_mnist.LICENSE").read_text()
    assert "MIT License" in text and "Zalando SE" in text


@pytest.mark.parametrize(
    "options", [{"split": "validation"}, {"classes": ["Hat"]}, {"classes": []}]
)
def test_unknown_splits_and_classes_are_refused(options):
    with pytest.raises(InputError):
        fashion_mnist(**options)


@pytest.mark.parametrize("corner", CORNERS)
def test_a_mark_is_a_square_in_its_corner(corner):
    images = np.random.default_rng(0).uniform(0.1, 0.9, (4, 10, 12))
    kept = images.copy()
    marked, place = plant_mark(images, [1, 3], size=3, corner=corner, margin=2, value=1.0)
    np.testing.assert_array_equal(images, kept)
    expected = np.zeros((10, 12), dtype=bool)
    for y in range(10):
        for x in range(12):
            dy = y if "top" in corner else 9 - y
            dx = x if "left" in corner else 11 - x
            expected[y, x] = 2 <= dy < 5 and 2 <= dx < 5
    np.testing.assert_array_equal(place, expected)
    for i in range(4):
        changed = marked[i] != images[i]
        np.testing.assert_array_equal(changed, expected if i in (1, 3) else False)
    assert (marked[1][place] == 1).all()


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([4], {}),
        ([-1], {}),
        ([0], {"size": 10}),
        ([0], {"size": 0}),
        ([0], {"margin": -1}),
        ([0], {"corner": "middle"}),
    ],
)
def test_marks_that_do_not_fit_are_refused(rows, options):
    with pytest.raises(InputError):
        plant_mark(np.zeros((4, 10, 10)), rows, **options)


def test_pictures_must_be_grey():
    with pytest.raises(InputError, match=r"\(n, h, w\)"):
        plant_mark(np.zeros((4, 10, 10, 3)), [0])
