"""Draw docs/pictures/detector_residual_adaptation.png: a CIFAR-10 network adapted to bags.

python benchmarks/pictures/residual_adaptation.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from drawing import colour_bar

import xai
from neuralize.deep import ResidualAdaptation, Training
from xai.datasets import fashion_mnist
from xai.plot.figure import NotebookFigure
from xai.plot.scales import SIGNED, symmetric_limit
from xai.pretrained import cifar_resnet20

ROOT = Path(__file__).parents[2]
NORMAL, EXPOSED = "Sneaker", "Shirt"
SHOWN = {"Sneaker": 1, "Shirt": 1, "Sandal": 1, "Ankle boot": 1, "Bag": 1}
ROWS = 200


def coloured(images: np.ndarray) -> np.ndarray:
    """Grey pictures of 28 pixels as colour ones of 32."""
    x = torch.from_numpy(images).float()[:, None]
    return F.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1).numpy()


def fitted() -> ResidualAdaptation:
    parts = [fashion_mnist(classes=[name]).images[:ROWS] for name in (NORMAL, EXPOSED)]
    plan = Training(4, 64, 3e-3, milestones=(3,), progress=False)
    y = np.repeat([0, 1], ROWS)
    return ResidualAdaptation(cifar_resnet20(), training=plan).fit(
        coloured(np.concatenate(parts)), y
    )


def main(path: Path) -> None:
    torch.set_num_threads(1)
    test = fashion_mnist("test")
    names = [name for name, n in SHOWN.items() for _ in range(n)]
    pictures = np.concatenate([test.images[test.names == name][:n] for name, n in SHOWN.items()])
    model = fitted()
    x = coloured(pictures)
    found, shares = xai.explain(model, x), model.shares(x)
    maps = found.values.sum(1)
    figure = NotebookFigure(figsize=(9.4, 3.9), layout="constrained")
    grid = figure.add_gridspec(2, len(names) + 3)
    end = symmetric_limit(maps, quantile=0.997)
    panels: list[Any] = []
    for i, name in enumerate(names):
        role = {NORMAL: "normal", EXPOSED: "exposed"}.get(name, "never seen")
        for k, (image, options) in enumerate((
            (pictures[i], {"cmap": "gray"}), (maps[i], {"cmap": SIGNED, "vmin": -end, "vmax": end}),
        )):  # fmt: skip
            panel = figure.add_subplot(grid[k, i])
            panels.append(panel)
            panel.imshow(image, **options)
            panel.set_xticks([])
            panel.set_yticks([])
            if k == 0:
                panel.set_title(f"{name}\n{role}", fontsize=8)
        panel.set_xlabel(
            f"{found.evidence[i]:.2f} = {maps[i].sum():.2f} {found.absorbed_total[i]:+.2f}\n"
            f"adapters: {float(shares.overall[i]):.0%}", fontsize=7,
        )  # fmt: skip
    colour_bar(figure, panels[1::2], end)
    bars = figure.add_subplot(grid[:, len(names) :])
    middle = shares.by_layer.nanmean(0).numpy()
    bars.barh(np.arange(len(middle)), middle, color="tab:blue", label="adapter")
    bars.barh(np.arange(len(middle)), 1 - middle, left=middle, color="0.85", label="frozen kernel")
    bars.set_yticks(np.arange(len(middle)), shares.paths, fontsize=6)
    bars.invert_yaxis()
    bars.set_xlim(0, 1)
    bars.set_title("share of relevance, mean of these pictures", fontsize=8)
    bars.legend(fontsize=7, loc="lower right")
    figure.supxlabel("Below each map: logit = pixels + absorbed.", fontsize=8)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_residual_adaptation.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
