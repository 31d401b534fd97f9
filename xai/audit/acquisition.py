"""Acquisition: whether decisions hang on the device or codec that pictures went through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
from scipy.stats import rankdata

from xai.audit.check import Check
from xai.audit.context import AuditContext
from xai.audit.group_shift import permuted
from xai.audit.groups import MIN_ROWS
from xai.audit.imitation import Kinds, imitation
from xai.audit.kind_pictures import kinds_apart
from xai.audit.moves import natural_moves
from xai.audit.signatures import (
    APART,
    FINE,
    VALLEY,
    Signature,
    signatures,
    two_kinds,
)
from xai.audit.trial import CHANGED, MOVED, Effect, Replacement, some, trial
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

TELLING = 0.75
"""A group differs in a trace if it tells the group with at least this area under the curve, ..."""

PERMUTATIONS = 99
"""... and better than this many times that groups are dealt out anew within labels."""

SAME_ROWS = 0.9
"""Two traces that part the rows alike, up to a tenth, are one."""

LESS_CLEAR = 0.05
"""Noise and blur undo what a codec left: only a clearer trace of compression speaks for itself."""

MOST_SEEN = 500
"""Pictures that a change is fitted on, drawn at random: at most half of them of one kind."""


class Acquisition(Check):
    """Looks for two kinds of pictures by traces that have nothing to do with what they show.

    Kinds are found by a valley in the distribution of a trace, or told by the groups given. The
    test makes pictures of one kind like the other in that trace, as strongly as the kinds differ;
    it is compared with moves of the same length towards other pictures.
    """

    name = "acquisition"
    question = "Do decisions depend on the device, codec or resampling that pictures went through?"
    needs = "pictures"
    thresholds: ClassVar[Mapping[str, str]] = {
        "two kinds": f"a valley below {VALLEY:g} of the lower peak, {APART:g} spreads apart",
        "group told by a trace": f"area under the curve of at least {TELLING:g}, and above that of "
        f"{PERMUTATIONS} groups dealt out at random",
        "effect of the trace": f"below {MOVED:g} standard deviations, {CHANGED:.0%} of decisions",
    }

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        if not audit.is_image:
            yield NotAssessable(self.question, "The data are a table; traces are of pictures.")
            return
        low, scale = float(audit.data.min()), float(np.ptp(audit.data)) or 1.0
        found = list(signatures(audit.planes, low, scale))
        if not found:
            yield NotAssessable(self.question, "The pictures are too small to carry traces.")
            return
        suspects = _distinct([kinds for s, values in found for kinds in _kinds(audit, s, values)])
        count = Measure("traces by which the pictures are of two kinds", len(suspects), "<=", 0)
        if count.holds:
            names = ", ".join(signature.name for signature, _ in found)
            yield Passed(count, f"Looked at {names}.")
        for kinds in suspects:
            yield _finding(audit, kinds, low, scale)


def _kinds(audit: AuditContext, signature: Signature, values: Array) -> Iterator[Kinds]:
    more = two_kinds(values)
    if more is not None:
        yield Kinds(signature, values, more, "", audit.labels)
    if audit.groups is None:
        return
    names, counts = np.unique(audit.groups, return_counts=True)
    for name in names if len(names) > 2 else names[[counts.argmin()]]:
        inside = audit.groups == name
        if min(inside.sum(), (~inside).sum()) < MIN_ROWS:
            continue
        telling = _auroc(values, inside, audit.labels)
        apart = abs(telling - 0.5)
        if apart >= TELLING - 0.5 and apart > _by_chance(audit, values, inside):
            more = inside if telling > 0.5 else ~inside
            yield Kinds(signature, values, more, f"group {name}", audit.labels)


def _by_chance(audit: AuditContext, values: Array, inside: Array) -> float:
    """How far from a half the area under the curve gets for groups dealt out at random."""
    rng = audit.rng
    dealt = [permuted(inside, audit.labels, rng) for _ in range(PERMUTATIONS)]
    return max(abs(_auroc(values, group, audit.labels) - 0.5) for group in dealt)


def _auroc(values: Array, inside: Array, labels: Array | None) -> float:
    """Area under the curve, the mean over labels by their rows; 0.5 where none mixes."""
    strata = np.zeros(len(values), int) if labels is None else labels
    total, weight = 0.0, 0
    for label in np.unique(strata):
        rows = strata == label
        k, m = int(inside[rows].sum()), int((~inside[rows]).sum())
        if k and m:
            ranks = rankdata(values[rows])[inside[rows]].sum()
            total += (ranks - k * (k + 1) / 2) / (k * m) * (k + m)
            weight += k + m
    return total / weight if weight else 0.5


def _distinct(suspects: list[Kinds]) -> list[Kinds]:
    """The clearest of those that part the rows alike; what a codec leaves depends on the others."""

    def unclear(kinds: Kinds) -> tuple[bool, float]:
        clear = _auroc(kinds.values, kinds.more, None)
        return kinds.source != "", LESS_CLEAR * (kinds.signature.name == "compression") - clear

    kept: list[Kinds] = []
    for kinds in sorted(suspects, key=unclear):
        same = [max((k.more == kinds.more).mean(), (k.more != kinds.more).mean()) for k in kept]
        if max(same, default=0.0) < SAME_ROWS:
            kept.append(kinds)
    return kept


def _finding(audit: AuditContext, kinds: Kinds, low: float, scale: float) -> Finding:
    rng = audit.rng
    of_each = [some(np.flatnonzero(w), rng, MOST_SEEN // 2) for w in (kinds.more, ~kinds.more)]
    seen = np.sort(np.concatenate(of_each))
    pictures = (audit.planes[seen] - low) / scale
    change = imitation(kinds.of(seen), pictures)
    chosen = some(change.rows, audit.rng, audit.most_rows)
    rows = seen[chosen]
    after = low + scale * change.apply(pictures[chosen])
    flat = np.stack([audit.from_planes(picture) for picture in after])
    effect = trial(
        audit,
        rows,
        Replacement(np.ones(flat.shape[1], dtype=bool), flat),
        natural_moves(audit, rows, flat),
    )
    share = float(kinds.more.mean())
    said = f"{share:.0%} of the pictures are {kinds.signature.more} than the others"
    if kinds.source:
        told = kinds.more if _is_group(audit, kinds) else ~kinds.more
        how = kinds.signature.more if told is kinds.more else kinds.signature.less
        said = f"Pictures of {kinds.source} ({told.mean():.0%}) tend to be {how}"
    title = {
        "critical": "and the trace decides part of the model's answers",
        "warning": "and the trace moves the model's scores",
        "info": "and it hardly matters to the model",
    }[effect.severity_of_no_content]
    source = ""
    if kinds.source:
        clear = _auroc(kinds.values, kinds.more, audit.labels)
        source = (
            f" The {kinds.source} is told by it with an area under the curve of {clear:.2f}"
            f"{'' if audit.labels is None else ' within labels'}."
        )
    return Finding(
        effect.severity_of_no_content,
        f"{said}, {title}.",
        Measure(
            f"effect of the trace: the larger of the shift of the scores over {MOVED} standard "
            f"deviations and the share of changed decisions over {CHANGED:.0%}",
            effect.weight,
            "<",
            1.0,
        ),
        _explanation(audit, kinds, effect, change.words) + source,
        "Fit and use the model on pictures that went through the same device, codec and resampling"
        ", or take the trace out before the model (a blur, a fixed quality, a balance of colours).",
        Counterfactual(
            f"{len(rows)} pictures of one kind were {change.words}, which makes them like the "
            "other kind in this trace; for comparison they were moved as far towards others, "
            f"{len(effect.random_moved)} times. {audit.decision_note}".strip(),
            effect.numbers(kinds.signature.name, audit.decision_name),
            effect.before_after(kinds.signature.name, audit.decision_name),
        ),
        (kinds_apart(kinds.signature, kinds.values, kinds.more),),
        audit.names(np.flatnonzero(kinds.more if share <= 0.5 else ~kinds.more)),
        _suspect(audit, kinds),
    )


def _explanation(audit: AuditContext, kinds: Kinds, effect: Effect, how: str) -> str:
    rows = np.flatnonzero(kinds.more)
    return (
        f"The {kinds.signature.name} of pictures says how they were taken or stored, not what they "
        f"show; by it these are of two kinds, {kinds.signature.more} and {kinds.signature.less}. "
        f"Of those that are {kinds.signature.more}, {audit.composition(rows)}. Where "
        f"pictures of one kind are {how}, "
        f"{effect.sentence(audit.decision_name, 'moves towards others')}"
    )


def _is_group(audit: AuditContext, kinds: Kinds) -> bool:
    """Whether those with more of the trace are the group, and not the others."""
    assert audit.groups is not None
    return f"group {audit.groups[kinds.more][0]}" == kinds.source


def _suspect(audit: AuditContext, kinds: Kinds) -> Suspect:
    if kinds.signature.coloured:
        groups = np.where(kinds.more, kinds.signature.more, kinds.signature.less)
        return Suspect("group", kinds.signature.name, {"groups": groups})
    return Suspect(
        "band",
        kinds.signature.name,
        {"edges": np.array([FINE, 2**-0.5]), "rows": np.flatnonzero(kinds.more)},
    )
