"""Edges and corners: relevance there beyond what the data's own variance there would explain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xai.audit.context import AuditContext
from xai.audit.pictures import where_on_average
from xai.audit.places import other_places, place_name, replacements
from xai.audit.trial import some, trial
from xai.relevance import Array
from xai.report.finding import Answer, Counterfactual, Finding, Measure, Passed, Suspect

AREA, VARIANCE = 2.0, 3.0
"""Plausible: up to twice a place's share of the area, or three times its share of the variance."""

BORDER, CORNER = 14, 7
"""A border is a fourteenth of the picture wide, a corner a seventh."""

NAME = "relevance at {}, over the larger of 2 x its area and 3 x its share of the variance"


def edges(audit: AuditContext) -> Iterator[Answer]:
    """The four borders and the four corners, each against its area and its share of variance."""
    share = audit.relevance_share.mean(0)
    variance = audit.variance
    variance = variance / (variance.sum() or 1.0)
    excess = {}
    places = frame(audit.planes.shape[1], audit.planes.shape[2])
    for name, pixels in places.items():
        features = audit.features_of(pixels)
        plausible = max(AREA * features.mean(), VARIANCE * variance[features].sum())
        excess[name] = float(share[features].sum() / plausible)
    worst = max(excess, key=excess.__getitem__)
    suspects = [name for name in excess if excess[name] >= 1]
    if not suspects:
        yield Passed(
            Measure(NAME.format(worst), excess[worst], "<", 1.0),
            "The largest of four borders and four corners.",
        )
        return
    yield _finding(audit, worst, places[worst], excess[worst], suspects)


def frame(h: int, w: int) -> dict[str, Array]:
    """The four borders and corners of a picture ``(h, w)``, by name."""
    by, bx = max(1, round(h / BORDER)), max(1, round(w / BORDER))
    cy, cx = max(2, round(h / CORNER)), max(2, round(w / CORNER))
    slices = {
        "the top border": np.s_[:by, :],
        "the bottom border": np.s_[h - by :, :],
        "the left border": np.s_[:, :bx],
        "the right border": np.s_[:, w - bx :],
        "the top left corner": np.s_[:cy, :cx],
        "the top right corner": np.s_[:cy, w - cx :],
        "the bottom left corner": np.s_[h - cy :, :cx],
        "the bottom right corner": np.s_[h - cy :, w - cx :],
    }
    places = {}
    for name, where in slices.items():
        places[name] = np.zeros((h, w), dtype=bool)
        places[name][where] = True
    return places


def _finding(
    audit: AuditContext, name: str, pixels: Array, excess: float, suspects: list[str]
) -> Finding:
    rows = some(np.arange(len(audit)), audit.rng, audit.most_rows)
    elsewhere = other_places(pixels, audit.rng)
    usual = audit.median_row()
    effect = trial(audit, rows, *replacements(audit, pixels, usual, elsewhere))
    others = [suspect for suspect in suspects if suspect != name]
    also = f" So it does at {', '.join(others)}." if others else ""
    return Finding(
        effect.severity,
        f"Relevance gathers at {name}, where the pictures hardly vary.",
        Measure(NAME.format(name), excess, "<", 1.0),
        f"It is {place_name(pixels)}. What hardly varies can hardly tell pictures apart, yet the "
        f"model's decision is put down to it.{also} Where it is replaced by its median content, "
        f"{effect.sentence(audit.decision_name, 'random places')}",
        "Look for padding, resampling or cropping before the model, and for features of little "
        "variance that the model scales up.",
        Counterfactual(
            f"The place was replaced by its median content in {len(rows)} rows, and so were "
            f"{len(elsewhere)} random places of the same shape. {audit.decision_note}".strip(),
            effect.numbers("place replaced", audit.decision_name),
            effect.before_after("place replaced", audit.decision_name),
        ),
        (where_on_average(audit, pixels),),
        suspect=Suspect("place", name, {"pixels": pixels}),
    )
