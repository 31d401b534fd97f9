"""Whether maps point at what the decision rests on: replace it, and as much at random.

Says at most "info": replacing by the median is a coarse test, and with encoders on small pictures
maps that are right about the network can fail it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xai.audit.context import AuditContext
from xai.audit.patches import chosen_features, is_large, patch_sums, patches_of
from xai.relevance import Array
from xai.report.finding import Answer, Counterfactual, Finding, Measure, NotAssessable, Passed

ROWS, FEWER_ROWS = 40, 20
"""Rows that are altered; fewer of large pictures."""

SHARE = 0.1
"""Of the features, or of the patches of a picture: those with most relevance are replaced."""

FEWEST = 8
"""With fewer features or patches, one says little that another does not."""

DRAWS = 4
"""Random choices of as many, for every row."""

MORE_OFTEN = 0.6
"""Maps that say nothing beat the mean of random choices in about half of the rows."""

QUESTION = "Do maps point at what the decision rests on?"


def pointing(audit: AuditContext) -> Iterator[Answer]:
    """Share of the rows in which the score falls more without what speaks for it."""
    patches, count = patches_of(audit)
    reason = ""
    if not audit.net.row_independent:
        reason = "The model scores a row against the other rows of its batch."
    elif count < FEWEST:
        reason = f"With {count} features, one says little that another does not."
    if reason:
        yield NotAssessable(QUESTION, reason)
        return
    rng = audit.rng
    many = FEWER_ROWS if is_large(audit) else ROWS
    rows = np.sort(rng.choice(len(audit), min(many, len(audit)), replace=False))
    k = max(1, round(SHARE * count))
    most = np.argsort(-patch_sums(audit, rows, patches, count), axis=1, kind="stable")[:, :k]
    order = np.tile(np.arange(count), (len(rows), 1))
    draws = [rng.permuted(order, axis=1)[:, :k] for _ in range(DRAWS)]
    own = _fall(audit, rows, most, patches, count)
    random = np.mean([_fall(audit, rows, draw, patches, count) for draw in draws], axis=0)
    told = (own != 0) | (random != 0)
    if not told.any():
        yield NotAssessable(
            QUESTION, f"Replacing {SHARE:.0%} of a row by the median of the data moves no score."
        )
        return
    measure = Measure(
        "share of rows whose score falls more without what speaks for it than by a random choice",
        float((own > random)[told].mean()),
        ">=",
        MORE_OFTEN,
    )
    what = f"{k} of {count} {'patches' if audit.is_image else 'features'}"
    tested = (
        f"In {len(rows)} rows, the {what} with most relevance were replaced by the median of the "
        f"data; so were {DRAWS} random choices of as many."
    )
    fall, usual = float(np.median(own)), float(np.median(random))
    if measure.holds:
        yield Passed(
            measure,
            f"{tested} Scores fall by {fall:.2g} and {usual:.2g} standard deviations (medians).",
        )
        return
    yield Finding(
        "info",
        "Maps hardly point at what the decision rests on.",
        measure,
        f"{tested} A map that says nothing would come out near one half.",
        "Do not rest judgements on single maps. Try another preset (composite=), and see whether "
        "scores saturate (check collapse).",
        Counterfactual(
            tested,
            {
                "fall of the score without what speaks for it (median, standard deviations)": fall,
                "the same for random choices": usual,
            },
        ),
        samples=audit.names(rows[told & (own <= random)]),
    )


def _fall(audit: AuditContext, rows: Array, chosen: Array, patches: Array, count: int) -> Array:
    """How far scores fall ``(k,)``, in standard deviations, where the chosen patches are gone."""
    inside = chosen_features(chosen, patches, count)
    altered = np.where(inside, audit.median_row(), audit.flat[rows])
    fall: Array = -audit.rescore(rows, altered).shift / (audit.spread or 1.0)
    return fall
