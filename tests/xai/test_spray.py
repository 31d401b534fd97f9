"""Spectral clusters of relevance maps against a dense computation and planted groups."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from xai.errors import InputError
from xai.spray import spectral_clusters


def planted(sizes=(60, 30, 12), p=12, seed=0):
    rng = np.random.default_rng(seed)
    maps, groups = [], np.repeat(np.arange(len(sizes)), sizes)
    for g in groups:
        row = rng.random(p) * 0.3
        row[3 * g : 3 * g + 3] += 1.5
        maps.append(row * rng.uniform(0.1, 10))
    return np.array(maps), groups


@pytest.mark.parametrize("seed", range(4))
def test_planted_groups_are_found_and_counted_by_the_eigengap(seed):
    maps, groups = planted(seed=seed)
    found = spectral_clusters(maps, seed=seed)
    assert found.count == 3 and adjusted_rand_score(groups, found.labels) == 1
    assert np.bincount(found.labels).tolist() == [60, 30, 12]
    assert found.gap > 0.1


def test_eigenvalues_are_those_of_the_dense_matrix():
    maps, _ = planted()
    found = spectral_clusters(maps, eigenpairs=8)
    x = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    n = len(x)
    joined = np.zeros((n, n))
    for i in range(n):
        far = [((x[i] - x[j]) ** 2).sum() if i != j else np.inf for j in range(n)]
        for j in np.argsort(far)[:10]:
            joined[i, j] = joined[j, i] = 1
    d = joined.sum(1)
    values = np.linalg.eigvalsh(joined / np.sqrt(d[:, None] * d))[::-1]
    np.testing.assert_allclose(found.eigenvalues, values[:8], atol=1e-10)


def test_scale_of_a_map_does_not_count():
    maps, _ = planted()
    scaled = maps * np.random.default_rng(1).uniform(0.01, 100, (len(maps), 1))
    assert (spectral_clusters(maps).labels == spectral_clusters(scaled).labels).all()


def test_a_given_number_of_clusters_is_kept():
    maps, _ = planted()
    assert spectral_clusters(maps, clusters=5).count == 5


def test_bad_input_is_refused():
    maps, _ = planted()
    with pytest.raises(InputError, match="at least four maps"):
        spectral_clusters(maps[:3])
    with pytest.raises(InputError, match="some relevance"):
        spectral_clusters(np.vstack([maps, np.zeros(12)]))
    with pytest.raises(InputError, match="clusters"):
        spectral_clusters(maps, clusters=99)
