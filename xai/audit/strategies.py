"""Strategies (SpRAy): whether some decisions are made in another way, and for what no one meant.

Lapuschkin et al., Unmasking Clever Hans predictors and assessing what machines really learn, Nature
Communications 10, 2019. There, someone looks at the clusters of relevance maps. Here, a cluster is
suspected if it goes with where rows come from or looks outside the masks, and pictures are if their
relevance points at edges they share as only a mark has them; then the suspicion is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.faint_marks import (
    MARGIN,
    MAX_AREA,
    MIN_PIXELS,
    SEPARATION,
    SHARED,
    FaintMark,
    faint_mark,
)
from xai.audit.marks import Mark
from xai.audit.pictures import effects, samples
from xai.audit.places import inpaintings, other_places, place_name
from xai.audit.pooling import averaged, enlarged
from xai.audit.strategy_clusters import (
    ASSOCIATED,
    LEAST,
    Decision,
    decisions,
    factor_of,
    follows_groups,
    outside,
)
from xai.audit.strategy_pictures import cluster_means
from xai.audit.trial import MOVED, Effect, Replacement, some, trial
from xai.relevance import Array
from xai.report.finding import (
    SEVERITIES,
    Answer,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Suspect,
)

SAME = 0.3
"""Two places are one if they have this share of their pixels in common."""

MOST_DECISIONS = 10
"""Decisions that are looked into, the largest."""


@dataclass(frozen=True, eq=False)
class _Suspicion:
    pixels: Array  # (h, w)
    rows: Array  # that have it
    bare: Array  # decided alike, without it
    names: tuple[str, ...]  # of the decisions
    title: str
    reason: str


class Strategies(Check):
    """Clusters maps within each decision and tests what sets some of them apart.

    Parameters
    ----------
    show
        Whether to show the mean map of every cluster even where there is nothing to object to.
    """

    name = "strategies"
    question = "Are some decisions made in another way, for something that is no evidence?"
    needs = "pictures"
    thresholds: ClassVar[Mapping[str, str]] = {
        "separation of pictures by the edges they share": f"below {SEPARATION:g}, or below "
        f"{MARGIN:g} times that at other places, or below {SHARED:.0%} of the edges in common",
        "association of clusters of maps with groups, within labels (Cramer's V)": "at most "
        f"{ASSOCIATED:g}, or the largest of 199 permutations",
    }

    def __init__(self, show: bool = False) -> None:
        self.show = show

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        if not audit.is_image:
            yield NotAssessable(self.question, "The data are a table; maps of pictures are asked.")
            return
        found = sorted(decisions(audit), key=lambda d: -len(d.rows))[:MOST_DECISIONS]
        if not found:
            yield NotAssessable(self.question, f"No decision has {LEAST} rows with relevance.")
            return
        marks, highest = _faint_marks(audit, found)
        suspicions = [*marks, *_clusters(audit, found)]
        for suspicion in suspicions:
            yield _finding(audit, suspicion)
        count = Measure("places that set some of the maps apart", len(suspicions), "<=", 0)
        note = (
            "; ".join(
                f"maps of {d.name}: {d.clusters.count} clusters (eigengap {d.clusters.gap:.2f})"
                for d in found
            )
            + f". Largest separation of pictures by edges they share: {highest:.1f}."
        )
        if count.holds:
            yield Passed(count, note)
        if self.show:
            yield Finding(
                "info",
                "How maps of the same decision differ.",
                Measure("largest eigengap", max(d.clusters.gap for d in found), "<=", 1.0),
                note,
                "Look for a cluster that looks at something it should not.",
                pictures=tuple(cluster_means(d) for d in found),
            )


# -- what is suspected -----------------------------------------------------------------------------


def _faint_marks(audit: AuditContext, found: Sequence[Decision]) -> tuple[list[_Suspicion], float]:
    """Marks that let pictures shine through, one for each place; and the largest separation."""
    h, w = audit.planes.shape[1:3]
    factor = factor_of((h, w))
    low, scale = float(audit.data.min()), float(np.ptp(audit.data)) or 1.0
    seen: list[tuple[Decision, FaintMark, Array]] = []
    highest = 0.0
    for decision in found:
        small = (averaged(audit.planes[decision.rows], factor) - low) / scale
        mark = faint_mark(small, decision.shares, audit.rng)
        if mark is None:
            continue
        highest = max(highest, mark.separation)
        if mark.is_apart and MIN_PIXELS <= mark.pixels.sum() <= MAX_AREA * mark.pixels.size:
            seen.append((decision, mark, enlarged(mark.pixels, factor, h, w)))
    kept: list[list[tuple[Decision, FaintMark, Array]]] = []
    for one in sorted(seen, key=lambda item: -item[1].separation):
        same = [k for k in kept if _overlap(k[0][2], one[2]) >= SAME]
        if same:
            same[0].append(one)
        else:
            kept.append([one])
    return [_as_suspicion(place) for place in kept], highest


def _as_suspicion(place: Sequence[tuple[Decision, FaintMark, Array]]) -> _Suspicion:
    rows = np.sort(np.concatenate([d.rows[mark.rows] for d, mark, _ in place]))
    every = np.concatenate([d.rows for d, _, _ in place])
    clearest = place[0][1]
    return _Suspicion(
        place[0][2],
        rows,
        np.setdiff1d(every, rows),
        tuple(d.name for d, _, _ in place),
        "have the same faint edges",
        "Their relevance stands out there, and there they have the same edges, pixel by pixel, on "
        "top of what they show, as a mark has that lets the picture shine through. The edges set "
        f"them apart from others that are decided alike by {clearest.separation:.3g} standard "
        f"deviations; at other places the same search reaches {clearest.elsewhere:.3g}.",
    )


def _clusters(audit: AuditContext, found: Sequence[Decision]) -> Iterator[_Suspicion]:
    """Clusters that go with the groups (the one that does most), or that look outside the masks."""
    shape = audit.planes.shape[1:3]
    for decision in found:
        if audit.groups is not None and decision.clusters.count > 1:
            v, bar = follows_groups(audit, decision)
            if v > bar:
                members, group = _most_of_a_group(audit, decision)
                yield _suspected(
                    decision,
                    members,
                    decision.place(members, shape),
                    f"come mostly from group {group} and have maps of their own",
                    f"Maps within {decision.name} go with the group (Cramer's V {v:.2f}, by chance "
                    f"at most {bar:.2f}). This cluster looks more than others at one place.",
                )
                continue
        for members in decision.small():
            pixels = decision.place(members, shape)
            if outside(audit, decision.rows[members], pixels):
                yield _suspected(
                    decision,
                    members,
                    pixels,
                    "have maps of their own, which point outside the masks",
                    "This cluster of maps looks more than others at one place, outside of where "
                    "the masks say that evidence may lie.",
                )


def _suspected(
    decision: Decision, members: Array, pixels: Array, title: str, reason: str
) -> _Suspicion:
    rows = decision.rows[members]
    bare = np.setdiff1d(decision.rows, rows)
    return _Suspicion(pixels, rows, bare, (decision.name,), title, reason)


def _most_of_a_group(audit: AuditContext, decision: Decision) -> tuple[Array, str]:
    """Members of the cluster in which one group exceeds its share most, and that group."""
    assert audit.groups is not None
    groups = audit.groups[decision.rows]
    names, codes = np.unique(groups, return_inverse=True)
    table = np.zeros((decision.clusters.count, len(names)))
    np.add.at(table, (decision.clusters.labels, codes), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    cluster, group = np.unravel_index(
        ((table - expected) / np.sqrt(expected)).argmax(), table.shape
    )
    return np.flatnonzero(decision.clusters.labels == cluster), str(names[group])


def _overlap(a: Array, b: Array) -> float:
    return float((a & b).sum() / (a | b).sum())


# -- the test --------------------------------------------------------------------------------------


def _finding(audit: AuditContext, found: _Suspicion) -> Finding:
    rows = some(found.rows, audit.rng, audit.most_rows)
    bare = some(found.bare, audit.rng, audit.most_rows)
    others = other_places(found.pixels, audit.rng)
    removed = trial(audit, rows, *inpaintings(audit, found.pixels, rows, others))
    added = trial(audit, bare, *_added(audit, found, bare, others))
    worst = min(removed.severity, added.severity, key=SEVERITIES.index)
    stronger = added if added.excess > removed.excess else removed
    where, share = place_name(found.pixels), len(found.rows) / len(audit)
    hangs = {
        "critical": "what is there decides part of the model's answers",
        "warning": "what is there moves the model's scores",
        "info": "it hardly matters to the model",
    }[worst]
    return Finding(
        worst,
        f"{len(found.rows)} pictures ({share:.1%}) of {', '.join(found.names)} {found.title} "
        f"{where}, and {hangs}.",
        Measure(
            f"shift of the scores with the content removed or added, over the larger of {MOVED} "
            "standard deviations and the shift at a typical place",
            stronger.excess,
            "<",
            1.0,
        ),
        _explanation(audit, found, removed, added),
        "Look at the pictures. If what is there is no evidence, find out where it comes from, "
        "remove it from the data or crop the place, fit again, and repeat this audit.",
        Counterfactual(
            f"The place was filled in smoothly from around it in {len(rows)} of these, and what "
            f"they share there was laid over {len(bare)} others that are decided alike. The "
            f"same was done at {len(others)} random places of its size. "
            f"{audit.decision_note}".strip(),
            {
                **removed.numbers("removed", audit.decision_name),
                **added.numbers("added", audit.decision_name),
            },
            (
                *removed.before_after("removed", audit.decision_name),
                *added.before_after("added", audit.decision_name),
            ),
        ),
        (samples(audit, Mark(found.pixels, found.rows)), effects(removed, added)),
        audit.names(found.rows),
        Suspect("place", f"a place {where}", {"pixels": found.pixels, "rows": found.rows}),
    )


def _added(
    audit: AuditContext, found: _Suspicion, bare: Array, others: Sequence[Array]
) -> tuple[Replacement, Iterator[Replacement]]:
    """What the pictures share at the place, laid over others there, and elsewhere.

    Marked pictures are ``keep * x + content``: their deviation is ``keep`` of that of the others.
    """
    own = audit.planes[found.rows][:, found.pixels].astype(np.float64)
    rest = audit.planes[found.bare][:, found.pixels].astype(np.float64)
    spread = float(rest.std(0).sum())
    keep = min(1.0, float(own.std(0).sum()) / spread) if spread else 0.0
    content = own.mean(0) - keep * rest.mean(0)
    low, high = float(audit.data.min()), float(audit.data.max())

    def laid(place: Array) -> Replacement:
        planes = audit.planes[bare].astype(np.float64)
        over = content[np.arange(int(place.sum())) % len(content)]
        planes[:, place] = np.clip(keep * planes[:, place] + over, low, high)
        return Replacement(
            audit.features_of(place), np.stack([audit.from_planes(picture) for picture in planes])
        )

    return laid(found.pixels), (laid(place) for place in others)


def _explanation(audit: AuditContext, found: _Suspicion, removed: Effect, added: Effect) -> str:
    return (
        f"{found.reason} Of these pictures, {audit.composition(found.rows)}. Where the place is "
        f"filled in, {removed.sentence(audit.decision_name, 'random places')} Where what they "
        f"share is laid over others, {added.changed:.1%} of theirs do."
    )
