"""Where only one of two models looks, and whose answers move when that is gone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xai.audit.context import AuditContext
from xai.audit.patches import chosen_features, patch_sums, patches_of
from xai.audit.trial import CHANGED, RARE
from xai.plot.figure import NotebookFigure
from xai.plot.scales import NEGATIVE, POSITIVE, SIGNED
from xai.relevance import Array
from xai.report.finding import Picture

SHARE = 0.1
"""Of the features or patches."""

DRAWS = 20
"""Random choices of as many."""

NAMED = 10


@dataclass(frozen=True)
class Only:
    """What happens without the patches that one model looks at and the other does not.

    Attributes
    ----------
    share
        By how much its share of relevance exceeds the other's, mean over rows ``(p,)``.
    moved, other_moved
        Median absolute shift of its and of the other's scores, in their standard deviations.
    changed, other_changed
        Share of its and of the other's decisions that change.
    random_changed
        Share of its decisions that change for each random choice ``(m,)``.
    """

    share: Array
    moved: float
    other_moved: float
    changed: float
    other_changed: float
    random_changed: Array

    @property
    def decisive(self) -> bool:
        """Whether it decides by what the other hardly needs, more than chance explains."""
        usual = float(np.quantile(self.random_changed, RARE))
        return self.changed >= CHANGED and self.changed > usual and (
            self.other_changed <= self.changed / 4
        )  # fmt: skip


def only_one(audit: AuditContext, other: AuditContext, rows: Array) -> Only:
    """Replace, in these rows, what ``audit``'s model looks at more than ``other``'s."""
    rng = audit.rng
    patches, count = patches_of(audit)
    excess = _share(audit, rows, patches, count) - _share(other, rows, patches, count)
    k = max(1, round(SHARE * count))
    chosen = np.argsort(-excess, axis=1, kind="stable")[:, :k]
    order = np.tile(np.arange(count), (len(rows), 1))
    altered = _without(audit, rows, chosen, patches, count)
    here, there = audit.rescore(rows, altered), other.rescore(rows, altered)
    random = []
    for _ in range(DRAWS):
        draw = rng.permuted(order, axis=1)[:, :k]
        without = _without(audit, rows, draw, patches, count)
        random.append(float(audit.rescore(rows, without).changed.mean()))
    return Only(
        excess.mean(0),
        float(np.median(np.abs(here.shift)) / (audit.spread or 1.0)),
        float(np.median(np.abs(there.shift)) / (other.spread or 1.0)),
        float(here.changed.mean()),
        float(there.changed.mean()),
        np.array(random),
    )


def _share(audit: AuditContext, rows: Array, patches: Array, count: int) -> Array:
    sums = np.abs(patch_sums(audit, rows, patches, count))
    total = sums.sum(1, keepdims=True)
    share: Array = sums / np.where(total > 0, total, 1.0)
    return share


def _without(audit: AuditContext, rows: Array, chosen: Array, patches: Array, count: int) -> Array:
    inside = chosen_features(chosen, patches, count)
    altered: Array = np.where(inside, audit.median_row(), audit.flat[rows])
    return altered


def only_one_picture(
    audit: AuditContext, here: Only, there: Only, other_name: str, rows: Array
) -> Picture:
    """By how much each model's share of relevance exceeds the other's, by place or feature."""
    caption = (
        f"Share of relevance in this model minus share in {other_name}, mean over {len(rows)} "
        "rows. Red: this model looks there, the other hardly does; blue: the reverse."
    )
    if audit.is_image:
        patches, _ = patches_of(audit)
        picture = here.share[audit.as_planes(patches)[..., 0]]
        figure = NotebookFigure(figsize=(4.2, 3.4), layout="constrained")
        ax = figure.subplots()
        end = float(np.abs(picture).max()) or 1.0
        image = ax.imshow(picture, cmap=SIGNED, vmin=-end, vmax=end, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        figure.colorbar(image, ax=ax).ax.tick_params(labelsize=8)
        return Picture(figure, caption, "Map of where one model looks and the other does not.")
    best = np.argsort(-np.abs(here.share))[:NAMED][::-1]
    figure = NotebookFigure(figsize=(6.4, 2.8), layout="constrained")
    ax = figure.subplots()
    ax.barh(
        range(len(best)), here.share[best],
        color=[POSITIVE if here.share[i] > 0 else NEGATIVE for i in best],
    )  # fmt: skip
    names = [audit.feature_name(int(i)) for i in best]
    ax.set_yticks(range(len(best)), names, fontsize=8, parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    return Picture(figure, caption, "Bars of the features that one model uses more.")
