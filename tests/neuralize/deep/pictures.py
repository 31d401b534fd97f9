"""Small pictures and a small backbone for the detectors over patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def pictures(n: int = 10, *, seed: int = 0, side: int = 12, channels: int = 3) -> np.ndarray:
    """Stripes with noise ``(n, channels, side, side)`` in 0 to 1, float32."""
    dice = np.random.default_rng(seed)
    stripes = 0.5 + 0.3 * np.sin(np.arange(side) + dice.random((n, channels, 1, 1)))
    noise = 0.1 * dice.random((n, channels, side, side))
    return (stripes * np.ones((side, 1)) + noise).astype(np.float32)


class Backbone(nn.Module):
    """Two stages with BatchNorm, a ReLU in place, and a head that must not run."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 5, 3, 1, 1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(5, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.unused = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.relu(self.norm(self.stem(x)))))
        y: Tensor = self.head(x.mean((2, 3)))  # does not fit: an error if it ran
        return y


def backbone(channels: int = 3) -> Backbone:
    """The same weights every time; running statistics that are not those of a fresh network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Backbone(channels)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = 0.1 * torch.randn(module.num_features)
                module.running_var = 0.5 + torch.rand(module.num_features)
    return made
