"""Rows cut into patches (of pictures) or features (of tables), to replace some of them."""

from __future__ import annotations

import numpy as np

from xai.audit.context import LARGE, AuditContext
from xai.plot.images import relevance_map
from xai.relevance import Array

GRID = 8
"""A picture is cut into 8 x 8 patches, since scattered pixels would be noise."""


def is_large(audit: AuditContext) -> bool:
    """Whether rows are pictures so large that a network takes long over each."""
    return audit.is_image and audit.planes[0, ..., 0].size >= LARGE


def patches_of(audit: AuditContext) -> tuple[Array, int]:
    """The patch of every feature ``(d,)``, and how many there are."""
    if not audit.is_image:
        d = audit.flat.shape[1]
        return np.arange(d), d
    h, w, channels = audit.planes.shape[1:]
    down, right = (np.arange(n) * min(GRID, n) // n for n in (h, w))
    picture = down[:, None] * min(GRID, w) + right
    planes = np.broadcast_to(picture[..., None], (h, w, channels))
    return audit.from_planes(planes), min(GRID, h) * min(GRID, w)


def patch_sums(audit: AuditContext, rows: Array, patches: Array, count: int) -> Array:
    """Relevance of every patch of these rows ``(k, count)``."""
    values = audit.relevance_of(rows).values
    if not audit.is_image:
        return values.reshape(len(rows), -1)
    maps = relevance_map(values).reshape(len(rows), -1)
    places = audit.as_planes(patches)[..., 0].ravel()
    return np.stack([np.bincount(places, picture, count) for picture in maps])


def chosen_features(chosen: Array, patches: Array, count: int) -> Array:
    """Which features lie in the chosen patches ``(k, m)`` of each row, ``(k, d)``."""
    inside = np.zeros((len(chosen), count), bool)
    np.put_along_axis(inside, chosen, True, axis=1)
    features: Array = inside[:, patches]
    return features
