"""The figure of the spectrum check: relevance by frequency, and what conditions change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xai.plot.figure import NotebookFigure
from xai.plot.scales import NEGATIVE, POSITIVE
from xai.relevance import Array
from xai.report.finding import Picture

if TYPE_CHECKING:
    from xai.audit.spectrum import Reaction


def bands_and_reactions(relevance: Array, energy: Array, reactions: Sequence[Reaction]) -> Picture:
    """Shares per band side by side, and changed decisions beside those at random."""
    figure = NotebookFigure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = np.arange(len(relevance))
    left.bar(at - 0.2, relevance, 0.4, color=POSITIVE, label="relevance")
    left.bar(at + 0.2, energy, 0.4, color=NEGATIVE, label="energy of the data")
    left.set_xlabel("frequency, coarse to fine", fontsize=9)
    left.set_ylabel("share", fontsize=9)
    left.set_xticks([])
    left.legend(fontsize=8, frameon=False)
    for i, reaction in enumerate(reactions):
        effect = reaction.effect
        dots = effect.random_changed
        right.scatter(dots, np.full(len(dots), i), s=14, color=NEGATIVE, alpha=0.4, lw=0)
        right.scatter(effect.changed, i, s=60, color=POSITIVE, marker="D", zorder=3)
    right.set_yticks(range(len(reactions)), [r.name for r in reactions], fontsize=8)
    right.set_xlabel("share of decisions that change", fontsize=9)
    right.set_xlim(left=-0.02)
    for ax in (left, right):
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    return Picture(
        figure,
        "Left: share of relevance and of the data's energy by frequency, the finest from 0.35 "
        "cycles per pixel on. Right: decisions that change by a condition (diamonds) and by moves "
        "of the same length towards other pictures (dots).",
        f"The finest structures take {relevance[-1]:.0%} of the relevance and {energy[-1]:.1%} of "
        "the energy.",
    )
