"""How far likeness, neighbours and decisions move without a place, and with it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xai.audit.context import AuditContext
from xai.audit.encoded import encoded, moves
from xai.audit.neighbour_pairs import Pool
from xai.audit.patches import is_large
from xai.audit.places import elsewhere, moved
from xai.audit.trial import CHANGED, FEWER_PLACES, RANDOM_PLACES, RARE
from xai.relevance import Array

LOST = 0.25
"""Likeness rests on a place where this share of it, beyond the average, goes with the place."""

TWICE = 2.0
"""Rows gain by the place at least so many times what they gain by what others hold there."""

PUT = 20
"""Rows without the place that get it."""


@dataclass(frozen=True)
class Likeness:
    """What replacing a place did, beside the same at random places.

    Attributes
    ----------
    lost
        Share of the likeness beyond the average that went (median over pairs).
    neighbours
        Share of the rows that get another nearest neighbour.
    changed
        Share of the decisions that change.
    random_lost, random_neighbours, random_changed
        The same for every random place ``(m,)``.
    gained
        Likeness beyond the average that other rows get with the place, over that of the pairs.
    random_gained
        The same for what another row holds there.
    put_into
        How many rows that was.
    """

    lost: float
    neighbours: float
    changed: float
    random_lost: Array
    random_neighbours: Array
    random_changed: Array
    gained: float
    random_gained: float
    put_into: int

    @property
    def rests(self) -> bool:
        """Whether likeness goes with the place, no less than with a typical one, and comes with it.

        What replaces a place is itself seen, so that random places are no mean comparison; what
        rows gain by the content of the place is compared with what they gain by another's.
        """
        goes = self.lost >= LOST and self.lost >= float(np.median(self.random_lost))
        return goes and self.gained >= TWICE * max(self.random_gained, 0.0)

    @property
    def decides(self) -> bool:
        """Whether decisions change, and more of them than at nearly all random places."""
        usual = float(np.quantile(self.random_changed, RARE))
        return self.rests and self.changed >= CHANGED and self.changed > usual

    def sentence(self, audit: AuditContext) -> str:
        """What came out, in a sentence."""
        below = int((self.random_lost < self.lost).sum())
        return (
            f"Without the place, {self.lost:.0%} of the likeness beyond the average goes, more "
            f"than for {below} of {len(self.random_lost)} random places; {self.neighbours:.0%} of "
            f"the rows get another nearest neighbour, and {self.changed:.0%} of the "
            f"{audit.decision_name} change. Rows that get the place gain {self.gained:.0%} of that "
            f"likeness, and {self.random_gained:.0%} with what others hold there."
        )

    def numbers(self, decisions: str) -> Mapping[str, float]:
        """The same for a report."""
        return {
            "place replaced: share of the likeness that goes": self.lost,
            "place replaced: the same at random places (median)": float(
                np.median(self.random_lost)
            ),
            "place replaced: share of rows with another nearest neighbour": self.neighbours,
            "place replaced: the same at random places (mean)": float(
                self.random_neighbours.mean()
            ),
            f"place replaced: share of {decisions} that change": self.changed,
            f"place replaced: {decisions} that change at random places (mean)": float(
                self.random_changed.mean()
            ),
            "place added: share of the likeness that is gained": self.gained,
            "place added: the same with what other rows hold there": self.random_gained,
        }


def likeness_without(
    audit: AuditContext, pooled: Pool, a: Array, b: Array, pixels: Array
) -> Likeness:
    """Replace the place in rows ``b`` of the pairs ``(a, b)``, and put it into other rows."""
    rng = audit.rng
    usual = audit.median_row()
    rows = pooled.rows[b]
    shifts = elsewhere(pixels, rng)[: FEWER_PLACES if is_large(audit) else RANDOM_PLACES]
    before = _beyond(pooled, a, pooled.unit[b])
    nearest = pooled.nearest(b)

    def without(place: Array) -> tuple[float, float, float]:
        altered = np.where(audit.features_of(place), usual, audit.flat[rows])
        phi = encoded(audit, altered)
        unit = phi / np.maximum(np.linalg.norm(phi, axis=1, keepdims=True), 1e-300)
        lost = float(np.median((before - _beyond(pooled, a, unit)) / before))
        cosine = unit @ pooled.unit.T
        cosine[np.arange(len(b)), b] = -np.inf
        neighbours = float((cosine.argmax(1) != nearest).mean())
        return lost, neighbours, float(moves(audit, rows, phi)[1].mean())

    own = without(pixels)
    random = np.array([without(moved(pixels, shift)) for shift in shifts]).reshape(-1, 3)
    bare = np.setdiff1d(np.arange(len(pooled.rows)), [*a, *b])
    bare = np.sort(rng.choice(bare, min(PUT, len(bare)), replace=False))
    gained = _gained(audit, pooled, int(a[0]), np.resize(b, len(bare)), bare, pixels)
    chance = _gained(audit, pooled, int(a[0]), rng.permutation(bare), bare, pixels)
    whole = float(np.median(before))
    columns = random.T
    return Likeness(
        *own, columns[0], columns[1], columns[2], gained / whole, chance / whole, len(bare)
    )


def _beyond(pooled: Pool, a: Array, unit: Array) -> Array:
    """``<z_a, z_b - mu>``: what makes the pairs nearer than average ``(k,)``."""
    found: Array = (pooled.unit[a] * (unit - pooled.mean)).sum(1)
    return found


def _gained(
    audit: AuditContext, pooled: Pool, a: int, donors: Array, rows: Array, pixels: Array
) -> float:
    """How much nearer to ``a`` rows come (median) with what the donors hold at the place."""
    content = audit.flat[pooled.rows[donors]]
    altered = np.where(audit.features_of(pixels), content, audit.flat[pooled.rows[rows]])
    phi = encoded(audit, altered)
    unit = phi / np.maximum(np.linalg.norm(phi, axis=1, keepdims=True), 1e-300)
    return float(np.median((unit - pooled.unit[rows]) @ pooled.unit[a]))
