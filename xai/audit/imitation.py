"""Pictures of one kind made like the other in one trace, as strongly as the kinds differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xai.audit.conditions import blurred, compressed, noisy, tinted
from xai.audit.signatures import Signature
from xai.relevance import Array

QUALITIES = (90, 75, 60, 45, 30, 20, 10, 5)

STEPS = 12
"""Halvings of the interval in which the strength of a change is looked for."""

SEEN = 100
"""Pictures the strength is measured on."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """Pictures of two kinds by one trace.

    Attributes
    ----------
    signature, values
        The trace, and how much of it each picture has ``(n,)``.
    more
        Which have more of it ``(n,)``.
    source
        The group that tells the kinds apart; empty where the trace itself does.
    labels
        Class of every picture ``(n,)``, where known: kinds differ as they do within classes.
    """

    signature: Signature
    values: Array
    more: Array
    source: str = ""
    labels: Array | None = None

    def of(self, rows: Array) -> Kinds:
        """The same of some rows."""
        labels = None if self.labels is None else self.labels[rows]
        return Kinds(self.signature, self.values[rows], self.more[rows], self.source, labels)

    def difference(self, values: Array) -> float:
        """How much larger the values ``(n,)`` are in those with more of the trace: by medians.

        Within classes, the mean by the rows of the rarer kind, so that what the kinds show does not
        count; over all rows where no class has both kinds.
        """
        labels = np.zeros(len(values)) if self.labels is None else self.labels
        gaps, weights = [], []
        for label in np.unique(labels):
            here = labels == label
            one, other = here & self.more, here & ~self.more
            if one.any() and other.any():
                gaps.append(np.median(values[one]) - np.median(values[other]))
                weights.append(min(one.sum(), other.sum()))
        if not gaps:
            return float(np.median(values[self.more]) - np.median(values[~self.more]))
        return float(np.average(gaps, weights=weights))


@dataclass(frozen=True, eq=False)
class Imitation:
    """A change that gives pictures of one kind the trace of the other.

    Attributes
    ----------
    rows
        Those it is for ``(k,)``: sharp ones can be blurred, quiet ones given noise, not back.
    words
        What it does.
    apply
        From pictures ``(k, h, w, c)`` between 0 and 1 to as many.
    """

    rows: Array
    words: str
    apply: Callable[[Array], Array]


def imitation(kinds: Kinds, pictures: Array) -> Imitation:
    """What makes these pictures ``(n, h, w, c)``, between 0 and 1, alike in the trace.

    A ratio of colours changes by either of them, and a model may see one of them only: the channel
    whose level differs least between the kinds is left as it is.
    """
    more, fewer = np.flatnonzero(kinds.more), np.flatnonzero(~kinds.more)
    upper, lower = np.median(kinds.values[more]), np.median(kinds.values[fewer])
    gap = kinds.difference(kinds.values)
    trace = kinds.signature.of

    def search(change: Callable[[Array, float], Array], rows: Array, goal: float) -> float:
        """Strength at which the changed pictures have as much of the trace, by bisection."""
        low, high = 1e-3, 4.0
        seen = pictures[rows[:SEEN]]
        start = np.median(trace(seen))
        for _ in range(STEPS):
            middle = float(np.sqrt(low * high))
            short = (np.median(trace(change(seen, middle))) > goal) == (start > goal)
            low, high = (middle, high) if short else (low, middle)
        return float(np.sqrt(low * high))

    if kinds.signature.name == "fineness":
        sigma = search(blurred, more, upper - gap)
        words = f"blurred (standard deviation {sigma:.2g} pixels)"
        return Imitation(more, words, lambda p: blurred(p, sigma))
    if kinds.signature.name == "noise":
        sigma = search(_noisy, fewer, lower + gap)
        words = f"given noise (standard deviation {sigma:.2g} of the range)"
        return Imitation(fewer, words, lambda p: _noisy(p, sigma))
    if kinds.signature.name == "compression":
        seen = pictures[fewer[:SEEN]]
        goal = lower + gap
        off = [abs(np.median(trace(compressed(seen, q))) - goal) for q in QUALITIES]
        quality = QUALITIES[int(np.argmin(off))]
        words = f"compressed as JPEG of quality {quality}"
        return Imitation(fewer, words, lambda p: compressed(p, quality))
    levels = np.log(pictures.mean((1, 2)) + 0.01)
    kept = int(np.abs([kinds.difference(level) for level in levels.T]).argmin())
    # within a picture brightness cancels
    gaps = np.array([kinds.difference(level - levels[:, kept]) for level in levels.T])
    # the rarer kind is given what it lacks
    small, gains = (fewer, gaps) if len(fewer) < len(more) else (more, -gaps)
    named = zip(gains, ("red", "green", "blue"), strict=True)
    factors = [f"{np.exp(gain):.2g} times their {name}" for gain, name in named if gain]
    words = f"given {' and '.join(factors)}"
    return Imitation(small, words, lambda p: tinted(p, gains.tolist()))


def _noisy(pictures: Array, sigma: float) -> Array:
    return noisy(pictures, sigma, np.random.default_rng(0))
