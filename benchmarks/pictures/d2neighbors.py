"""Draw docs/pictures/detector_d2neighbors.png: what orders of the norm, blur and features look at.

python benchmarks/pictures/d2neighbors.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from drawing import colour_bar
from matplotlib.figure import Figure

import xai
from neuralize.deep import D2Neighbors
from xai.datasets import fashion_mnist, plant_mark
from xai.plot.scales import SIGNED, symmetric_limit
from xai.pretrained import cifar_resnet20

ROOT = Path(__file__).parents[2]
NORMAL = "Dress"
CONSTANTS = {"mean": (0.5,), "std": (0.5,)}  # from 0..1 to -1..1


def main(path: Path) -> None:
    torch.set_num_threads(1)
    train, test = fashion_mnist(), fashion_mnist("test")
    x = train.images[train.names == NORMAL][:300].astype(np.float32)
    dresses = test.images[test.names == NORMAL][[0, 1]]
    marked, _ = plant_mark(dresses, [0, 1], size=3)
    others = [test.images[test.names == name][0] for name in ("Trouser", "Coat", "Bag")]
    shown = np.stack([*dresses, *marked, *others]).astype(np.float32)
    kinds = ["dress", "dress", "dress, mark", "dress, mark", "trouser", "coat", "bag"]
    detectors = {
        "p = 1": D2Neighbors(p=1, **CONSTANTS),
        "p = 2": D2Neighbors(**CONSTANTS),
        "p = 4": D2Neighbors(p=4, **CONSTANTS),
        "p = 2,\nblurred": D2Neighbors(blur=1.5, **CONSTANTS),
        "features": D2Neighbors(
            backbone=cifar_resnet20(), layers=["layer2", "layer3"], mean=(0.0,) * 3, std=(1.0,) * 3
        ),
    }  # fmt: skip
    figure = Figure(figsize=(9.2, 8.2), layout="constrained")
    axes = figure.subplots(1 + len(detectors), len(shown))
    for panel, picture, kind in zip(axes[0], shown, kinds, strict=True):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
        panel.set_title(kind, fontsize=8)
    axes[0, 0].set_ylabel("input", fontsize=8)
    for panels, (name, detector) in zip(axes[1:], detectors.items(), strict=True):
        relevance = xai.explain(detector.fit(x), shown)
        end = symmetric_limit(relevance.values, quantile=0.998)
        panels[0].set_ylabel(name, fontsize=8)
        for i, panel in enumerate(panels):
            panel.imshow(relevance.values[i], cmap=SIGNED, vmin=-end, vmax=end)
            verdict = "outlier" if relevance.evidence[i] > detector.threshold_ else "usual"
            panel.set_xlabel(f"{relevance.evidence[i]:.3g}: {verdict}", fontsize=7)
        colour_bar(figure, panels, end)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    figure.supxlabel("Below each map: score, and on which side of the threshold. One scale a row.",
                     fontsize=8)  # fmt: skip
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_d2neighbors.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
