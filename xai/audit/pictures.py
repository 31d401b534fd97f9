"""The figures of the placement check: marked pictures with relevance, and what the test did."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xai.audit.context import AuditContext
from xai.audit.marks import Mark
from xai.audit.places import place_name
from xai.audit.trial import Effect
from xai.plot.figure import NotebookFigure
from xai.plot.images import brightness, relevance_map
from xai.plot.scales import NEGATIVE, POSITIVE, SIGNED, symmetric_limit
from xai.relevance import Array
from xai.report.finding import Picture

SAMPLES = 6
OUTLINE = "#f0a000"


def samples(audit: AuditContext, mark: Mark) -> Picture:
    """Some marked pictures above their relevance, the mark outlined, one colour scale for all."""
    rows = mark.rows[np.linspace(0, len(mark.rows) - 1, SAMPLES).round().astype(int)]
    grey = brightness(audit.data[rows])
    maps = relevance_map(audit.relevance_of(rows).values)
    norm = Normalize(-(end := symmetric_limit(maps)), end)
    figure = NotebookFigure(figsize=(8, 3.1), layout="constrained")
    axes = figure.subplots(2, len(rows), squeeze=False)
    for i, name in enumerate(audit.names(rows)):
        axes[0, i].imshow(grey[i], cmap="gray", vmin=grey.min(), vmax=grey.max())
        axes[1, i].imshow(maps[i], cmap=SIGNED, norm=norm, interpolation="nearest")
        axes[0, i].set_title(name, fontsize=8, parse_math=False)
        for ax in axes[:, i]:
            outline(ax, mark.pixels)
    bar = figure.colorbar(ScalarMappable(norm, SIGNED), ax=axes[1], pad=0.01)
    bar.set_label("relevance", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    caption = (
        f"Pictures that carry the mark (above) and their relevance in the unit of the evidence: "
        f"{audit.relevance.evidence_name}. Red speaks for the decision, blue against it; the mark "
        "is outlined."
    )
    where = place_name(mark.pixels)
    alt = f"{len(rows)} pictures and their relevance maps, with a mark outlined {where}."
    return Picture(figure, caption, alt)


def where_on_average(audit: AuditContext, pixels: Array | None) -> Picture:
    """Mean share of relevance per pixel beside the share of variance, a place outlined."""
    variance = audit.variance
    shares = {
        "relevance": audit.relevance_share.mean(0),
        "variance of the data": variance / (variance.sum() or 1.0),
    }
    maps = {name: audit.as_planes(share).sum(-1) for name, share in shares.items()}
    figure = NotebookFigure(figsize=(6.4, 2.9), layout="constrained")
    for ax, (name, picture) in zip(figure.subplots(1, 2), maps.items(), strict=True):
        image = ax.imshow(picture, cmap="Greens", vmin=0, interpolation="nearest")
        ax.set(title=name, xticks=[], yticks=[])
        ax.title.set_size(10)
        figure.colorbar(image, ax=ax).ax.tick_params(labelsize=8)
        if pixels is not None:
            outline(ax, pixels)
    return Picture(
        figure,
        "Share of every pixel in the absolute relevance (mean over rows) and in the variance of "
        "the data; both add up to 1." + ("" if pixels is None else " The place is outlined."),
        "Two maps side by side: mean relevance, and variance of the data.",
    )


def outline(ax: Axes, pixels: Array) -> None:
    """Draw the border of a place, and take the ticks away."""
    padded = np.pad(pixels, 1).astype(int)
    for y, x in np.argwhere(np.diff(padded, axis=0)):
        ax.plot([x - 1.5, x - 0.5], [y - 0.5, y - 0.5], color=OUTLINE, lw=1.2, clip_on=False)
    for y, x in np.argwhere(np.diff(padded, axis=1)):
        ax.plot([x - 0.5, x - 0.5], [y - 1.5, y - 0.5], color=OUTLINE, lw=1.2, clip_on=False)
    h, w = pixels.shape
    ax.set(xticks=[], yticks=[], xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))


def effects(removed: Effect, added: Effect) -> Picture:
    """How far scores move when the mark is removed or added, among the random places."""
    figure: Figure = NotebookFigure(figsize=(6.4, 2.3), layout="constrained")
    ax = figure.subplots()
    rng = np.random.default_rng(0)
    for y, effect in enumerate((added, removed)):
        jitter = y + rng.uniform(-0.18, 0.18, len(effect.random_moved))
        ax.scatter(effect.random_moved, jitter, s=14, color=NEGATIVE, alpha=0.5, lw=0)
        ax.scatter(effect.moved, y, s=70, color=POSITIVE, marker="D", zorder=3)
    ax.scatter([], [], s=70, color=POSITIVE, marker="D", label="at the mark")
    ax.scatter([], [], s=14, color=NEGATIVE, alpha=0.5, label="at random places")
    ax.set(yticks=[0, 1], yticklabels=["mark added", "mark removed"], ylim=(-0.6, 1.6))
    ax.set_xlabel("shift of the scores (median, in standard deviations)", fontsize=9)
    ax.tick_params(labelsize=9)
    ax.set_xlim(left=0)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=2, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    caption = (
        "Each dot is one random place of the mark's size and shape, treated in the same way in the "
        "same pictures."
    )
    alt = (
        f"Removing the mark moves scores by {removed.moved:.2g} standard deviations, more than "
        f"{removed.rank:.0%} of random places do; adding it by {added.moved:.2g}, more than "
        f"{added.rank:.0%} do."
    )
    return Picture(figure, caption, alt)
