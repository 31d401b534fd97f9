"""Strategies: clusters of the relevance maps of what is decided alike, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from xai.audit.context import AuditContext
from xai.audit.group_shift import association, permuted
from xai.audit.marks import MIN_ROWS, NEIGHBOURS
from xai.audit.pooling import averaged, enlarged
from xai.plot.images import relevance_map
from xai.relevance import Array
from xai.spray import SpectralClusters, spectral_clusters

LEAST = 4 * MIN_ROWS
"""Maps of a decision that clusters are looked for in."""

SIDE = 32
"""Maps are averaged down to at most this many pixels a side."""

SMALL = 0.4
"""A cluster is small if it has at most this share of the maps of its decision."""

AREA = 0.1
"""A place of a cluster is at most this share of the picture."""

PERMUTATIONS = 199

ASSOCIATED = 0.3
"""Clusters go with given groups from this Cramer's V within labels on."""

OUTSIDE = 0.8
"""A place lies outside the masks if this share of it does, in the mean over the cluster."""


@dataclass(frozen=True, eq=False)
class Decision:
    """Clusters of the maps of what is decided alike.

    Attributes
    ----------
    name
        ``"cluster 2"``, ``"abnormal"``, ``"normal"``.
    rows
        Positions among the audited rows ``(k,)``.
    maps
        Relevance summed over channels, averaged down ``(k, h, w)``.
    clusters
        Of the maps.
    """

    name: str
    rows: Array
    maps: Array
    clusters: SpectralClusters

    @property
    def shares(self) -> Array:
        """Share of every pixel in the absolute relevance of its map ``(k, h, w)``."""
        size = np.abs(self.maps)
        shares: Array = size / size.sum((1, 2), keepdims=True)
        return shares

    def small(self) -> Iterator[Array]:
        """Members of every small cluster, as positions among ``rows``."""
        for cluster in range(self.clusters.count):
            members = np.flatnonzero(self.clusters.labels == cluster)
            if MIN_ROWS <= len(members) <= SMALL * len(self.rows):
                yield members

    def place(self, members: Array, shape: tuple[int, int]) -> Array:
        """Where the members have more of their relevance than the others: pixels of ``shape``.

        Of the pixels with the largest excess, at most :data:`AREA` of the picture, the connected
        region that has most of it.
        """
        inside = np.zeros(len(self.rows), bool)
        inside[members] = True
        excess = self.shares[inside].mean(0) - self.shares[~inside].mean(0)
        high = excess > max(0.0, float(np.quantile(excess, 1 - AREA)))
        high[np.unravel_index(excess.argmax(), excess.shape)] = True
        regions, count = ndimage.label(high, NEIGHBOURS)
        weight = ndimage.sum(excess, regions, np.arange(1, count + 1))
        return enlarged(regions == 1 + int(np.argmax(weight)), factor_of(shape), *shape)


def factor_of(shape: tuple[int, int]) -> int:
    """By how much maps are averaged down."""
    return max(1, -(-max(shape) // SIDE))


def decisions(audit: AuditContext) -> Iterator[Decision]:
    """Every decision with enough rows whose relevance is not zero."""
    maps = relevance_map(audit.relevance.values)
    small = averaged(maps[..., None], factor_of(maps.shape[1:]))[..., 0]
    made = audit.decision[audit.explained]
    for value in np.unique(made):
        own = np.flatnonzero((made == value) & small.any((1, 2)))
        if len(own) < LEAST:
            continue
        found = spectral_clusters(small[own].reshape(len(own), -1), seed=audit.seed)
        if audit.net.kind != "outlier":
            name = f"cluster {value}"
        else:
            name = "abnormal" if value else "normal"
        yield Decision(name, audit.explained[own], small[own], found)


def follows_groups(audit: AuditContext, decision: Decision) -> tuple[float, float]:
    """Cramer's V of clusters and groups within labels, and what it must exceed."""
    assert audit.groups is not None
    groups = np.unique(audit.groups[decision.rows], return_inverse=True)[1]
    labels = None
    if audit.labels is not None:
        labels = np.unique(audit.labels[decision.rows], return_inverse=True)[1]
    found = decision.clusters.labels
    rng = audit.rng
    null = [association(found, permuted(groups, labels, rng), labels) for _ in range(PERMUTATIONS)]
    return association(found, groups, labels), max(ASSOCIATED, max(null))


def outside(audit: AuditContext, rows: Array, pixels: Array) -> bool:
    """Whether a place lies outside the masks of these rows, and the masks leave that much room."""
    if audit.masks is None:
        return False
    inside = audit.masks[rows]
    return bool(1 - inside[:, pixels].mean() >= OUTSIDE and inside.any())
