"""Draw docs/pictures/detector_deep_gmm.png: likelihoods of a ResNet's features, down to the pixels.

A mixture and a flow on the same 64 features of sneakers; what they find is printed.

python benchmarks/pictures/deep_gmm.py [FILE]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from PIL import Image
from sklearn.metrics import roc_auc_score

import xai
from neuralize.deep import DeepGMM, RealNVP, Training
from xai.corruptions import corrupt
from xai.datasets import fashion_mnist
from xai.plot.figure import NotebookFigure, png
from xai.plot.scales import SIGNED, symmetric_limit
from xai.pretrained import cifar_resnet20

ROOT = Path(__file__).parents[2]
NORMAL = "Sneaker"
PLAN = Training(epochs=40, batch_size=64, decay=0.97, progress=False)


def as_cifar(grey: np.ndarray) -> np.ndarray:
    """``(n, 28, 28)`` as ``(n, 3, 32, 32)``, which the encoder was trained on."""
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2))).astype(np.float32)
    return np.repeat(padded[:, None], 3, 1)


def shown(test: Any) -> tuple[np.ndarray, list[str]]:
    """Two sneakers, the same ones corrupted, and other things."""
    usual = test.images[test.names == NORMAL][:2]
    others = {name: test.images[test.names == name][:1] for name in ("Sandal", "Bag", "Dress")}
    pictures = [usual, corrupt(usual, "stripe"), corrupt(usual, "spatter"), *others.values()]
    names = [NORMAL] * 2 + ["with stripe"] * 2 + ["spattered"] * 2 + list(others)
    return as_cifar(np.concatenate(pictures)), names


def main(path: Path) -> None:
    torch.set_num_threads(1)
    x = as_cifar(fashion_mnist(classes=[NORMAL]).images)
    detectors: dict[str, Any] = {
        "mixture": DeepGMM(cifar_resnet20(), n_components=3, reg_covar=1e-3),
        "RealNVP": RealNVP(features=cifar_resnet20(), training=PLAN, noise=0.3, limit=1.0),
    }
    test = fashion_mnist("test")
    every, usual = as_cifar(test.images), test.names == NORMAL
    pictures, names = shown(test)
    figure = NotebookFigure(figsize=(9.4, 3.5), layout="constrained")
    axes = figure.subplots(3, len(pictures))
    for panel, picture, name in zip(axes[0], pictures, names, strict=True):
        panel.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
        panel.set_title(name, fontsize=8)
    for row, (name, detector) in zip(axes[1:], detectors.items(), strict=True):
        detector.fit(x)
        scores = detector.decision_function(every)
        print(f"{name}: AUROC {roc_auc_score(~usual, scores):.3f}, threshold {detector.threshold_}")
        for kind in ("stripe", "spatter"):
            odd = detector.decision_function(as_cifar(corrupt(test.images[usual], kind)))
            both = np.concatenate([scores[usual], odd])
            print(kind, roc_auc_score(np.repeat([0, 1], [usual.sum(), len(odd)]), both))
        found = xai.explain(detector, pictures, progress=False)
        maps = found.values.sum(1)
        end = symmetric_limit(maps, quantile=0.995)
        for panel, image, score in zip(row, maps, found.evidence, strict=True):
            panel.imshow(image, cmap=SIGNED, vmin=-end, vmax=end)
            panel.set_xlabel(f"{score:.1f} nats", fontsize=7.5)
        row[0].set_ylabel(f"{name}\nthreshold {detector.threshold_:.0f}", fontsize=8)
        bar = figure.colorbar(ScalarMappable(Normalize(-end, end), SIGNED), ax=row, pad=0.01)
        bar.ax.tick_params(labelsize=6)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    # many small maps in full colour would be a large file: the colours of the scale, and greys
    colors = [*SIGNED(np.linspace(0, 1, 193))[:, :3], *np.linspace(0, 1, 63)[:, None].repeat(3, 1)]
    palette = Image.new("P", (1, 1))
    palette.putpalette((np.array(colors) * 255).round().astype(np.uint8).tobytes())
    whole = Image.open(io.BytesIO(png(figure, dpi=90))).convert("RGB")
    whole.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_deep_gmm.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
