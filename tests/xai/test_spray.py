"""Spectral clusters of relevance maps against a dense computation and planted groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from xai import nearest as nearest_module
from xai import spray
from xai.errors import InputError
from xai.nearest import nearest
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


@pytest.mark.filterwarnings("ignore:Graph is not fully connected")
@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_finds_the_same_clusters(seed):
    maps, _ = planted(sizes=(150, 90, 40), seed=seed)
    x = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    graph = NearestNeighbors(n_neighbors=10).fit(x).kneighbors_graph()
    theirs = SpectralClustering(3, affinity="precomputed", random_state=seed).fit_predict(
        sparse.csr_matrix(graph.maximum(graph.T))
    )
    assert adjusted_rand_score(theirs, spectral_clusters(maps, seed=seed).labels) == 1


@pytest.mark.parametrize("exact", [10**9, 0])
def test_neighbours_are_those_of_all_distances_whatever_the_block(exact, monkeypatch):
    monkeypatch.setattr(nearest_module, "EXACT", exact)
    monkeypatch.setattr(nearest_module, "BLOCK_BYTES", 5000)  # a few rows at a time
    x = np.random.default_rng(0).normal(size=(203, 7))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    far = ((x[:, None] - x) ** 2).sum(2)
    np.fill_diagonal(far, np.inf)
    np.testing.assert_array_equal(nearest(x, 6), np.argsort(far, 1)[:, :6])


def test_many_maps_are_clustered_like_few(monkeypatch):
    maps, groups = planted(sizes=(300, 150, 60))
    few = spectral_clusters(maps)
    monkeypatch.setattr(spray, "EXACT", 0)
    monkeypatch.setattr(nearest_module, "EXACT", 0)
    many = spectral_clusters(maps.astype(np.float32))
    assert (many.labels == few.labels).all() and adjusted_rand_score(groups, many.labels) == 1
    np.testing.assert_allclose(many.eigenvalues[:4], few.eigenvalues[:4], atol=1e-3)


def test_eigenvalues_that_lanczos_does_not_reach_are_refined(monkeypatch):
    maps, groups = planted(sizes=(300, 150, 60))

    def stops(*_, **__):
        raise ArpackNoConvergence("", np.zeros(0), np.zeros((len(maps), 0)))

    expected = spectral_clusters(maps).eigenvalues
    monkeypatch.setattr(spray, "eigsh", stops)
    found = spectral_clusters(maps)
    assert adjusted_rand_score(groups, found.labels) == 1
    np.testing.assert_allclose(found.eigenvalues[:4], expected[:4], atol=1e-3)
