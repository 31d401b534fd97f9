"""Marks, and whether the model relies on them: take them away, put them elsewhere, compare."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xai.audit.context import AuditContext, shares
from xai.audit.marks import MIN_ROWS, Mark, find_marks
from xai.audit.pictures import effects, samples
from xai.audit.places import elsewhere, moved, place_name, replacements, transplants
from xai.audit.trial import MOVED, RARE, Effect, some, trial
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

QUESTION = "Do some pictures carry the same small mark, and does the model rely on it?"

EMPTY_ENOUGH = 0.01
"""Share of the pixels that must hold the same content in nearly all pictures."""

MAX_FINDINGS = 5


def marked_rows(audit: AuditContext) -> Iterator[Answer]:
    """One finding per mark; what it is called depends on how far decisions hang on it."""
    if len(audit) < 2 * MIN_ROWS:
        yield NotAssessable(
            QUESTION, f"A mark is something repeated; {len(audit)} rows are too few."
        )
        return
    scan = find_marks(audit.planes, audit.rng)
    if not scan.marks and scan.empty < EMPTY_ENOUGH:
        yield NotAssessable(
            QUESTION,
            f"Only {scan.empty:.1%} of the pixels hold the same content in nearly all pictures, so "
            "nothing can be told apart from what the pictures show. Pass masks of the objects, or "
            "pictures on a plain ground.",
        )
        return
    for mark in scan.marks[:MAX_FINDINGS]:
        yield _finding(audit, mark)
    found = Measure("marks found", len(scan.marks), "<=", 0)
    if found.holds:
        yield Passed(
            found,
            f"{scan.empty:.0%} of the pixels hold the same content in nearly all pictures; a mark "
            "on top of varying content would not be noticed.",
        )
    if len(scan.marks) > MAX_FINDINGS:
        yield Finding(
            "warning",
            f"{len(scan.marks)} marks were found; the {MAX_FINDINGS} most frequent were tested.",
            found,
            advice="Remove those that were tested from the data and audit again.",
        )


def _finding(audit: AuditContext, mark: Mark) -> Finding:
    bare = np.setdiff1d(np.arange(len(audit)), mark.rows)
    shifts = elsewhere(mark.pixels, audit.rng)
    usual = audit.median_row(bare)
    content = audit.median_row(mark.rows)
    marked_sample, bare_sample = (
        some(mark.rows, audit.rng, audit.most_rows),
        some(bare, audit.rng, audit.most_rows),
    )
    removed = trial(audit, marked_sample, *replacements(audit, mark.pixels, usual, shifts))
    added = trial(audit, bare_sample, *transplants(audit, mark.pixels, content, shifts))
    density, rank = _relevance_there(audit, mark, shifts)
    where = place_name(mark.pixels)
    share = len(mark.rows) / len(audit)
    title = {
        "critical": "decides part of the model's answers",
        "warning": "moves the model's scores",
        "info": "hardly matters to the model",
    }[removed.severity]
    numbers = {
        "relevance per pixel at the mark, as a multiple of the picture's average": density,
        "share of random places with less relevance": rank,
        **removed.numbers("mark removed", audit.decision_name),
        **added.numbers("mark added", audit.decision_name),
    }
    return Finding(
        removed.severity,
        f"A mark {where} in {len(mark.rows)} pictures ({share:.1%}) {title}.",
        Measure(
            f"shift of the scores without the mark, over the larger of {MOVED} standard "
            "deviations and the shift at a typical place",
            removed.excess,
            "<",
            1.0,
        ),
        _explanation(audit, mark, removed, added, density),
        _advice(removed),
        Counterfactual(
            f"The mark was replaced by what the other pictures hold there, in {len(marked_sample)} "
            f"of the pictures that have it, and added to {len(bare_sample)} that do not. The same "
            f"was done at {len(shifts)} random places of its size and shape. "
            f"{audit.decision_note}".strip(),
            numbers,
        ),
        (samples(audit, mark), effects(removed, added)),
        audit.names(mark.rows),
        Suspect("place", f"a mark {where}", {"pixels": mark.pixels, "rows": mark.rows}),
    )


def _relevance_there(
    audit: AuditContext, mark: Mark, shifts: list[tuple[int, int]]
) -> tuple[float, float]:
    """Relevance per pixel at the mark over the average, and its rank among the shifted places."""
    share = shares(audit.relevance_of(some(mark.rows, audit.rng, audit.most_rows))).mean(0)

    def density(pixels: Array) -> float:
        features = audit.features_of(pixels)
        return float(share[features].sum() / features.mean())

    there = density(mark.pixels)
    others = [density(moved(mark.pixels, shift)) for shift in shifts]
    return there, float(np.mean([other < there for other in others]))


def _explanation(
    audit: AuditContext, mark: Mark, removed: Effect, added: Effect, density: float
) -> str:
    parts = [
        "These pictures hold the same content at a place where nearly all others hold one and the "
        "same ground, whatever else they show: it says nothing about what is in the picture.",
        f"Of the pictures that have it, {audit.composition(mark.rows)}.",
    ]
    parts.append(
        f"Where it is taken away, {removed.sentence(audit.decision_name, 'random places')} Where "
        f"it is put into other pictures, {added.changed:.1%} of theirs do."
    )
    if removed.relies and density < 1:
        parts.append(
            "Relevance shows little of it, because its presence adds next to nothing to the "
            "evidence; its absence would."
        )
    if added.rank <= 1 - RARE:
        usual = float(np.median(added.random_moved))
        parts.append(
            f"The model expects it: elsewhere, the same content moves scores by {usual:.2g} "
            f"standard deviations, here by {added.moved:.2g}."
        )
    return " ".join(parts)


def _advice(removed: Effect) -> str:
    if removed.severity == "info":
        return "Find out where the mark comes from, and keep it out of new data."
    return (
        "Find out where the mark comes from (a scanner, a site, a date stamp). Remove it from the "
        "data or crop the place, fit again, and repeat this audit."
    )
