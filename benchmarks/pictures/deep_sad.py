"""Draw docs/pictures/detector_deep_sad.png: dresses as normal, without and with labelled bags.

python benchmarks/pictures/deep_sad.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from deep_svdd import NORMAL, PLAN
from drawing import PICTURES, draw

from neuralize.deep import DeepSAD, DeepSVDD
from xai.datasets import fashion_mnist

KNOWN, LABELLED = "Bag", 30
SHOWN = {"Dress": 2, "Bag": 2, "Coat": 1, "Trouser": 1, "Sandal": 1, "Sneaker": 1}


def main(path: Path) -> None:
    torch.set_num_threads(1)
    normal = fashion_mnist(classes=[NORMAL]).images
    anomalies = fashion_mnist(classes=[KNOWN]).images[:LABELLED]
    x, y = np.concatenate([normal, anomalies]), np.repeat([0, -1], [len(normal), LABELLED])
    detectors = {
        "Deep SVDD": DeepSVDD(network="mnist_lenet", training=PLAN).fit(normal),
        f"Deep SAD, {LABELLED} bags": DeepSAD(network="mnist_lenet", training=PLAN).fit(x, y),
    }
    draw(detectors, SHOWN, {NORMAL: "normal", KNOWN: "labelled anomaly"}, path)


if __name__ == "__main__":
    default = PICTURES / "detector_deep_sad.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
