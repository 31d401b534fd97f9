"""The reactive projection: row by row as written, constant gates, and what it spares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

import xai
from neuralize import neuralize
from neuralize.composites import epsilon
from xai.errors import InputError
from xai.mitigate import Projection, ReactiveProjection, where_artefact, without_artefact

EXACT = epsilon(1e-12)
RNG = np.random.default_rng(0)


def rows(n=400):
    """Two classes along the first axis; the artefact moves some rows along the last two."""
    label, marked = RNG.integers(0, 2, n), RNG.random(n) < 0.3
    x = RNG.normal(size=(n, 5))
    x[:, 0] += 4 * label
    x[:, 3] += 9 * marked
    x[:, 4] += 3 * marked
    return x, label, marked


def test_row_by_row():
    h, w, b = RNG.normal(size=(30, 4)), RNG.normal(size=4), 0.2
    v, z = RNG.normal(size=4), RNG.normal(size=4)
    repair = ReactiveProjection(Projection(v[None], z), w, b).double()
    found = repair(torch.from_numpy(h)).numpy()
    unit = v / np.linalg.norm(v)
    fired = 0
    for row, out in zip(h, found, strict=True):
        sees = row @ w + b > 0
        fired += sees
        expected = row + unit * (unit @ z - unit @ row) if sees else row
        np.testing.assert_allclose(out, expected, atol=1e-5)
    assert 0 < fired < 30


def test_clean_rows_are_spared_and_marked_ones_repaired():
    x, label, marked = rows()
    repair = where_artefact(x, marked).double()
    out = repair(torch.from_numpy(x)).numpy()
    everywhere = without_artefact(x, marked).double()(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(out[~marked], x[~marked])
    np.testing.assert_allclose(out[marked], everywhere[marked], atol=1e-5)
    found = KMeans(2, n_init=5, random_state=0).fit_predict(out)
    before = KMeans(2, n_init=5, random_state=0).fit_predict(x)

    def agreement(a, b):
        return max((a == b).mean(), (a != b).mean())

    assert agreement(before, marked) > 0.95 > 0.7 > agreement(before, label)
    assert agreement(found, label) > 0.95 > 0.7 > agreement(found, marked)


def test_relevance_goes_through_the_branch_taken():
    x, _, marked = rows()
    repair = where_artefact(x, marked).double()
    model = KMeans(2, n_init=5, random_state=0).fit(repair(torch.from_numpy(x)).numpy())
    encoder = nn.Sequential(nn.Linear(5, 5, bias=False), repair).double()
    with torch.no_grad():
        encoder[0].weight.copy_(torch.eye(5))
    found = xai.explain(neuralize(model, features=encoder), x, composite=EXACT, progress=False)
    assert found.relative_conservation_error.max() < 1e-9
    # a clean row is explained as if nothing were there
    plain = xai.explain(neuralize(model), x, progress=False)
    np.testing.assert_allclose(found.values[~marked], plain.values[~marked], atol=1e-6)
    # and a marked one as by the projection alone
    alone = nn.Sequential(encoder[0], repair.projection)
    always = xai.explain(neuralize(model, features=alone), x, composite=EXACT, progress=False)
    np.testing.assert_allclose(found.values[marked], always.values[marked], atol=1e-9)


def test_state():
    x, _, marked = rows()
    repair = where_artefact(x, marked)
    assert set(repair.state_dict()) == {
        "weight", "bias", "projection.directions", "projection.clean",
    }  # fmt: skip


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="shape"):
        ReactiveProjection(Projection(np.eye(3)[:1], np.zeros(3)), np.zeros(2), 0.0)
    with pytest.raises(InputError, match="finite"):
        ReactiveProjection(Projection(np.eye(3)[:1], np.zeros(3)), np.full(3, np.nan), 0.0)
    with pytest.raises(InputError, match="one kind"):
        where_artefact(np.eye(3), np.zeros(3, bool))
