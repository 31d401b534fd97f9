"""Residual adaptation in small: a ResNet-8 trained on digits 0 to 4 is adapted to 5 to 9.

python benchmarks/residual_adaptation.py [--out FILE]

One of the digits 5 to 9 is normal, the other four are anomalies at test time, and letters drawn in
PIL's default font are the outlier exposure. Compared: only the dense layer trained on the frozen
network; adapters (ADRA); all weights kept near (ADIB); the same network from fresh weights.
"""

from __future__ import annotations

import argparse
import csv
import string
import sys
import warnings
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from tqdm import tqdm

from neuralize.deep import BinaryClassifier, ResidualAdaptation, Training

SIDE = 16
SEEDS = (0, 1, 2)
NORMAL = (5, 6, 7, 8, 9)
COLUMNS = ("method", "normal", "seed", "auroc", "adapter_share")

Array = np.ndarray


class Block(nn.Module):
    """Two convolutions and a projected shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + self.shortcut(x))


class ResNet8(nn.Module):
    """Three blocks; pictures ``(n, 1, 16, 16)`` to features ``(n, 32)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 32, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3))


def digits() -> tuple[Array, Array]:
    """Pictures ``(n, 1, 16, 16)`` from 0 to 1, and their digits."""
    bunch = load_digits()
    small = torch.from_numpy(bunch.images / 16.0).float()[:, None]
    return F.interpolate(small, size=SIDE, mode="bilinear").numpy(), bunch.target


def letters(n: int, seed: int = 0) -> Array:
    """Random letters in PIL's default font, moved, turned and resized ``(n, 1, 16, 16)``."""
    rng = np.random.default_rng(seed)
    found = np.zeros((n, 1, SIDE, SIDE), dtype=np.float32)
    for i in range(n):
        canvas = Image.new("L", (48, 48))
        letter = rng.choice(list(string.ascii_letters))
        font = ImageFont.load_default(size=int(rng.integers(28, 42)))
        ImageDraw.Draw(canvas).text((24, 24), letter, 255, font, anchor="mm")
        turned = canvas.rotate(
            float(rng.uniform(-20, 20)), translate=rng.integers(-3, 4, 2).tolist()
        )
        found[i, 0] = np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) / 255.0
    return found


def pretrained(x: Array, y: Array, seed: int) -> ResNet8:
    """A ResNet-8 that tells digits 0 to 4 apart."""
    torch.manual_seed(seed)
    network = ResNet8()
    model = nn.Sequential(network, nn.Linear(32, 5))
    known = y < 5
    images, labels = torch.from_numpy(x[known]), torch.from_numpy(y[known])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def methods(network: ResNet8, seed: int) -> dict[str, Any]:
    plan = Training(12, 64, 3e-3, milestones=(9,), seed=seed, progress=False)
    frozen = nn.Sequential(Frozen(network), nn.Linear(32, 1))
    torch.manual_seed(seed)
    fresh = nn.Sequential(ResNet8(), nn.Linear(32, 1))
    return {
        "frozen, dense layer": BinaryClassifier(network=frozen, preprocessing=None, training=plan),
        "adapters": ResidualAdaptation(network, training=plan),
        "penalty": ResidualAdaptation(network, method="penalty", training=plan),
        "fresh": BinaryClassifier(network=fresh, preprocessing=None, training=plan),
    }


class Frozen(nn.Module):
    """Features that do not learn, not even the statistics of their normalisations."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def task(x: Array, y: Array, normal: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Training rows with labels, held-out rows, and which are anomalies."""
    own = np.random.default_rng(seed).permutation(np.flatnonzero(y == normal))
    train, rest = np.split(own, [3 * len(own) // 5])
    exposed = letters(len(train), seed)
    held = np.concatenate([rest, np.flatnonzero((y >= 5) & (y != normal))])
    labels = np.repeat([0, 1], [len(train), len(exposed)])
    return np.concatenate([x[train], exposed]), labels, x[held], y[held] != normal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = digits()
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for seed in tqdm(SEEDS):
            network = pretrained(x, y, seed)
            for normal in NORMAL:
                rows, labels, held, abnormal = task(x, y, normal, seed)
                for name, model in methods(network, seed).items():
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        model.fit(rows, labels)
                    auc = roc_auc_score(abnormal, model.decision_function(held))
                    share = ""
                    if name == "adapters":
                        share = f"{float(model.shares(held[:200]).overall.median()):.3f}"
                    writer.writerow([name, normal, seed, f"{auc:.4f}", share])
                    file.flush()


if __name__ == "__main__":
    main()
