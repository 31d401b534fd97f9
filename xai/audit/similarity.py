"""Similarity: what makes rows neighbours to the encoder, and whether it is one small place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.neighbour_pairs import Pool, common_maps, pool, shared_windows
from xai.audit.pair_pictures import joint_relevance, pairs_picture
from xai.audit.pair_trial import Likeness, likeness_without
from xai.audit.patches import is_large
from xai.audit.places import place_name
from xai.audit.windows import AREA, window
from xai.errors import InputError
from xai.report.finding import (
    Answer,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Severity,
    Suspect,
)

PAIRS, FEWER_PAIRS = 60, 24
"""Pairs of neighbours that are explained; fewer of large pictures."""

FEWEST_ROWS, SMALLEST = 50, 16
"""Rows, and pixels a side, from which on neighbours and places mean something."""

MOST = 0.5
"""Of what two neighbours have in common, a place this small should hold less, in either picture."""

FURTHER = 8
"""Rows likest to a suspicious pair, asked whether their likeness rests on the same place."""

CONFIRMED = 0.5
"""One pair may have one small thing in common; a habit shows in this share of the further rows."""

NAME = f"largest share of what two neighbours have in common at one place of {AREA:.0%} of the area"


class Similarity(Check):
    """Explains neighbours by what they have in common, and looks for one small place in many."""

    name = "similarity"
    question = "Do rows count as alike for more than one small place?"
    needs = "encoder"

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        reason = _reason(audit)
        if reason:
            yield NotAssessable(self.question, reason)
            return
        pooled = pool(audit)
        if len(pooled.rows) < FEWEST_ROWS:
            yield NotAssessable(self.question, "Most embeddings are zero, so they have no cosine.")
            return
        count = FEWER_PAIRS if is_large(audit) else PAIRS
        a = audit.rng.choice(len(pooled.rows), min(count, len(pooled.rows)), replace=False)
        b = pooled.nearest(a)
        shares = shared_windows(common_maps(audit, pooled, a, b))
        # the place on which most pairs rest, and the pair that does so most
        often = (shares >= MOST).sum(0) + shares.max(0)
        corner = np.unravel_index(int(often.argmax()), often.shape)
        there = shares[:, corner[0], corner[1]]
        worst = int(there.argmax())
        measure = Measure(NAME, float(there[worst]), "<", MOST)
        if measure.holds:
            yield Passed(measure, f"Over {len(a)} pairs of nearest neighbours.")
            return
        place = _Place(int(a[worst]), int(b[worst]), (int(corner[0]), int(corner[1])), measure)
        frequency = float((there >= MOST).mean())
        yield _tested(audit, pooled, place, frequency, len(a))


@dataclass(frozen=True)
class _Place:
    """A pair whose likeness rests on a window, by its upper left corner."""

    a: int
    b: int
    corner: tuple[int, int]
    measure: Measure


def _reason(audit: AuditContext) -> str:
    if audit.net.features is None:
        return "There is no encoder below the model (features=), so no embedding to be alike in."
    if not audit.is_image:
        return "Rows are no pictures; features that make rows alike are not places."
    if min(audit.planes.shape[1:3]) < SMALLEST:
        return f"Pictures are smaller than {SMALLEST} x {SMALLEST} pixels."
    if len(audit) < FEWEST_ROWS:
        return f"Fewer than {FEWEST_ROWS} rows."
    return ""


def _tested(
    audit: AuditContext, pooled: Pool, place: _Place, frequency: float, pairs: int
) -> Answer:
    """Ask further rows whether they share the place, and what goes when it goes."""
    others = pooled.likest(place.a, place.b, FURTHER)
    first = np.full(len(others), place.a)
    maps = common_maps(audit, pooled, first, others)
    y, x = place.corner
    held = shared_windows(maps)[:, y, x] >= MOST
    pixels = window(place.corner, *audit.planes.shape[1:3])
    where = place_name(pixels)
    carriers = np.array([place.b, *others[held]])
    effect = likeness_without(audit, pooled, np.full(len(carriers), place.a), carriers, pixels)
    confirmed = float(held.mean()) >= CONFIRMED
    severity: Severity = _severity(effect) if confirmed else "info"
    members = np.unique([place.a, *carriers])
    told = (
        f"{held.sum()} of the {len(others)} rows that are likest to this pair rest on the same "
        f"place, and so do {frequency:.0%} of {pairs} random pairs of neighbours."
    )
    shown = min(4, len(others))
    order = np.argsort(~held, kind="stable")[:shown]
    pictures = [
        pairs_picture(
            audit, pooled.rows[first[order]], pooled.rows[others[order]],
            (maps[0][order], maps[1][order]), pixels,
        )
    ]  # fmt: skip
    joint = ""
    try:
        share, picture = joint_relevance(
            audit, int(pooled.rows[place.a]), int(pooled.rows[place.b]), pixels
        )
        pictures.append(picture)
        joint = f" By pairs of pixels (BiLRP), the place in both holds {share:.0%} of it."
    except InputError:  # an embedding narrower than the random directions
        joint = ""
    return Finding(
        severity,
        f"Rows count as alike for one small place, {where}."
        if confirmed
        else f"Two rows count as alike for one small place, {where}; others do not.",
        place.measure,
        f"What makes {audit.names(pooled.rows[[place.a]])[0]} and "
        f"{audit.names(pooled.rows[[place.b]])[0]} nearer than average lies there."
        f"{joint} {told} "
        f"Of the rows concerned, {audit.composition(pooled.rows[members])}. "
        f"{effect.sentence(audit)}",
        "See what these pictures show there: a logo, a stamp or a label is no reason to be alike. "
        "Remove it, or prune what responds to it (xai.mitigate).",
        Counterfactual(
            f"The place was replaced by its median content in {len(carriers)} rows, and so were "
            f"{len(effect.random_lost)} random places of its size; it was put into "
            f"{effect.put_into} rows without it. {audit.decision_note}".strip(),
            effect.numbers(audit.decision_name),
        ),
        pictures,
        audit.names(pooled.rows[members]),
        Suspect("place", f"what makes rows alike {where}",
                {"pixels": pixels, "rows": pooled.rows[members]}),
    )  # fmt: skip


def _severity(effect: Likeness) -> Severity:
    if not effect.rests:
        return "info"
    return "critical" if effect.decides else "warning"
