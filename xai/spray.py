"""SpRAy: which strategies does a model use: spectral clusters of its relevance maps.

Lapuschkin et al., Unmasking Clever Hans predictors and assessing what machines really learn, Nature
Communications 10, 2019. Maps are joined to their nearest neighbours, ``A``, symmetric; the largest
eigenvalues of ``D^-1/2 A D^-1/2`` are close to 1 once per cluster, and the largest gap among them
says how many there are (von Luxburg, A tutorial on spectral clustering, 2007).

Neighbours are found block by block and the graph is sparse, so memory grows with the number of maps
and not with its square: 100,000 maps fit.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh, lobpcg
from sklearn.cluster import KMeans

from xai.errors import InputError
from xai.nearest import EXACT, nearest

NEIGHBOURS = 10
EIGENPAIRS = 32

TOLERANCE = 1e-5
"""Relative error of the eigenvalues of many maps; of few, they are as exact as float64."""

RESTARTS, REFINEMENTS = 200, 40
"""Most rounds of Lanczos, and of LOBPCG from where that stopped, for eigenvalues close together."""


@dataclass(frozen=True, eq=False)
class SpectralClusters:
    """Clusters of maps.

    Attributes
    ----------
    labels
        Cluster of every map ``(n,)``, 0 the largest.
    eigenvalues
        Of the normalised adjacency, from 1 downwards ``(k,)``.
    embedding
        The eigenvectors of the clusters ``(n, clusters)``, rows of length one.
    vectors
        The eigenvectors of all the eigenvalues ``(n, k)``, as they are.
    """

    labels: NDArray[np.int64]
    eigenvalues: NDArray[np.float64]
    embedding: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1

    @property
    def gap(self) -> float:
        """The eigengap behind the last cluster; the larger, the clearer."""
        return float(self.eigenvalues[self.count - 1] - self.eigenvalues[self.count])


def spectral_clusters(
    maps: ArrayLike,
    *,
    clusters: int | None = None,
    neighbours: int = NEIGHBOURS,
    eigenpairs: int = EIGENPAIRS,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> SpectralClusters:
    """Cluster relevance maps ``(n, p)``, each scaled to length one.

    Parameters
    ----------
    clusters
        How many; the largest eigengap says so when missing.
    neighbours
        Maps each map is joined to.
    eigenpairs
        Largest number of clusters that is looked for, plus one.
    seed
        Of the eigenvectors' start and of k-means.
    device
        Where neighbours are looked for; a GPU if there is one.

    Raises
    ------
    InputError
        Fewer than four maps, maps that are zero or not finite, a number of clusters that is not
        possible.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> maps = rng.random((60, 8))
    >>> maps[:45, 0] += 9
    >>> maps[45:, 5] += 9
    >>> np.bincount(spectral_clusters(maps).labels).tolist()
    [45, 15]
    """
    x = np.asarray(maps)
    x = x.astype(np.float32 if x.dtype == np.float32 else np.float64, copy=False)
    if x.ndim != 2 or len(x) < 4:
        raise InputError(f"Expected at least four maps (n, p), got shape {x.shape}.")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not (np.isfinite(x).all() and length.all()):
        raise InputError("Expected finite maps with some relevance, got maps without.")
    n = len(x)
    pairs = min(eigenpairs, n - 2)
    if clusters is not None and not 1 <= clusters < pairs:
        raise InputError(f"Expected 1 to {pairs - 1} clusters, got {clusters}.")
    k = min(neighbours, n - 1)
    values, vectors = _leading(_joined(nearest(x / length, k, device)), pairs, seed)
    count = clusters or int(np.argmax(values[:-1] - values[1:])) + 1
    embedding = vectors[:, :count]
    size = np.linalg.norm(embedding, axis=1, keepdims=True)
    embedding = embedding / np.where(size > 0, size, 1.0)
    found = KMeans(count, n_init=10, random_state=seed).fit_predict(embedding)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    labels = np.argsort(order)[found].astype(np.int64)
    return SpectralClusters(labels, values, embedding, vectors)


def _joined(near: NDArray[np.int64]) -> sparse.csr_array:
    """The normalised adjacency of rows joined to those ``near`` ``(n, k)``, either way."""
    n, k = near.shape
    rows = np.repeat(np.arange(n), k)
    graph = sparse.csr_array((np.ones(n * k), (rows, near.ravel())), shape=(n, n))
    graph = graph.maximum(graph.T)
    root = sparse.diags_array(1 / np.sqrt(graph.sum(1)))
    return sparse.csr_array(root @ graph @ root)


def _leading(
    matrix: sparse.csr_array, pairs: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest eigenvalues ``(pairs,)``, from the largest on, and their eigenvectors."""
    n = matrix.shape[0]
    rng = np.random.default_rng(seed)
    many = n > EXACT
    try:
        values, vectors = eigsh(
            matrix,
            pairs,
            which="LA",
            v0=rng.random(n),
            tol=TOLERANCE if many else 0,
            maxiter=RESTARTS if many else None,
        )
    except ArpackNoConvergence as stopped:
        start = rng.normal(size=(n, pairs))
        done = min(pairs, stopped.eigenvectors.shape[1])
        start[:, :done] = stopped.eigenvectors[:, :done]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the best so far will do
            values, vectors = lobpcg(
                matrix, start, largest=True, tol=TOLERANCE, maxiter=REFINEMENTS
            )
    order = np.argsort(-values)
    return values[order], vectors[:, order]
