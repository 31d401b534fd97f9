"""Ordinary changes of a given size: what a change of the whole row is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xai.audit.context import FEWER_ROWS, AuditContext
from xai.audit.trial import FEWER_PLACES, RANDOM_PLACES, Replacement
from xai.relevance import Array


def natural_moves(
    audit: AuditContext, rows: Array, altered: Array, most: int = RANDOM_PLACES
) -> Iterator[Replacement]:
    """Each row moved towards another row, as far as it was altered ``(k, d)``.

    As noise in all directions does little to most models, so does content: a model may be asked
    to mind an alteration less than a step of the same length towards another picture.
    """
    rng = audit.rng
    x = audit.flat[rows].astype(np.float64)
    length = np.linalg.norm(altered - x, axis=1)
    large = audit.most_rows == FEWER_ROWS
    everywhere = np.ones(x.shape[1], dtype=bool)
    for _ in range(min(most, FEWER_PLACES) if large else most):
        other = (rows + rng.integers(1, len(audit), size=len(rows))) % len(audit)
        step = audit.flat[other] - x
        size = np.linalg.norm(step, axis=1)
        share = np.where(size > 0, length / np.where(size > 0, size, 1), 0)
        yield Replacement(everywhere, x + step * share[:, None])
