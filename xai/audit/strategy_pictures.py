"""The figure of strategies: the mean map of every cluster of a decision, beside the eigenvalues."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Normalize

from xai.audit.strategy_clusters import Decision
from xai.plot.figure import NotebookFigure
from xai.plot.scales import POSITIVE, SIGNED, symmetric_limit
from xai.report.finding import Picture

SHOWN = 6


def cluster_means(decision: Decision) -> Picture:
    """Mean maps of the largest clusters, one colour scale for all, and the eigenvalues."""
    clusters = decision.clusters
    maps = decision.maps / np.linalg.norm(decision.maps, axis=(1, 2), keepdims=True)
    shown = range(min(clusters.count, SHOWN))
    means = np.stack([maps[clusters.labels == c].mean(0) for c in shown])
    norm = Normalize(-(end := symmetric_limit(means)), end)
    figure = NotebookFigure(figsize=(1.6 * len(means) + 2.4, 2.0), layout="constrained")
    first, *axes = figure.subplots(1, len(means) + 1)
    first.plot(np.arange(1, len(clusters.eigenvalues) + 1), clusters.eigenvalues, ".-", c=POSITIVE)
    first.axvline(clusters.count + 0.5, c="0.5", lw=0.8, ls=":")
    first.set_title("eigenvalues", fontsize=8)
    first.tick_params(labelsize=7)
    for c, ax in enumerate(axes):
        ax.imshow(means[c], cmap=SIGNED, norm=norm, interpolation="nearest")
        ax.set_title(f"{(clusters.labels == c).sum()} maps", fontsize=8)
        ax.set(xticks=[], yticks=[])
    rest = "" if clusters.count <= SHOWN else f" The {SHOWN} largest of {clusters.count}."
    return Picture(
        figure,
        f"Clusters of the maps of {decision.name}: the eigenvalues of their graph with the largest "
        f"gap dotted, and the mean map of each, maps scaled to length one.{rest} Red speaks for "
        "the decision, blue against it.",
        f"Eigenvalues, and {len(means)} mean maps of {decision.name}.",
    )
