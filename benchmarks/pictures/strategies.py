"""Pictures of docs/evaluation_strategies.md: the corruptions, and strategies on ankle boots.

python benchmarks/pictures/strategies.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.neighbors import KernelDensity

from neuralize.deep import Autoencoder, DeepSVDD, Training
from neuralize.deep.ensemble import Ensemble
from xai.corruptions import CORRUPTIONS, corrupt, difference
from xai.datasets import fashion_mnist
from xai.evaluate import Strategies, strategies

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"


def corruptions() -> Figure:
    """One picture of three classes under every corruption, severity 3."""
    data = fashion_mnist("test")
    x = data.images[[int(np.flatnonzero(data.labels == c)[1]) for c in (0, 5, 9)]]
    figure = Figure(figsize=(8.2, 6.9), layout="constrained")
    for half, part in enumerate(figure.subfigures(2, 1)):
        names = ["clean", *CORRUPTIONS][8 * half : 8 * half + 8]
        axes = part.subplots(3, 8)
        for column, name in zip(axes.T, names, strict=True):
            shown = x if name == "clean" else corrupt(x, name)
            for ax, picture in zip(column, shown, strict=True):
                ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
                ax.axis("off")
            column[0].set_title(name.replace("_", " "), fontsize=9)
    return figure


def boots() -> Strategies:
    """Four detectors of ankle boots, and boots with each of four corruptions."""
    train, test = (
        fashion_mnist(split, classes=["Ankle boot"]).images for split in ("train", "test")
    )
    training = Training(epochs=10, progress=False)
    members = {
        "KDE": KernelDensity(bandwidth=1.5).fit(train.reshape(len(train), -1)),
        "autoencoder": Autoencoder(training=training).fit(train),
        "Deep SVDD": DeepSVDD(training=training).fit(train),
    }
    bag = Ensemble(members, prefit=True).fit(train[:300])
    kinds = ("zigzag", "spatter", "rotate", "stripe")
    bad = np.concatenate([corrupt(test[10 * k : 10 * k + 10], n) for k, n in enumerate(kinds)])
    truth = difference(test[:40], bad)
    x = np.concatenate([bad, test[40:]])
    masks = np.concatenate([truth, np.zeros_like(test[40:])])
    return strategies({**members, "bag": bag}, x, masks, np.arange(100) < 40)


def main() -> None:
    torch.set_num_threads(1)
    corruptions().savefig(FOLDER / "corruptions.png", dpi=64)
    found = boots()
    found.plot(rows=[3, 13, 23, 33]).savefig(FOLDER / "evaluation_strategies.png", dpi=80)
    print(found.table.round(3).T, found.agreement.round(2), found.cases, sep="\n")


if __name__ == "__main__":
    main()
