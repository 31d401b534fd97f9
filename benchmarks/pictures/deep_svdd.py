"""Draw docs/pictures/detector_deep_svdd.png: dresses as normal, one-class and soft boundary.

python benchmarks/pictures/deep_svdd.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

import xai
from neuralize.deep import DeepSVDD, Training
from xai.datasets import fashion_mnist
from xai.plot.figure import NotebookFigure
from xai.plot.scales import SIGNED, symmetric_limit

ROOT = Path(__file__).parents[2]
NORMAL = "Dress"
SHOWN = {"Dress": 2, "Coat": 2, "Trouser": 1, "Bag": 2, "Sandal": 1}
PLAN = Training(epochs=12, batch_size=64, milestones=(9,), progress=False)


def shown_rows(counts: dict[str, int]) -> tuple[np.ndarray, list[str]]:
    test = fashion_mnist("test")
    names = [name for name, n in counts.items() for _ in range(n)]
    pictures = [test.images[test.names == name][:n] for name, n in counts.items()]
    return np.concatenate(pictures), names


def draw(detectors: dict[str, Any], counts: dict[str, int], known: str, path: Path) -> None:
    """A row of pictures, and below it the relevance of every detector, on one scale each."""
    pictures, names = shown_rows(counts)
    figure = NotebookFigure(figsize=(9.4, 1.35 + 1.45 * len(detectors)), layout="constrained")
    axes = figure.subplots(1 + len(detectors), len(pictures))
    for panel, picture, name in zip(axes[0], pictures, names, strict=True):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
        role = {NORMAL: "normal", known: "labelled anomaly"}.get(name, "never seen")
        panel.set_title(f"{name}\n{role}", fontsize=8)
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
        bar = figure.colorbar(ScalarMappable(Normalize(-end, end), SIGNED), ax=row, pad=0.01)
        bar.ax.tick_params(labelsize=6)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    figure.supxlabel("Below each map: score = pixels + absorbed.", fontsize=8)
    figure.savefig(path, dpi=90)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    x = fashion_mnist(classes=[NORMAL]).images
    options = {"network": "mnist_lenet", "training": PLAN}
    detectors = {
        "one-class": DeepSVDD(**options).fit(x),
        "soft boundary": DeepSVDD(objective="soft-boundary", warm_up=4, **options).fit(x),
    }
    draw(detectors, SHOWN, "", path)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_deep_svdd.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
