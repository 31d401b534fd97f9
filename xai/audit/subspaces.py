"""Subspaces: along which directions of what the head sees decisions are made, and by whom.

With ``a`` what the head sees and ``c = R / a`` its context, PRCA takes the directions ``u`` with
most relevance, ``(u^T a)(u^T c)`` (Chormai et al., arXiv 2212.14855). A direction on which
decisions rest and that goes with the group, within labels, is a suspicion; it is tested by
projecting it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.direction_pictures import directions_picture
from xai.audit.encoded import encoded, has_head, head_relevance, moves
from xai.audit.group_shift import permuted
from xai.audit.trial import RANDOM_PLACES, Effect
from xai.errors import InputError
from xai.relevance import Array
from xai.report.finding import (
    Answer,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Suspect,
)
from xai.virtual_layers.subspaces import LayerSample, drsa, prca

ROWS = 600
"""Rows, drawn at random, from which directions are learnt."""

DIRECTIONS = 8
"""Directions that are asked about, those with most relevance."""

SHOWN = 3

STEPS = 200
"""Of DRSA."""

DAMPING = 0.1
"""Of a unit's usual size: relevance at much smaller values counts for less."""

NARROW = 8
"""What the head sees is narrow below this: then few directions are no wonder."""

WIDEST = 2048
"""Numbers the head may see; the eigenvectors of a wider matrix take too long."""

FEWEST_ROWS = 50

TOGETHER = 0.1
"""Share of a direction's variance, within labels, that a group may account for."""

PERMUTATIONS = 199
"""Of the groups, within labels: the largest of 199 is exceeded by chance in one of two hundred."""

MIN_GROUP = 10

ONE = 0.95
"""Where one direction carries more than this share, the decision has a single reason."""


@dataclass(frozen=True)
class Directions:
    """Directions that relevance flows through.

    Attributes
    ----------
    rows
        From which they were learnt ``(k,)``.
    phi, relevance, context
        What the head sees of these rows, its relevance there, and their ratio ``(k, q)``.
    vectors
        Unit length, by relevance ``(m, q)``.
    along
        What the head sees along each ``(k, m)``.
    carried
        Relevance of each ``(k, m)``.
    """

    rows: Array
    phi: Array
    relevance: Array
    context: Array
    vectors: Array
    along: Array
    carried: Array

    @property
    def share(self) -> Array:
        """Share of the relevance that each direction carries on average ``(m,)``."""
        whole = float((self.phi * self.context).sum(1).mean())
        found: Array = self.carried.mean(0) / (whole or 1.0)
        return found


class Subspaces(Check):
    """Finds the directions that carry the relevance, and asks whether groups go with them.

    Parameters
    ----------
    show
        Whether to show what each direction responds to even where there is nothing to object to.
    disentangle
        Whether to split relevance by DRSA rather than PRCA: directions that take much of the
        relevance of some of the rows each.
    """

    name = "subspaces"
    question = "On which directions do decisions rest, and does one go with where rows come from?"
    needs = "groups"

    def __init__(self, show: bool = False, disentangle: bool = False) -> None:
        self.show = show
        self.disentangle = disentangle

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        reason = _reason(audit)
        if reason:
            yield NotAssessable(self.question, reason)
            return
        try:
            found = directions(audit, disentangle=self.disentangle)
        except InputError as error:
            yield NotAssessable(self.question, str(error))
            return
        yield _concentration(audit, found, self.show)
        yield _groups(audit, found)


def _reason(audit: AuditContext) -> str:
    if not has_head(audit):
        return (
            "The model is not a head on rows or on an encoder's output whose relevance is known, "
            "one row at a time."
        )
    if len(audit) < FEWEST_ROWS:
        return f"Fewer than {FEWEST_ROWS} rows."
    width = encoded(audit, audit.data[:1]).shape[1]
    if width > WIDEST:
        return f"The head sees {width} numbers; at most {WIDEST} are taken apart."
    return ""


def directions(
    audit: AuditContext, count: int = DIRECTIONS, *, disentangle: bool = False
) -> Directions:
    """The directions with most relevance.

    Raises
    ------
    InputError
        No relevance arrives at what the head sees.
    """
    rows = np.sort(audit.rng.choice(len(audit), min(ROWS, len(audit)), replace=False))
    phi = encoded(audit, audit.data[rows])
    relevance = head_relevance(audit, phi, audit.decision[rows])
    context = context_of(phi, relevance)
    if not np.abs(context).max() > 0:
        raise InputError("No relevance arrives at what the head sees.")
    sample, count = LayerSample(phi, context, None, None), min(count, phi.shape[1])
    if disentangle:
        basis = drsa(sample, count, 1, steps=STEPS, restarts=1, seed=audit.seed, progress=False)
    else:
        basis = prca(sample, count)
    vectors = basis.matrix.numpy()
    along = phi @ vectors.T
    carried = along * (context @ vectors.T)
    order = np.argsort(-carried.mean(0))
    return Directions(
        rows, phi, relevance, context, vectors[order], along[:, order], carried[:, order]
    )


def context_of(phi: Array, relevance: Array) -> Array:
    """``c = R / a`` where ``a`` is not small, ``R a / (a^2 + d^2)`` everywhere ``(k, q)``.

    Distances have relevance at zeros, too, where it is in proportion to nothing; without ``d``, a
    tenth of what a unit usually is, rows with values near zero would drown all others.
    """
    usual = np.sqrt((phi**2).mean(0))
    damped: Array = relevance * phi
    damped /= np.where(usual > 0, phi**2 + (DAMPING * usual) ** 2, 1.0)
    return damped


def _concentration(audit: AuditContext, found: Directions, show: bool) -> Answer:
    """How much of the relevance the leading direction carries, and what it shows."""
    carried = found.carried.mean(0)
    positive = np.maximum(carried, 0)
    share = float(positive[0] / positive.sum()) if positive.sum() > 0 else 0.0
    measure = Measure(
        f"share of the leading direction in the relevance of the first {len(carried)}",
        share,
        "<=",
        ONE,
    )
    single = not measure.holds and found.phi.shape[1] >= NARROW
    if not single and not show:
        return Passed(measure, "Subspaces(show=True) shows what each direction responds to.")
    return Finding(
        "info",
        "Decisions rest on a single direction of what the head sees."
        if single
        else f"What the {min(SHOWN, len(carried))} leading directions respond to.",
        measure,
        "Whatever the row, the same combination of what the head sees speaks for the decision."
        if single
        else "Directions of what the head sees by the relevance that goes through them: "
        + ", ".join(f"{share:.0%}" for share in found.share)
        + ".",
        "Look at the rows in which each is strongest: is that what the decision should rest on?",
        pictures=[directions_picture(audit, found, SHOWN)],
        suspect=Suspect("direction", "the leading direction", {"vector": found.vectors[0]}),
    )


def _groups(audit: AuditContext, found: Directions) -> Answer:
    question = "Does a direction on which decisions rest go with where rows come from?"
    if audit.groups is None:
        return NotAssessable(question, "No groups (site, scanner, batch) were given.")
    _, codes, counts = np.unique(
        audit.groups[found.rows].astype(str), return_inverse=True, return_counts=True
    )
    kept = np.flatnonzero(counts[codes] >= MIN_GROUP)
    groups = codes[kept]
    if len(np.unique(groups)) < 2:
        return NotAssessable(question, f"Fewer than two groups have {MIN_GROUP} rows.")
    labels = None if audit.labels is None else np.unique(
        audit.labels[found.rows][kept].astype(str), return_inverse=True
    )[1]  # fmt: skip
    within = _within(found.along[kept], labels)
    together = between(within, groups)
    rng = audit.rng
    null = [between(within, permuted(groups, labels, rng)).max() for _ in range(PERMUTATIONS)]
    # a direction without relevance may go with the group as it likes
    used = found.share >= 1 / (2 * len(found.share))
    worst = int(np.where(used, together, -1).argmax())
    measure = Measure(
        "share of the group in the variance of a direction that decisions rest on",
        float(together[worst]),
        "<=",
        max(TOGETHER, float(max(null))),
    )
    note = "within labels" if labels is not None else "no labels were given"
    if measure.holds:
        return Passed(
            measure, f"Largest of {int(used.sum())}; by chance at most {max(null):.2g} ({note})."
        )
    effect = projected_out(audit, found, worst)
    place = f"direction {worst + 1} of {len(found.vectors)}"
    return Finding(
        effect.severity,
        f"A direction on which decisions rest goes with the group: {place}, by relevance.",
        measure,
        f"It carries {found.share[worst]:.0%} of the relevance. By chance a group would account "
        f"for at most {max(null):.2g} ({note}). Where it is set to its mean, "
        + effect.sentence(audit.decision_name, "random directions of the same variance"),
        "Look at the rows in which it is strongest; project it out (xai.mitigate) and audit again.",
        Counterfactual(
            f"What the head sees of {len(found.rows)} rows was set to the mean along the "
            f"direction, and along {len(effect.random_moved)} random directions, each scaled to "
            f"move rows as far. {audit.decision_note}".strip(),
            effect.numbers("direction set to its mean", audit.decision_name),
        ),
        [directions_picture(audit, found, SHOWN, first=worst)],
        audit.names(found.rows[np.argsort(-found.carried[:, worst])[:20]]),
        Suspect("direction", place, {"vector": found.vectors[worst]}),
    )


def _within(along: Array, labels: Array | None) -> Array:
    """Without the mean of each label."""
    centred: Array = along - along.mean(0)
    if labels is not None:
        for label in np.unique(labels):
            rows = labels == label
            centred[rows] -= centred[rows].mean(0)
    return centred


def between(x: Array, groups: Array) -> Array:
    """Share of the variance of every column of ``x`` ``(n, m)`` between the groups ``(m,)``.

    Examples
    --------
    >>> x = np.array([[1.0, 1.0], [1.0, -1.0], [3.0, 1.0], [3.0, -1.0]])
    >>> between(x, np.array([0, 0, 1, 1]))
    array([1., 0.])
    """
    centred = x - x.mean(0)
    total = (centred**2).sum(0)
    explained = np.zeros(x.shape[1])
    for group in np.unique(groups):
        rows = groups == group
        explained += rows.sum() * centred[rows].mean(0) ** 2
    share: Array = explained / np.where(total > 0, total, np.inf)
    return share


def projected_out(audit: AuditContext, found: Directions, which: int) -> Effect:
    """Set one direction to its mean, and random ones that move rows as far."""
    rng = audit.rng
    centred = found.phi - found.phi.mean(0)
    deviation = found.along[:, which] - found.along[:, which].mean()
    own = _moves(audit, found, np.outer(deviation, found.vectors[which]))
    random = []
    for _ in range(RANDOM_PLACES):
        # within the span of the data: elsewhere nothing would move
        vector = rng.standard_normal(len(centred)) @ centred
        vector /= np.linalg.norm(vector) or 1.0
        other = centred @ vector
        scale = deviation.std() / (other.std() or 1.0)
        random.append(_moves(audit, found, scale * np.outer(other, vector)))
    moved, changed = (np.array([r[i] for r in random]) for i in (0, 2))
    return Effect(*own, moved, changed)


def _moves(audit: AuditContext, found: Directions, taken: Array) -> tuple[float, float, float]:
    shift, changed = moves(audit, found.rows, found.phi - taken)
    return float(np.median(np.abs(shift))), float(np.median(shift)), float(changed.mean())
