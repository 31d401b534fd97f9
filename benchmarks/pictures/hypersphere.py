"""Draw docs/pictures/detector_hypersphere.png: dresses, with sneakers as the only outliers shown.

python benchmarks/pictures/hypersphere.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from drawing import PICTURES, draw

from neuralize.deep import HypersphereClassifier, Training
from xai.datasets import fashion_mnist

NORMAL, EXPOSED = "Dress", "Sneaker"
ROLES = {NORMAL: "normal", EXPOSED: "exposed"}
SHOWN = {"Dress": 3, "Sneaker": 1, "Coat": 2, "Bag": 2}
PLAN = Training(epochs=12, batch_size=128, milestones=(9,), progress=False)


def exposed_rows() -> tuple[np.ndarray, np.ndarray]:
    """Normal rows and outliers, and which is which."""
    train = fashion_mnist(classes=[NORMAL, EXPOSED])
    return train.images, (train.names == EXPOSED).astype(int)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    x, y = exposed_rows()
    detectors = {
        name: HypersphereClassifier(norm=norm, network="mnist_lenet", training=PLAN).fit(x, y)
        for name, norm in (("pseudo-Huber", "pseudo_huber"), ("l1", "l1"))
    }
    draw(detectors, SHOWN, ROLES, path)


if __name__ == "__main__":
    default = PICTURES / "detector_hypersphere.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
