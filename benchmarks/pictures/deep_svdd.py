"""Draw docs/pictures/detector_deep_svdd.png: dresses as normal, one-class and soft boundary.

python benchmarks/pictures/deep_svdd.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from drawing import PICTURES, draw

from neuralize.deep import DeepSVDD, Training
from xai.datasets import fashion_mnist

NORMAL = "Dress"
SHOWN = {"Dress": 2, "Coat": 2, "Trouser": 1, "Bag": 2, "Sandal": 1}
PLAN = Training(epochs=12, batch_size=64, milestones=(9,), progress=False)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    x = fashion_mnist(classes=[NORMAL]).images
    options = {"network": "mnist_lenet", "training": PLAN}
    detectors = {
        "one-class": DeepSVDD(**options).fit(x),
        "soft boundary": DeepSVDD(objective="soft-boundary", warm_up=4, **options).fit(x),
    }
    draw(detectors, SHOWN, {NORMAL: "normal"}, path)


if __name__ == "__main__":
    default = PICTURES / "detector_deep_svdd.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
