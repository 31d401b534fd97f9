"""Draw docs/pictures/detector_binary.png: logits by cross-entropy and by focal loss.

python benchmarks/pictures/binary.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from drawing import PICTURES, draw
from hypersphere import PLAN, ROLES, SHOWN, exposed_rows

from neuralize.deep import BinaryClassifier


def main(path: Path) -> None:
    torch.set_num_threads(1)
    x, y = exposed_rows()
    detectors = {
        name: BinaryClassifier(objective=objective, network="mnist_lenet", training=PLAN).fit(x, y)
        for name, objective in (("BCE", "bce"), ("focal", "focal"))
    }
    draw(detectors, SHOWN, ROLES, path)


if __name__ == "__main__":
    default = PICTURES / "detector_binary.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
