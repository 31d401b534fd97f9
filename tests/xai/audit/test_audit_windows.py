"""Windows and patches against loops over every place."""

from __future__ import annotations

import numpy as np
import pytest

from neuralize import neuralize
from xai.audit import AuditContext
from xai.audit.patches import chosen_features, patch_sums, patches_of
from xai.audit.windows import AREA, window, window_shares, window_side


@pytest.mark.parametrize(("h", "w"), [(28, 28), (32, 20), (11, 9), (5, 5)])
def test_window_shares_are_sums_of_positive_parts(h, w):
    maps = np.random.default_rng(0).normal(size=(3, h, w))
    s = window_side(h, w)
    assert s == 1 or s * s <= AREA * h * w
    positive = np.maximum(maps, 0)
    expected = [
        [
            [p[y : y + s, x : x + s].sum() / p.sum() for x in range(w - s + 1)]
            for y in range(h - s + 1)
        ]
        for p in positive
    ]
    np.testing.assert_allclose(window_shares(maps), expected, atol=1e-12)
    corner = (h - s, 1)
    inside = positive[:, window(corner, h, w)].sum(1) / positive.sum((1, 2))
    np.testing.assert_allclose(window_shares(maps)[:, corner[0], corner[1]], inside)


def test_maps_without_a_positive_part_rest_nowhere():
    assert not window_shares(-np.ones((2, 10, 10))).any()


@pytest.mark.parametrize("shape", [(12, 20), (3, 16, 16), (9, 9, 3)])
def test_patches_cover_a_picture_once(shape):
    data = np.random.default_rng(0).normal(size=(6, *shape))
    audit = AuditContext(neuralize(data.reshape(6, -1)[:2]), data, progress=False)
    patches, count = patches_of(audit)
    assert sorted(np.unique(patches)) == list(range(count)) and count == 64
    rows = np.array([1, 4])
    values = audit.relevance_of(rows).values.reshape(2, -1)
    sums = patch_sums(audit, rows, patches, count)
    for i in range(2):
        brute = [values[i][patches == p].sum() for p in range(count)]
        np.testing.assert_allclose(sums[i], brute, atol=1e-9)
    chosen = chosen_features(np.array([[0, 5], [63, 2]]), patches, count)
    assert (chosen == np.stack([np.isin(patches, c) for c in ([0, 5], [63, 2])])).all()
