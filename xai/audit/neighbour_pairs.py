"""Pairs of neighbours in an embedding, and where in both pictures their likeness comes from.

Unit embeddings ``z``, their mean ``mu``. What makes ``b`` nearer to ``a`` than rows are on average
is ``<z_a, z_b - mu>``. By BiLRP its relevance is one of pairs of pixels. Summed over ``b`` (with
what is absorbed there), it is one pass of LRP through ``a`` that starts with ``z_a * (z_b - mu)``,
and likewise for ``b``: these sums need no directions of the embedding one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from neuralize.lrp import LRP
from xai.audit.context import AuditContext
from xai.audit.encoded import encoded
from xai.audit.windows import window_shares
from xai.plot.images import relevance_map
from xai.relevance import Array

POOL = 500
"""Rows among which neighbours are looked for."""

AT_ONCE = 16
"""Pairs traced at a time, or fewer, where the encoder's activations are large."""

COPY = 1e-6
"""Nearer than this in cosine, the other row is a copy."""


@dataclass(frozen=True)
class Pool:
    """Some rows as the encoder sees them.

    Attributes
    ----------
    rows
        Which ``(p,)``.
    unit
        Their embeddings, of length one ``(p, q)``; rows with an embedding of zero are left out.
    mean
        Of these ``(q,)``.
    """

    rows: Array
    unit: Array
    mean: Array

    def nearest(self, chosen: Array) -> Array:
        """Position of the nearest other row of each ``(k,)``, copies left out."""
        cosine = self.unit[chosen] @ self.unit.T
        cosine[cosine > 1 - COPY] = -np.inf
        cosine[np.arange(len(chosen)), chosen] = -np.inf
        nearest: Array = cosine.argmax(1)
        return nearest

    def likest(self, a: int, b: int, count: int) -> Array:
        """Positions of the rows that have most of what ``a`` and ``b`` have in common."""
        one, two = self.unit[a] - self.mean, self.unit[b] - self.mean
        # where both lie on one side of the mean, that much
        shared = np.sign(one) * np.minimum(np.abs(one), np.abs(two)) * (one * two > 0)
        score = (self.unit - self.mean) @ shared
        score[[a, b]] = -np.inf
        order: Array = np.argsort(-score)[:count]
        return order


def pool(audit: AuditContext) -> Pool:
    """Rows drawn at random, and their embeddings."""
    rows = np.sort(audit.rng.choice(len(audit), min(POOL, len(audit)), replace=False))
    phi = encoded(audit, audit.data[rows])
    length = np.linalg.norm(phi, axis=1)
    rows, phi, length = rows[length > 0], phi[length > 0], length[length > 0]
    unit = phi / length[:, None]
    return Pool(rows, unit, unit.mean(0))


def common_maps(audit: AuditContext, pooled: Pool, a: Array, b: Array) -> tuple[Array, Array]:
    """Relevance of what the pairs have in common, in ``a`` and in ``b``, ``(k, h, w)`` each."""
    lrp = LRP(audit.net.features, audit.composite)  # type: ignore[arg-type]
    size = min(AT_ONCE, audit.net.rows_at_once)
    found = []
    for one, two in ((a, b), (b, a)):
        seed = pooled.unit[one] * (pooled.unit[two] - pooled.mean)
        maps = []
        for i in range(0, len(one), size):
            x = torch.as_tensor(audit.data[pooled.rows[one[i : i + size]]])
            trace = lrp.trace(x.to(audit.net.device))
            start = torch.as_tensor(seed[i : i + size]).to(trace.output)
            maps.append(relevance_map(trace.relevance(start)[0].cpu().numpy()))
        found.append(np.concatenate(maps))
    return found[0], found[1]


def shared_windows(maps: tuple[Array, Array]) -> Array:
    """What every window holds of the positive relevance, in the picture where it holds less.

    ``(k, h', w')``, by upper left corner.
    """
    least: Array = np.minimum(*map(window_shares, maps))
    return least
