"""What the pictures of several detectors share: a colour bar, and clothes above their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

import xai
from xai.datasets import fashion_mnist
from xai.plot.figure import NotebookFigure
from xai.plot.scales import SIGNED, symmetric_limit

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


def colour_bar(figure: Any, axes: Any, end: float, location: str = "right") -> None:
    """The scale of relevance, -end to end, beside the panels that share it."""
    scale = ScalarMappable(Normalize(-end, end), SIGNED)
    bar = figure.colorbar(scale, ax=axes, pad=0.01, location=location)
    bar.ax.tick_params(labelsize=6)


def shown_rows(counts: dict[str, int]) -> tuple[np.ndarray, list[str]]:
    test = fashion_mnist("test")
    names = [name for name, n in counts.items() for _ in range(n)]
    pictures = [test.images[test.names == name][:n] for name, n in counts.items()]
    return np.concatenate(pictures), names


def draw(
    detectors: dict[str, Any], counts: dict[str, int], roles: dict[str, str], path: Path
) -> None:
    """A row of pictures, and below it the relevance of every detector, on one scale each.

    ``counts`` says how many of each class are shown, ``roles`` what a class was in training.
    """
    pictures, names = shown_rows(counts)
    figure = NotebookFigure(figsize=(9.4, 1.35 + 1.45 * len(detectors)), layout="constrained")
    axes = figure.subplots(1 + len(detectors), len(pictures))
    for panel, picture, name in zip(axes[0], pictures, names, strict=True):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
        panel.set_title(f"{name}\n{roles.get(name, 'never seen')}", fontsize=8)
    for row, (name, detector) in zip(axes[1:], detectors.items(), strict=True):
        found = xai.explain(detector, pictures)
        end = symmetric_limit(found.values, quantile=0.997)
        for i, panel in enumerate(row):
            panel.imshow(found.values[i], cmap=SIGNED, vmin=-end, vmax=end)
            panel.set_xlabel(
                f"{found.evidence[i]:.2g} = {found.values[i].sum():.2g} "
                f"{found.absorbed_total[i]:+.2g}", fontsize=6.5,
            )  # fmt: skip
        row[0].set_ylabel(f"{name}\nthreshold {detector.threshold_:.2g}", fontsize=8)
        colour_bar(figure, row, end)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    figure.supxlabel("Below each map: score = pixels + absorbed.", fontsize=8)
    figure.savefig(path, dpi=90)
