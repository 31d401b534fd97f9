"""Fully convolutional networks, picture to map ``(n, 1, u, v)``: small ones, and cut backbones.

``cnn28`` and ``cnn32`` are those of Liznerski et al. (ICLR 2021): convolutions with batch
normalisation, leaky ReLU and 2 x 2 pools, the last convolution left linear, then a 1 x 1
convolution to one map. ``light`` trains on a processor in half a minute.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from neuralize.deep.networks import EPS
from neuralize.encoder import evaluating
from neuralize.errors import InputError


class FullyConvolutional(BaseModel):
    """What a small network is built from; JSON in a manifest.

    Attributes
    ----------
    input_channels
        Of the pictures.
    channels, kernel
        Of the convolutions before the last; one kernel for all, or one for each.
    pools, pool
        Which of them a maximum pool with stride 2 follows, and its side, 2 or 3.
    normalize_last
        Whether the last of them has a batch normalisation and leaky ReLU as well.
    bias
        Whether convolutions have biases, and normalisations weights.
    slope, eps
        Of the leaky ReLUs and of the batch normalisations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_channels: int
    channels: tuple[int, ...]
    kernel: int | tuple[int, ...]
    pools: tuple[int, ...] = (0, 1)
    pool: Literal[2, 3] = 2
    normalize_last: bool = False
    bias: bool = True
    slope: float = 0.01
    eps: float = EPS

    def build(self) -> nn.Sequential:
        """The network, with fresh weights."""
        layers: list[nn.Module] = []
        widths = (self.input_channels, *self.channels)
        k = self.kernel
        kernels = (k,) * len(self.channels) if isinstance(k, int) else k
        for i, ((a, b), k) in enumerate(zip(itertools.pairwise(widths), kernels, strict=True)):
            layers.append(nn.Conv2d(a, b, k, padding=k // 2, bias=self.bias))
            if i + 1 < len(self.channels) or self.normalize_last:
                layers.append(nn.BatchNorm2d(b, eps=self.eps, affine=self.bias))
                layers.append(nn.LeakyReLU(self.slope) if self.slope else nn.ReLU())
            if i in self.pools:
                layers.append(nn.MaxPool2d(self.pool, 2, self.pool - 2))
        return nn.Sequential(*layers, nn.Conv2d(self.channels[-1], 1, 1, bias=self.bias))


NETWORKS: dict[str, dict[str, Any]] = {
    "light": {"channels": (16, 32, 32), "kernel": (5, 3, 3), "normalize_last": True},
    "cnn28": {"channels": (128, 128), "kernel": 5},
    "cnn32": {"channels": (128, 256, 256, 128), "kernel": 3, "pools": (0, 2)},
}


def fully_convolutional(
    name: str, input_shape: Sequence[int], *, bias: bool = False
) -> FullyConvolutional:
    """A named network for pictures of ``input_shape`` ``(c, h, w)``.

    Raises
    ------
    InputError
        An unknown name, or rows that are no pictures.

    Examples
    --------
    >>> fully_convolutional("cnn28", (1, 28, 28)).channels
    (128, 128)
    """
    if name not in NETWORKS:
        known = ", ".join(map(repr, NETWORKS))
        raise InputError(f"Expected network {known} or an nn.Module, got {name!r}.")
    if len(input_shape) != 3:
        raise InputError(
            f"Network {name!r} takes pictures (n, c, h, w) or (n, h, w), got rows of shape "
            f"{tuple(input_shape)}."
        )
    return FullyConvolutional(input_channels=input_shape[0], bias=bias, **NETWORKS[name])


class Backbone(nn.Module):
    """A user's network whose first modules stay as they are, with a 1 x 1 convolution on top.

    Parameters
    ----------
    body
        From pictures to maps ``(n, c, u, v)``; copied.
    frozen
        How many of its children, in order, keep weights and statistics. The body is then taken to
        run them first, as an ``nn.Sequential`` does.
    width
        ``c``. There is no 1 x 1 convolution where it is 1.

    Raises
    ------
    InputError
        More frozen modules than there are.
    """

    def __init__(self, body: nn.Module, frozen: int, width: int) -> None:
        super().__init__()
        self.body = copy.deepcopy(body)
        self.head = nn.Identity() if width == 1 else nn.Conv2d(width, 1, 1)
        children = list(self.body.children())
        if not 0 <= frozen <= len(children):
            raise InputError(
                f"Expected frozen=0 to {len(children)}, the children of {type(body).__name__}, got "
                f"{frozen}."
            )
        self._kept = children[:frozen]

    def train(self, mode: bool = True) -> Self:
        """Frozen modules stay in evaluation mode: their statistics must not move."""
        super().train(mode)
        for module in self._kept:
            module.eval()
        return self

    def freeze(self, frozen: bool = True) -> None:
        """Keep gradients from the frozen modules, or let them have some again."""
        for module in self._kept:
            module.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        """One map per picture ``(n, 1, u, v)``."""
        maps: Tensor = self.head(self.body(x))
        return maps


def map_width(network: nn.Module, x: Tensor) -> int:
    """Channels of the maps that ``network`` makes of ``x``.

    Raises
    ------
    InputError
        It returns something else.
    """
    with torch.no_grad(), evaluating(network):
        maps = network(x[:1])
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        raise InputError(
            "Expected maps (n, c, u, v) from the network, got "
            f"{tuple(getattr(maps, 'shape', ()))}; cut it before pooling and dense layers, as in "
            "nn.Sequential(*backbone.features[:7])."
        )
    return int(maps.shape[1])
