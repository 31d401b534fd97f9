"""Draw docs/pictures/detector_patchcore.png and detector_padim.png: drawn surfaces with defects.

python benchmarks/pictures/patches.py [FOLDER]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import colour_bar
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

import xai
from neuralize import neuralize
from neuralize.deep import PaDiM, PatchCore
from xai.plot.scales import SIGNED, symmetric_limit
from xai.pretrained import cifar_resnet20
from xai.textures import Surfaces, ground_surfaces

ROOT = Path(__file__).parents[2]
LAYERS = ["layer2", "layer3"]
GREY = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # grey becomes three channels
Array = NDArray[Any]


def draw(detector: PatchCore | PaDiM, surfaces: Surfaces, path: Path) -> None:
    """Every picture above its native map, relevance of its score and of all that exceeds."""
    x = surfaces.images
    score = xai.explain(detector, x)
    whole = xai.explain(neuralize(detector, pool="excess"), x)
    native = detector.anomaly_map(x, 2.0)
    figure = Figure(figsize=(1.55 * len(x), 6.4), layout="constrained")
    axes = figure.subplots(4, len(x))
    ends = [symmetric_limit(part.values, quantile=0.999) for part in (score, whole)]
    for column, panels in enumerate(axes.T):
        panels[0].imshow(x[column], cmap="gray", vmin=0, vmax=1)
        panels[0].set_title(surfaces.kinds[column], fontsize=8)
        panels[1].imshow(native[column], cmap="magma", vmin=native.min(), vmax=native.max())
        for panel, part, end in zip(panels[2:], (score, whole), ends, strict=True):
            panel.imshow(part.values[column], cmap=SIGNED, vmin=-end, vmax=end)
            panel.set_xlabel(_account(part, column), fontsize=6)
        for panel in panels:
            panel.contour(surfaces.masks[column], [0.5], colors="tab:green", linewidths=0.6)
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, name in zip(
        axes[:, 0], ("input", "native map", "relevance of\nthe score", "relevance of\nthe excess"),
        strict=True,
    ):  # fmt: skip
        panel.set_ylabel(name, fontsize=8)
    scale = figure.colorbar(axes[1, 0].images[0], ax=axes[1], pad=0.01)
    scale.ax.tick_params(labelsize=6)
    for row, end in zip(axes[2:], ends, strict=True):
        colour_bar(figure, row, end)
    figure.supxlabel(
        "Green: the true defect. Below each map: evidence = pixels + absorbed. One scale a row.",
        fontsize=8,
    )
    save_small(figure, path)


def save_small(figure: Figure, path: Path) -> None:
    """As a PNG with a palette, a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=95)
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(255, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path)


def _account(part: Any, row: int) -> str:
    return (
        f"{part.evidence[row]:.4g} = {part.values[row].sum():.3g} {part.absorbed_total[row]:+.4g}"
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    train = ground_surfaces(60, 0, seed=1).images
    shown = ground_surfaces(1, 8).select(np.arange(6))
    draw(
        PatchCore(cifar_resnet20(), layers=LAYERS, coreset=0.05, **GREY).fit(train),
        shown, folder / "detector_patchcore.png",
    )  # fmt: skip
    draw(
        PaDiM(cifar_resnet20(), layers=LAYERS, dims=40, **GREY).fit(train),
        shown, folder / "detector_padim.png",
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures")
