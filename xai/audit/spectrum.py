"""Spectrum: which frequencies decisions rest on, and what blur, JPEG and noise will do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.fft import dctn

from xai.audit.check import Check
from xai.audit.conditions import blurred, compressed, noisy, resized
from xai.audit.context import AuditContext
from xai.audit.forecast import Forecast, held_against
from xai.audit.moves import natural_moves
from xai.audit.signatures import FINE
from xai.audit.spectrum_pictures import bands_and_reactions
from xai.audit.trial import CHANGED, FEWER_PLACES, Effect, Replacement, some, trial
from xai.plot.images import channel_axis
from xai.relevance import Array
from xai.report.finding import (
    Answer,
    BeforeAfter,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Suspect,
)
from xai.virtual_layers import frequency

EXPLAINED = 48
"""Pictures whose relevance is looked at by frequency."""

AT_ONCE = 16
"""Pictures explained at a time, or fewer, where the encoder's activations are large."""

BANDS = 8

MIN_SIDE = 12
"""Sides below which there are hardly any frequencies to tell apart."""

EXCESS = 2.0
"""Fine structures may take up to twice their share of the data's energy, ..."""

MOST = 0.3
"""... or up to three tenths of the relevance."""

CONDITIONS: Mapping[str, Callable[[Array], Array]] = {
    "antialiased resizing": lambda p: resized(p, 0.6),
    "blur": lambda p: blurred(p, 0.8),
    "JPEG": lambda p: compressed(p, 50),
    "noise": lambda p: noisy(p, 0.02, np.random.default_rng(0)),
}
"""What pictures go through between one camera or program and the next."""

WORDS = {
    "antialiased resizing": "made smaller (0.6) with antialiasing and back",
    "blur": "blurred (standard deviation 0.8 pixels)",
    "JPEG": "compressed as JPEG of quality 50",
    "noise": "given noise (0.02 of the range)",
}


@dataclass(frozen=True, eq=False)
class Reaction:
    """What one condition does.

    Attributes
    ----------
    name
        The condition.
    effect
        On scores and decisions, beside moves of the same length.
    forecast
        What relevance by frequency foresees (a coefficient's relevance times its relative change),
        and what was measured.
    """

    name: str
    effect: Effect
    forecast: Forecast

    @property
    def matters(self) -> bool:
        """Whether decisions hang on it, or rates of a detector rise or fall with it."""
        return self.effect.decides or self.forecast.one_sided


class Spectrum(Check):
    """Asks how much relevance the finest structures take, and what becomes of decisions without.

    A suspicion is relevance in the finest band beyond its share of the data's energy. It is tested
    by resizing with antialiasing, blur, JPEG and noise, each against moves of the same length
    towards other pictures: what pictures show, the model may mind; what a program does to them, it
    should mind less. A detector that calls more, or fewer, pictures abnormal under a condition will
    do so wherever pictures come that way.
    """

    name = "spectrum"
    question = "Do decisions rest on structures too fine to survive the next camera or program?"
    needs = "pictures"
    thresholds: ClassVar[Mapping[str, str]] = {
        "relevance of the finest band (from 0.35 cycles per pixel)": f"at most {MOST:g}, or "
        f"{EXCESS:g} times its share of the energy",
        "decisions that change by a condition": f"less than {CHANGED:.0%}, or no more than by "
        "moves of the same length",
        "balance of decisions of a detector that change": f"less than {CHANGED:.0%} of the rows, "
        "or no more to one side than chance has it",
    }

    def run(self, audit: AuditContext) -> Iterator[Answer]:
        if not audit.is_image or min(audit.planes.shape[1:3]) < MIN_SIDE:
            reason = f"Frequencies are asked of pictures from {MIN_SIDE} pixels."
            yield NotAssessable(self.question, reason)
            return
        rows = some(np.arange(len(audit)), audit.rng, min(EXPLAINED, audit.most_rows))
        found, coefficients = relevance_by_frequency(audit, rows)
        band = _bands(coefficients.shape[-2:])
        relevance = _shares(np.abs(found), band)
        energy = _shares((coefficients - coefficients.mean(0)) ** 2, band)
        bound = max(MOST, EXCESS * float(energy[-1]))
        measure = Measure(
            "share of relevance in the finest structures (above 0.35 cycles per pixel)",
            float(relevance[-1]),
            "<=",
            bound,
        )
        reactions = [reaction(audit, rows, name, found, coefficients) for name in CONDITIONS]
        smoothing = [r for r in reactions if r.name != "noise" and r.matters]
        told = ". ".join(_sentence(audit, r) for r in reactions)
        if not smoothing:
            yield Passed(measure, f"Their share of the energy is {energy[-1]:.1%}. {told}.")
            return
        worst = max(smoothing, key=lambda r: (r.forecast.one_sided, r.effect.changed))
        yield Finding(
            "info" if measure.holds else "warning",
            f"After {worst.name}, {_outcome(audit, worst)}; {measure.value:.0%} of the relevance "
            "lies on the finest structures.",
            measure,
            f"The finest structures hold {energy[-1]:.1%} of the energy of the data and do not "
            "survive resampling: pictures that come by another way will be judged differently. "
            f"{told}.",
            "Fit and use the model on pictures of one way of resampling, or put a blur before it "
            "and fit again (xai.mitigate.BlurFront).",
            _test(audit, rows, reactions),
            (bands_and_reactions(relevance, energy, reactions),),
            audit.names(rows),
            Suspect("band", "finest structures", {"edges": np.array([FINE, 2**-0.5])}),
        )


def _channels_first(audit: AuditContext) -> Array:
    """Pictures as networks have them ``(n, c, h, w)``, or ``(n, h, w)``."""
    axis = channel_axis(audit.data.shape[1:])
    return np.moveaxis(audit.data, -1, 1) if axis in (-1, 2) else audit.data


def relevance_by_frequency(audit: AuditContext, rows: Array) -> tuple[Array, Array]:
    """Relevance of the cosine components of these rows, and the components, ``(k, ..., h, w)``."""
    data = _channels_first(audit)[rows]
    found = frequency(
        audit.net,
        data,
        composite=audit.composite,
        batch_size=min(AT_ONCE, audit.net.rows_at_once),
        progress=audit.progress,
    )
    return found.values, dctn(data.astype(np.float64), axes=(-2, -1), norm="ortho")


def _bands(shape: tuple[int, ...]) -> Array:
    """Band of every coefficient ``(h, w)``: the last from :data:`FINE` cycles per pixel on."""
    h, w = shape
    radius = np.hypot(np.arange(h)[:, None] / h, np.arange(w) / w) / 2
    edges = np.linspace(0, FINE, BANDS)
    band: Array = np.searchsorted(edges[1:], radius, side="right")
    return band


def _shares(magnitude: Array, band: Array) -> Array:
    """Share of every band ``(bands,)``, the mean over rows."""
    per_row = magnitude.reshape(len(magnitude), -1, *band.shape).sum(1)
    total = np.maximum(per_row.sum((1, 2)), np.finfo(float).tiny)
    return np.array([(per_row[:, band == b].sum(1) / total).mean() for b in range(BANDS)])


def reaction(
    audit: AuditContext, rows: Array, name: str, relevance: Array, coefficients: Array
) -> Reaction:
    """What a condition does to these rows, foreseen by their relevance and measured."""
    low, scale = float(audit.data.min()), float(np.ptp(audit.data)) or 1.0
    planes = (audit.planes[rows] - low) / scale
    after = low + scale * CONDITIONS[name](planes.astype(np.float64))
    flat = np.stack([audit.from_planes(picture) for picture in after])
    everywhere = np.ones(flat.shape[1], dtype=bool)
    moves = natural_moves(audit, rows, flat, FEWER_PLACES)
    effect = trial(audit, rows, Replacement(everywhere, flat), moves)
    answer = audit.rescore(rows, flat)
    change = dctn(_as(after, coefficients.shape), axes=(-2, -1), norm="ortho") - coefficients
    # A coefficient that is nearly nothing may grow many times over; what it has is all it can lose.
    ratio = np.clip(change / np.where(coefficients == 0, 1, coefficients), -1, 1)
    predicted = (relevance * ratio).reshape(len(rows), -1).sum(1)
    return Reaction(name, effect, held_against(audit, rows, predicted, answer))


def _as(planes: Array, shape: tuple[int, ...]) -> Array:
    """Pictures ``(n, h, w, c)`` with their channels where ``shape`` has them."""
    moved: Array = np.moveaxis(planes, -1, 1)
    return moved.reshape(shape)


def _outcome(audit: AuditContext, reaction: Reaction) -> str:
    """What the condition does, for a title."""
    moved = [rate for rate in reaction.forecast.rates if rate.one_sided]
    if moved:
        most = max(moved, key=lambda rate: abs(rate.after - rate.before))
        return f"the {most.name} would be {most.after:.0%} instead of {most.before:.0%}"
    return f"{reaction.effect.changed:.0%} of the {audit.decision_name} would be others"


def _sentence(audit: AuditContext, reaction: Reaction) -> str:
    effect, forecast = reaction.effect, reaction.forecast
    text = (
        f"Where they are {WORDS[reaction.name]}, scores move by {effect.moved:.2g} standard "
        f"deviations ({float(np.median(effect.random_moved)):.2g} by a move of the same length) "
        f"and {effect.changed:.1%} of the {audit.decision_name} change; relevance by frequency "
        f"foresaw {forecast.changed:.1%}, and the shift of the scores with a rank correlation of "
        f"{forecast.correlation:.2f}"
    )
    return "; ".join([text, *(rate.sentence for rate in forecast.rates)])


def _test(audit: AuditContext, rows: Array, reactions: list[Reaction]) -> Counterfactual:
    numbers: dict[str, float] = {}
    before_after = []
    for reaction in reactions:
        name, forecast = reaction.name, reaction.forecast
        numbers |= reaction.effect.numbers(name, audit.decision_name)
        numbers[f"{name}: rank correlation of foreseen and measured"] = forecast.correlation
        numbers[f"{name}: foreseen share of {audit.decision_name} that change"] = forecast.changed
        for rate in forecast.rates:
            numbers[f"{name}: {rate.name}, foreseen"] = rate.foreseen
            before_after.append(BeforeAfter(f"{rate.name}, {name}", rate.before, rate.after))
    return Counterfactual(
        f"{len(rows)} pictures were {', '.join(WORDS.values())}; for comparison they were moved as "
        f"far towards other pictures. {audit.decision_note}".strip(),
        numbers,
        tuple(before_after),
    )
