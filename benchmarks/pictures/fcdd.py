"""Draw docs/pictures/detector_fcdd.png: FCDD that learned a planted mark, seen by both maps.

python benchmarks/pictures/fcdd.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

import xai
from neuralize.deep import FCDD, Training
from xai.datasets import fashion_mnist, plant_mark
from xai.plot import heat_colors
from xai.plot.figure import NotebookFigure
from xai.plot.scales import SIGNED, symmetric_limit

ROOT = Path(__file__).parents[2]
NORMAL, ANOMALOUS = "Dress", "Coat"
PLAN = Training(epochs=10, batch_size=64, lr=3e-3, milestones=(7,), progress=False)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    train, test = fashion_mnist(), fashion_mnist("test")
    x, other = (train.images[train.names == name] for name in (NORMAL, ANOMALOUS))
    marked, _ = plant_mark(other, np.arange(len(other)))
    y = np.repeat([0, 1], [len(x), len(other)])
    coats = test.images[test.names == ANOMALOUS][:3]
    shown = np.concatenate([
        plant_mark(coats, np.arange(3))[0], coats, test.images[test.names == NORMAL][:2]
    ])  # fmt: skip
    kinds = ["coat, mark"] * 3 + ["coat"] * 3 + ["dress"] * 2
    detectors = {
        "coats marked in training": FCDD(preprocessing="contrast", training=PLAN).fit(
            np.concatenate([x, marked]), y
        ),
        "not marked": FCDD(preprocessing="contrast", training=PLAN).fit(
            np.concatenate([x, other]), y
        ),
    }
    figure = NotebookFigure(figsize=(9.4, 6.6), layout="constrained")
    axes = figure.subplots(5, 8)
    for panel, picture, kind in zip(axes[0], shown, kinds, strict=True):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
        panel.set_title(kind, fontsize=8)
    axes[0, 0].set_ylabel("input", fontsize=8)
    for row, (name, detector) in enumerate(detectors.items()):
        heat = heat_colors(detector.anomaly_map(shown), quantile=0.97)
        relevance = xai.explain(detector, shown)
        end = symmetric_limit(relevance.values, quantile=0.997)
        for i in range(8):
            axes[1 + 2 * row, i].imshow(heat[i], cmap="magma", vmin=0, vmax=1)
            panel = axes[2 + 2 * row, i]
            panel.imshow(relevance.values[i], cmap=SIGNED, vmin=-end, vmax=end)
            panel.set_xlabel(
                f"{relevance.evidence[i]:.2f} = {relevance.values[i].sum():.2f} "
                f"{relevance.absorbed_total[i]:+.2f}", fontsize=6.5,
            )  # fmt: skip
        axes[1 + 2 * row, 0].set_ylabel(f"{name}\nA'", fontsize=8)
        axes[2 + 2 * row, 0].set_ylabel("relevance", fontsize=8)
        for panel, norm, colors in (
            (axes[1 + 2 * row], Normalize(0, 1), "magma"),
            (axes[2 + 2 * row], Normalize(-end, end), SIGNED),
        ):
            bar = figure.colorbar(ScalarMappable(norm, colors), ax=panel, pad=0.01, aspect=10)
            bar.ax.tick_params(labelsize=6)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    figure.supxlabel(
        "A' semi-global, .97 quantile. Below each relevance map: score = pixels + absorbed.",
        fontsize=8,
    )
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_fcdd.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
