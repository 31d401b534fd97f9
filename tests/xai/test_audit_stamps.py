"""Stamps on photographs: found with place and rows, and not where photographs only look alike."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_sample_images

from xai.audit import Audit
from xai.audit.places import box, inpainted, other_places
from xai.audit.stamps import find_stamps

SIDE = 32


def crops(n, seed=0):
    """Real photographs in parts ``(n, 32, 32, 3)`` from 0 to 1."""
    rng = np.random.default_rng(seed)
    found, both = [], load_sample_images().images
    for k in range(n):
        photo = both[k % 2]
        scale = int(rng.integers(1, 5))
        y, x = (int(rng.integers(size - SIDE * scale)) for size in photo.shape[:2])
        part = photo[y : y + SIDE * scale, x : x + SIDE * scale] / 255.0
        found.append(part.reshape(SIDE, scale, SIDE, scale, 3).mean((1, 3)))
    return np.array(found)


@pytest.fixture(scope="module")
def photos():
    return crops(600)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def stamped(photos, kind, share, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(photos), round(share * len(photos)), replace=False))
    place = np.zeros((SIDE, SIDE), dtype=bool)
    content = np.zeros((SIDE, SIDE, 3))
    if kind == "tag":
        place[2:6, 25:30] = True
        content[:] = 1.0
    elif kind == "frame":
        place[:] = True
        place[1:-1, 1:-1] = False
        content[:] = 0.3
    else:
        y, x = np.mgrid[:9, :9] - 4
        ring = (np.hypot(y, x) < 4.5) & ((np.hypot(y, x) > 2.5) | (abs(x) < 1))
        place[21:30, 2:11] = ring
        content[21:30, 2:11] = np.where(abs(x) < 1, 0.9, 0.1)[..., None]
    out = photos.copy()
    out[rows] = np.where(place[..., None], content, photos[rows])
    return out, rows, place


@pytest.mark.parametrize("seed", range(3))
def test_photographs_alone_have_none(photos, seed):
    rng = np.random.default_rng(seed)
    some = photos[rng.choice(len(photos), 300, replace=False)]
    assert find_stamps(some, rng) == ()


@pytest.mark.parametrize(
    ("kind", "share"), [("tag", 0.1), ("tag", 0.4), ("logo", 0.05), ("frame", 0.1)]
)
def test_stamps_are_found_where_they_are(photos, kind, share):
    pictures, rows, place = stamped(photos, kind, share)
    (stamp,) = find_stamps(pictures, np.random.default_rng(0))
    assert overlap(stamp.pixels, place) > 0.8
    assert np.isin(rows, stamp.rows).mean() > 0.95
    assert len(stamp.rows) < 1.5 * len(rows)  # white sky carries a white tag, too


def test_noise_and_blocks_of_a_codec_do_not_hide_them(photos):
    pictures, rows, place = stamped(photos, "logo", 0.2)
    noisy = pictures + np.random.default_rng(0).normal(0, 0.02, pictures.shape)
    (stamp,) = find_stamps(noisy, np.random.default_rng(0))
    assert overlap(stamp.pixels, place) > 0.6
    assert np.isin(rows, stamp.rows).mean() > 0.8


def test_the_audit_removes_them_by_what_is_around(photos):
    pictures, _, place = stamped(photos, "logo", 0.3)
    flat = pictures.reshape(len(pictures), -1)
    audit = Audit(
        KMeans(5, n_init=1, random_state=0).fit(flat[:300]),
        pictures[300:],
        checks=["placement"],
        progress=False,
    )
    marks = [f for f in audit.run().findings if "mark" in f.title]
    (finding,) = marks
    assert overlap(finding.suspect["pixels"], place) > 0.8
    assert "filled in smoothly" in finding.counterfactual.tested
    filled = inpainted(audit.context, np.arange(3), place).reshape(3, SIDE, SIDE, 3)
    outside = audit.context.planes[:3]
    assert np.array_equal(filled[:, ~place], outside[:, ~place])
    top, bottom, left, right = box(place)
    inside, around = filled[:, place], outside[:, top - 1 : bottom + 2, left - 1 : right + 2]
    assert (inside.max(1) <= around.max((1, 2)) + 1e-6).all()  # the maximum principle


def test_a_frame_is_compared_with_squares_of_its_area():
    frame = np.ones((12, 12), dtype=bool)
    frame[1:-1, 1:-1] = False
    places = other_places(frame, np.random.default_rng(0))
    assert {int(place.sum()) for place in places} == {int(frame.sum())}
