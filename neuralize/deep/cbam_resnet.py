"""ResNets with convolutional block attention (Woo et al., CBAM, ECCV 2018): eoe's networks.

Every residual branch ``y`` is gated twice before it is added,

    ``y' = y * sigmoid(m(mean y) + m(max y))``, by channel, ``m`` two dense layers,
    ``y'' = y' * sigmoid(bn(conv([max_c y', mean_c y'])))``, by place.

Relevance holds the gates constant: they say how much of ``y`` passes, and ``y`` is what passes.
Hendrycks et al. (NeurIPS 2019) and Liznerski et al. (TMLR 2022) train this one, two blocks a stage.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from neuralize.deep.networks import Architecture

BLOCKS = 2
"""Per stage."""

REDUCTION = 16
"""Of the channels, in the layers that gate them."""


class CBAMResNet(nn.Module):
    """``(n, 3, h, w) -> (n, rep_dim)``; stages of ``a.channels``, each but the first halving."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        stem = a.channels[0]
        self.conv1 = nn.Conv2d(a.input_shape[0], stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.stages = len(a.channels)
        for i, (width, outer) in enumerate(itertools.pairwise((stem, *a.channels))):
            stride = 1 if i == 0 else 2
            blocks = [GatedBlock(width, outer, stride)]
            blocks += [GatedBlock(outer, outer, 1) for _ in range(BLOCKS - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(a.channels[-1], a.rep_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Representation of pictures."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class GatedBlock(nn.Module):
    """Two 3 x 3 convolutions, gated, and what goes around them."""

    def __init__(self, width: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.cbam = CBAM(outer)
        self.downsample: nn.Module | None = None
        if stride != 1 or width != outer:
            around = nn.Conv2d(width, outer, 1, stride, bias=False)
            self.downsample = nn.Sequential(around, nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        """Maps of maps."""
        y = self.cbam(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class CBAM(nn.Module):
    """The two gates; names are those of eoe's files."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels)
        self.SpatialGate = SpatialGate()

    def forward(self, y: Tensor) -> Tensor:
        """What passes both."""
        return self.SpatialGate(self.ChannelGate(y))  # type: ignore[no-any-return]


class ChannelGate(nn.Module):
    """How much of each channel passes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // REDUCTION
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels)
        )

    def forward(self, y: Tensor) -> Tensor:
        """``(n, c, h, w)``."""
        gate = torch.sigmoid(self.mlp(y.mean((2, 3))) + self.mlp(y.amax((2, 3))))
        return y * gate[:, :, None, None]


class SpatialGate(nn.Module):
    """How much of each place passes."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Sequential()
        self.spatial.add_module("conv", nn.Conv2d(2, 1, 7, 1, 3, bias=False))
        self.spatial.add_module("bn", nn.BatchNorm2d(1))

    def forward(self, y: Tensor) -> Tensor:
        """``(n, c, h, w)``."""
        both = torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], 1)
        return y * torch.sigmoid(self.spatial(both))
