"""Draw docs/pictures/detector_zero_shot.png: one picture, several pairs of prompts.

python benchmarks/pictures/zero_shot.py [FILE]

CLIP's weights are not at hand, so two small towers are trained here as CLIP is, on Fashion-MNIST
and its class names; the prompts are therefore not zero-shot, and the picture shows mechanics only.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from drawing import colour_bar
from torch import Tensor, nn

import xai
from neuralize.deep import ZeroShot
from xai.datasets import fashion_mnist
from xai.plot.figure import NotebookFigure
from xai.plot.scales import SIGNED, symmetric_limit

ROOT = Path(__file__).parents[2]
WIDTH, SCALE = 32, 20.0
PAIRS = (("Dress", "something"), ("Bag", "something"), ("Bag", "Ankle boot"))
SHOWN = ("Dress", "Bag", "Ankle boot", "Coat")


class Words(nn.Module):
    """Text tower: the mean of embedded words."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(512, WIDTH)

    def forward(self, prompts: list[str]) -> Tensor:
        rows = [[sum(map(ord, w)) * 31 % 512 for w in prompt.lower().split()] for prompt in prompts]
        offsets = np.cumsum([0, *map(len, rows[:-1])])
        return self.bag(torch.tensor(list(itertools.chain(*rows))), torch.from_numpy(offsets))


def image_tower() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)), nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, WIDTH),
    )  # fmt: skip


def towers(epochs: int = 4) -> tuple[nn.Module, Words]:
    """Both trained with the contrastive loss; a tenth of the pictures are of ``something``."""
    torch.manual_seed(0)
    train = fashion_mnist("train")
    image, words = image_tower(), Words()
    prompts = [f"a photo of a {name}" for name in train.classes] + ["a photo of something"]
    x, y = torch.from_numpy(train.images).float(), torch.from_numpy(train.labels)
    optimizer = torch.optim.Adam([*image.parameters(), *words.parameters()], 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            target = torch.where(torch.rand(len(rows)) < 0.1, len(train.classes), y[rows])
            v, t = F.normalize(image(x[rows]), dim=1), F.normalize(words(prompts), dim=1)
            loss = F.cross_entropy(SCALE * v @ t.T, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return image.eval(), words.eval()


def main(path: Path) -> None:
    torch.set_num_threads(1)
    test = fashion_mnist("test")
    pictures = np.stack([test.images[test.names == name][0] for name in SHOWN])
    image, words = towers()
    figure = NotebookFigure(figsize=(7.4, 6.6), layout="constrained")
    axes = figure.subplots(1 + len(PAIRS), len(SHOWN))
    for panel, picture, name in zip(axes[0], pictures, SHOWN, strict=True):
        panel.imshow(picture, cmap="gray")
        panel.set_title(name, fontsize=8)
    for row, (normal, other) in zip(axes[1:], PAIRS, strict=True):
        anomaly = "a photo of something" if other == "something" else f"a photo of a {other}"
        model = ZeroShot(
            image, words, normal=normal, anomaly=anomaly, input_shape=(28, 28), mean=None,
            scale=SCALE,
        ).fit()  # fmt: skip
        found = xai.explain(model, pictures)
        end = symmetric_limit(found.values, quantile=0.997)
        for i, panel in enumerate(row):
            panel.imshow(found.values[i], cmap=SIGNED, vmin=-end, vmax=end)
            panel.set_xlabel(
                f"{found.evidence[i]:.1f} = {found.values[i].sum():.1f} "
                f"{found.absorbed_total[i]:+.1f}; p = {found.original[i]:.2f}", fontsize=7,
            )  # fmt: skip
        colour_bar(figure, row, end)
        row[0].set_ylabel(f"{anomaly!r}\nagainst\n'a photo of a {normal}'", fontsize=7)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    figure.supxlabel("Below each map: logit difference = pixels + absorbed.", fontsize=8)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_zero_shot.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
