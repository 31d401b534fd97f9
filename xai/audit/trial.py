"""Testing a suspicion: replace a place in some rows, and compare with places chosen at random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from xai.audit.context import MAX_ROWS, AuditContext
from xai.relevance import Array
from xai.report.finding import BeforeAfter, Severity

RANDOM_PLACES, FEWER_PLACES = 40, 20
"""Places of the same size and shape the suspected one is compared with; fewer in large pictures."""

MOVED = 0.1
"""Scores move if it is by at least this many of their standard deviations."""

RARE = 0.95
"""What fewer than one random place in twenty does is more than chance."""

CHANGED = 0.05
"""A place decides where replacing it changes at least this share of the decisions."""


@dataclass(frozen=True)
class Replacement:
    """New content for some features.

    Attributes
    ----------
    features
        Which, boolean: ``(d,)``, or ``(k, d)`` where it differs from row to row.
    values
        With what, of the same shape or ``(d,)``; only the entries at ``features`` count.
    """

    features: Array
    values: Array


@dataclass(frozen=True)
class Effect:
    """What a replacement did, beside what the same did at random places.

    Attributes
    ----------
    moved
        Median absolute shift of the evidence, in standard deviations of the evidence.
    direction
        Median signed shift, in the same unit.
    changed
        Share of the decisions that changed.
    random_moved, random_changed
        The same for every random place ``(m,)``.
    """

    moved: float
    direction: float
    changed: float
    random_moved: Array
    random_changed: Array

    @property
    def rank(self) -> float:
        """Share of the random places that moved the scores less."""
        return float((self.random_moved < self.moved).mean())

    @property
    def excess(self) -> float:
        """The shift over the larger of :data:`MOVED` and the median shift at random places."""
        return self.moved / max(MOVED, float(np.median(self.random_moved)))

    @property
    def relies(self) -> bool:
        """Whether scores move, and as much as at a typical place: one without evidence may not."""
        return self.excess >= 1

    @property
    def decides(self) -> bool:
        """Whether decisions change, and more of them than at nearly all random places."""
        usual = float(np.quantile(self.random_changed, RARE))
        return self.relies and self.changed >= CHANGED and self.changed > usual

    @property
    def severity(self) -> Severity:
        """``critical`` where the place decides, ``warning`` where scores rely on it, else info."""
        return "critical" if self.decides else "warning" if self.relies else "info"

    @property
    def weight(self) -> float:
        """The larger of shift over :data:`MOVED` and changed share over :data:`CHANGED`."""
        return max(self.moved / MOVED, self.changed / CHANGED)

    @property
    def severity_of_no_content(self) -> Severity:
        """The same where what was changed is known to be no content: what it does is too much.

        A stamp or the noise of a camera need not matter more than content does to be a fault.
        """
        if self.changed >= CHANGED:
            return "critical"
        return "warning" if self.moved >= MOVED else "info"

    def sentence(self, decisions: str, others: str) -> str:
        """The effect in a sentence; ``others`` is what it was compared with."""
        below, all_ = int((self.random_moved < self.moved).sum()), len(self.random_moved)
        return (
            f"scores move by {self.moved:.2g} standard deviations, more than for {below} of {all_} "
            f"{others}, and {self.changed:.1%} of the {decisions} change."
        )

    def before_after(self, what: str, decisions: str) -> tuple[BeforeAfter, BeforeAfter]:
        """The effect side by side with that at random places; nothing moved before."""
        return (
            BeforeAfter(
                f"{what}: share of {decisions} that change",
                0.0,
                self.changed,
                float(self.random_changed.mean()),
            ),
            BeforeAfter(
                f"{what}: size of the shift of the scores (median, in standard deviations)",
                0.0,
                self.moved,
                float(np.median(self.random_moved)),
            ),
        )

    def numbers(self, what: str, decisions: str) -> Mapping[str, float]:
        """The effect for a report, by name."""
        return {
            f"{what}: shift of the scores (median, in standard deviations)": self.direction,
            f"{what}: size of the shift (median)": self.moved,
            f"{what}: the same at random places (median)": float(np.median(self.random_moved)),
            f"{what}: share of random places with a smaller shift": self.rank,
            f"{what}: share of {decisions} that change": self.changed,
            f"{what}: the same at random places (mean)": float(self.random_changed.mean()),
        }


def trial(
    audit: AuditContext, rows: Array, replacement: Replacement, others: Iterable[Replacement]
) -> Effect:
    """Apply ``replacement`` and each of ``others`` to the rows ``(k,)`` and compare the effects."""
    moved, direction, changed = _apply(audit, rows, replacement)
    random = [_apply(audit, rows, other) for other in others]
    random = random or [(0.0, 0.0, 0.0)]  # nothing of this shape fits elsewhere
    return Effect(
        moved,
        direction,
        changed,
        np.array([r[0] for r in random]),
        np.array([r[2] for r in random]),
    )


def some(rows: Array, rng: np.random.Generator, most: int = MAX_ROWS) -> Array:
    """At most ``most`` of the rows, in order."""
    if len(rows) <= most:
        return rows
    return np.sort(rng.choice(rows, most, replace=False))


def _apply(
    audit: AuditContext, rows: Array, replacement: Replacement
) -> tuple[float, float, float]:
    altered = np.where(replacement.features, replacement.values, audit.flat[rows])
    answer = audit.rescore(rows, altered)
    scale = audit.spread or 1.0
    shift = answer.shift / scale
    return (
        float(np.median(np.abs(shift))),
        float(np.median(shift)),
        float(answer.changed.mean()),
    )
