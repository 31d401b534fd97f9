"""Marks, and whether the model relies on them: take them away, put them elsewhere, compare."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xai.audit.context import AuditContext, shares
from xai.audit.mark_search import search
from xai.audit.marks import MIN_ROWS, Mark
from xai.audit.pictures import effects, samples
from xai.audit.places import inpaintings, other_places, place_name, replacements, transplants
from xai.audit.trial import CHANGED, MOVED, RARE, Effect, some, trial
from xai.relevance import Array
from xai.report.finding import (
    SEVERITIES,
    Answer,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Severity,
    Suspect,
)

QUESTION = "Do some pictures carry the same small mark, and does the model rely on it?"

REPLACED = {
    True: "replaced by what the other pictures hold there",
    False: "filled in smoothly from around it",
}

MAX_FINDINGS = 5


def marked_rows(audit: AuditContext) -> Iterator[Answer]:
    """One finding per mark; what it is called depends on how far decisions hang on it."""
    if len(audit) < 2 * MIN_ROWS:
        yield NotAssessable(
            QUESTION, f"A mark is something repeated; {len(audit)} rows are too few."
        )
        return
    found = search(audit.planes, audit.rng)
    marks = found.marks
    for mark in marks[:MAX_FINDINGS]:
        yield _finding(audit, mark, found.on_ground)
    count = Measure("marks found", len(marks), "<=", 0)
    if count.holds:
        yield Passed(
            count,
            f"{found.empty:.0%} of the pixels hold the same content in nearly all pictures."
            if found.on_ground
            else "Searched on top of what the pictures show: no content ends sharply at the same "
            "place in several of them. A mark that lets the picture shine through would not be "
            "noticed.",
        )
    if len(marks) > MAX_FINDINGS:
        yield Finding(
            "warning",
            f"{len(marks)} marks were found; the {MAX_FINDINGS} most frequent were tested.",
            count,
            advice="Remove those that were tested from the data and audit again.",
        )


def _finding(audit: AuditContext, mark: Mark, on_ground: bool) -> Finding:
    bare = np.setdiff1d(np.arange(len(audit)), mark.rows)
    others = other_places(mark.pixels, audit.rng)
    content = audit.median_row(mark.rows)
    marked_sample, bare_sample = (
        some(mark.rows, audit.rng, audit.most_rows),
        some(bare, audit.rng, audit.most_rows),
    )
    without = (
        replacements(audit, mark.pixels, audit.median_row(bare), others)
        if on_ground
        else inpaintings(audit, mark.pixels, marked_sample, others)
    )
    removed = trial(audit, marked_sample, *without)
    added = trial(audit, bare_sample, *transplants(audit, mark.pixels, content, others))
    worst = min((e.severity_of_no_content for e in (removed, added)), key=SEVERITIES.index)
    density, rank = _relevance_there(audit, mark, others)
    where = place_name(mark.pixels)
    share = len(mark.rows) / len(audit)
    title = {
        "critical": "decides part of the model's answers",
        "warning": "moves the model's scores",
        "info": "hardly matters to the model",
    }[worst]
    numbers = {
        "relevance per pixel at the mark, as a multiple of the picture's average": density,
        "share of random places with less relevance": rank,
        **removed.numbers("mark removed", audit.decision_name),
        **added.numbers("mark added", audit.decision_name),
    }
    return Finding(
        worst,
        f"A mark {where} in {len(mark.rows)} pictures ({share:.1%}) {title}.",
        Measure(
            f"effect of the mark, removed or added: the larger of the shift of the scores over "
            f"{MOVED} standard deviations and the share of changed decisions over {CHANGED:.0%}",
            max(removed.weight, added.weight),
            "<",
            1.0,
        ),
        _explanation(audit, mark, removed, added, density),
        _advice(worst),
        Counterfactual(
            f"The mark was {REPLACED[on_ground]}, in {len(marked_sample)} of the pictures that "
            f"have it, and added to {len(bare_sample)} that do not. The same was done at "
            f"{len(others)} random places of its size. "
            f"{audit.decision_note}".strip(),
            numbers,
            (
                *removed.before_after("mark removed", audit.decision_name),
                *added.before_after("mark added", audit.decision_name),
            ),
        ),
        (samples(audit, mark), effects(removed, added)),
        audit.names(mark.rows),
        Suspect("place", f"a mark {where}", {"pixels": mark.pixels, "rows": mark.rows}),
    )


def _relevance_there(audit: AuditContext, mark: Mark, places: list[Array]) -> tuple[float, float]:
    """Relevance per pixel at the mark over the average, and its rank among the shifted places."""
    share = shares(audit.relevance_of(some(mark.rows, audit.rng, audit.most_rows))).mean(0)

    def density(pixels: Array) -> float:
        features = audit.features_of(pixels)
        return float(share[features].sum() / features.mean())

    there = density(mark.pixels)
    others = [density(place) for place in places]
    return there, float(np.mean([other < there for other in others]))


def _explanation(
    audit: AuditContext, mark: Mark, removed: Effect, added: Effect, density: float
) -> str:
    parts = [
        "These pictures hold the same content at the same place, with a sharp edge, whatever else "
        "they show: it says nothing about what is in the picture.",
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


def _advice(severity: Severity) -> str:
    if severity == "info":
        return "Find out where the mark comes from, and keep it out of new data."
    return (
        "Find out where the mark comes from (a scanner, a site, a date stamp). Remove it from the "
        "data or crop the place, fit again, and repeat this audit."
    )
