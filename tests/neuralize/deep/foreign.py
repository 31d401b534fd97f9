"""Networks of other projects as the facts say: layer sizes, names, order. Written anew, for tests.

Weights are random, and batch statistics far from their defaults, so that nothing agrees by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Maker = Callable[[], nn.Module]


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with random statistics, scales and offsets."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.copy_(torch.rand(tensor.shape, generator=g) + 0.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(torch.randn(tensor.shape, generator=g) * 0.2)
        elif tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=g) * (1.5 / fan_in) ** 0.5)
    return network.eval()


class LeNet(nn.Module):
    """Stages of convolution, normalisation, activation and pool; then dense layers."""

    def __init__(
        self,
        channels: tuple[int, ...],
        side: int,
        dense: tuple[int, ...],
        *,
        norm: str = "bn2d{}",
        last: str | None = None,
        bias: bool = False,
        head: bool = False,
        activation: Any = F.leaky_relu,
    ) -> None:
        super().__init__()
        self.stages, self.activation = [], activation
        for i in range(1, len(channels)):
            conv = nn.Conv2d(channels[i - 1], channels[i], 5, bias=bias, padding=2)
            self.add_module(f"conv{i}", conv)
            self.add_module(norm.format(i), nn.BatchNorm2d(channels[i], eps=1e-4, affine=bias))
            self.stages.append((f"conv{i}", norm.format(i)))
        sizes = (channels[-1] * side * side, *dense)
        self.layers = []
        for i in range(1, len(sizes)):
            name = last if last and i == len(dense) else f"fc{i}"
            self.add_module(name, nn.Linear(sizes[i - 1], sizes[i], bias=bias))
            self.layers.append(name)
            if i < len(dense):
                self.add_module(f"bn1d{i}", nn.BatchNorm1d(sizes[i], eps=1e-4, affine=bias))
        if head:
            self.linear = nn.Linear(dense[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in self.stages:
            x = getattr(self, norm)(getattr(self, conv)(x))
            x = F.max_pool2d(self.activation(x), 2, 2)
        x = x.view(x.size(0), -1)
        for i, name in enumerate(self.layers):
            x = getattr(self, name)(x)
            if i + 1 < len(self.layers):
                x = self.activation(getattr(self, f"bn1d{i + 1}")(x))
        return self.linear(x) if hasattr(self, "linear") else x


class _Block(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.linear = nn.Linear(a, b, bias=False)
        self.bn = nn.BatchNorm1d(b, eps=1e-4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.linear(x)))


class MLP(nn.Module):
    """Blocks ``hidden``, then ``code``."""

    def __init__(self, d: int, hidden: tuple[int, ...], rep_dim: int) -> None:
        super().__init__()
        sizes = (d, *hidden)
        self.hidden = nn.ModuleList(_Block(sizes[i], sizes[i + 1]) for i in range(len(hidden)))
        self.code = nn.Linear(hidden[-1], rep_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.hidden:
            x = block(x)
        return self.code(x)  # type: ignore[no-any-return]


def mnist_lenet() -> nn.Module:
    return shaken(LeNet((1, 8, 4), 7, (32,), norm="bn{}"))


def fmnist_lenet() -> nn.Module:
    return shaken(LeNet((1, 16, 32), 7, (128, 64)))


def cifar10_lenet() -> nn.Module:
    return shaken(LeNet((3, 32, 64, 128), 4, (128,)))


def cifar10_lenet_elu() -> nn.Module:
    return shaken(LeNet((3, 32, 64, 128), 4, (128,), activation=F.elu))


def thyroid_mlp() -> nn.Module:
    return shaken(MLP(6, (32, 16), 4))


class FullyConvolutional(nn.Module):
    """fcdd's networks: ``steps`` of conv name, width, kernel, whether normalised, pool or none."""

    def __init__(self, c: int, steps: list[tuple[str, int, int, bool, Any]], bias: bool) -> None:
        super().__init__()
        self.steps: list[tuple[str, str | None, Any]] = []
        for name, width, k, normalised, pool in steps:
            self.add_module(name, nn.Conv2d(c, width, k, bias=bias, padding=(k - 1) // 2))
            norm = f"bn2d{name[4:]}" if normalised else None
            if norm:
                self.add_module(norm, nn.BatchNorm2d(width, eps=1e-4, affine=bias))
            self.steps.append((name, norm, pool))
            c = width
        self.conv_final = nn.Conv2d(c, 1, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, pool in self.steps:
            x = getattr(self, conv)(x)
            if norm:
                x = F.leaky_relu(getattr(self, norm)(x))
            if pool:
                x = F.max_pool2d(x, *pool)
        return self.conv_final(x)  # type: ignore[no-any-return]


TWO, THREE = (2, 2), (3, 2, 1)


def fcdd_cnn28(bias: bool = False) -> nn.Module:
    return shaken(FullyConvolutional(1, [
        ("conv1", 8, 5, True, TWO), ("conv2", 16, 5, False, TWO),
    ], bias))  # fmt: skip


def fcdd_cnn32() -> nn.Module:
    network = FullyConvolutional(3, [
        ("conv1", 32, 5, True, TWO), ("conv2", 64, 5, True, TWO), ("conv3", 128, 5, False, None),
    ], True)  # fmt: skip
    network.bn2d3 = nn.BatchNorm2d(128, eps=1e-4)  # stored and never used
    return shaken(network)


def fcdd_cnn32_lw3k() -> nn.Module:
    return shaken(FullyConvolutional(3, [
        ("conv1", 128, 3, True, TWO), ("conv2", 256, 3, True, None), ("conv25", 256, 3, True, TWO),
        ("conv3", 128, 3, False, None),
    ], True))  # fmt: skip


def fcdd_cnn32_7k() -> nn.Module:
    return shaken(FullyConvolutional(3, [
        ("conv1", 128, 7, True, TWO), ("conv2", 256, 3, True, TWO), ("conv3", 128, 3, False, None),
    ], True))  # fmt: skip


def fcdd_cnn224() -> nn.Module:
    return shaken(FullyConvolutional(3, [
        ("conv1", 8, 5, True, THREE), ("conv2", 32, 5, True, THREE), ("conv3", 64, 3, True, None),
        ("conv4", 128, 3, True, THREE), ("conv5", 128, 3, False, None),
    ], True))  # fmt: skip


class CutVGG(nn.Module):
    """VGG11 with normalisation up to before the fourth pool, then one map."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 256, 512, 512)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c = 3
        for i, width in enumerate(widths):
            layers += [nn.Conv2d(c, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
            if i in (0, 1, 3):
                layers.append(nn.MaxPool2d(2, 2))
            c = width
        self.features = nn.Sequential(*layers)
        self.conv_final = nn.Conv2d(c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_final(self.features(x))  # type: ignore[no-any-return]


def fcdd_vgg() -> nn.Module:
    return shaken(CutVGG((8, 16, 24, 24, 32, 32)))  # narrower than VGG11, as deep


def fcdd_hsc28() -> nn.Module:
    return shaken(LeNet((1, 8, 4), 7, (48,), norm="bn{}", last="fc_final"))


def fcdd_hsc32() -> nn.Module:
    return shaken(LeNet((3, 32, 64, 128), 4, (512, 64), last="fc_final", bias=True))


def eoe_cnn28(head: bool = False, bias: bool = True) -> nn.Module:
    return shaken(LeNet((1, 16, 32), 7, (64, 32), bias=bias, head=head))


def eoe_cnn32(head: bool = False) -> nn.Module:
    return shaken(LeNet((3, 32, 64, 128), 4, (512, 256), bias=True, head=head))


class _ResidualBlock(nn.Module):
    def __init__(self, c: int, inner: int, outer: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        plan = (
            [(c, inner, 1, 1), (inner, inner, 3, stride), (inner, outer, 1, 1)]
            if bottleneck
            else [(c, inner, 3, stride), (inner, outer, 3, 1)]
        )
        self.n = len(plan)
        for i, (a, b, k, s) in enumerate(plan, 1):
            self.add_module(f"conv{i}", nn.Conv2d(a, b, k, s, k // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        if stride != 1 or c != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(c, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.n + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.n:
                y = y.relu()
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNet(nn.Module):
    """A narrow ResNet that answers with the maps of some of its stages."""

    def __init__(self, layers: tuple[str, ...], bottleneck: bool, stages: int = 3) -> None:
        super().__init__()
        self.layers, self.stages = layers, stages
        self.conv1 = nn.Conv2d(3, 6, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        c = 6
        for i in range(stages):
            inner = 6 * 2**i
            outer = 2 * inner if bottleneck else inner
            blocks = []
            for j in range(2):
                stride = 2 if i and not j else 1
                blocks.append(_ResidualBlock(c, inner, outer, stride, bottleneck))
                c = outer
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        found = {}
        for i in range(self.stages):
            found[f"layer{i + 1}"] = x = getattr(self, f"layer{i + 1}")(x)
        return [found[name] for name in self.layers]


def resnet(layers: tuple[str, ...], bottleneck: bool = False) -> ResNet:
    network = shaken(ResNet(layers, bottleneck))
    assert isinstance(network, ResNet)
    return network


class _Attention(nn.Module):
    """CBAM's two gates, with the names of its authors' modules."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.ChannelGate, self.SpatialGate = nn.Module(), nn.Module()
        self.ChannelGate.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(c, c // 16), nn.ReLU(), nn.Linear(c // 16, c)
        )
        self.SpatialGate.spatial = nn.Module()
        self.SpatialGate.spatial.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.SpatialGate.spatial.bn = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        pooled = [F.avg_pool2d(x, size), F.max_pool2d(x, size)]
        x = x * torch.sigmoid(sum(self.ChannelGate.mlp(p) for p in pooled))[:, :, None, None]
        layer = self.SpatialGate.spatial
        seen = torch.stack([x.max(1)[0], x.mean(1)], 1)
        return x * torch.sigmoid(layer.bn(layer.conv(seen)))


class _GatedBlock(_ResidualBlock):
    def __init__(self, c: int, outer: int, stride: int) -> None:
        super().__init__(c, outer, outer, stride, False)
        self.cbam = _Attention(outer)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        around = self.downsample(x) if hasattr(self, "downsample") else x
        return (self.cbam(y) + around).relu()


class EoeResNet(nn.Module):
    """eoe's network for 224 pixels, narrow."""

    def __init__(self, widths: tuple[int, ...], rep_dim: int, head: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        c = widths[0]
        for i, width in enumerate(widths, 1):
            first = _GatedBlock(c, width, 2 if i > 1 else 1)
            self.add_module(f"layer{i}", nn.Sequential(first, _GatedBlock(width, width, 1)))
            c = width
        self.fc = nn.Linear(c, rep_dim)
        if head:
            self.linear = nn.Linear(rep_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        x = self.fc(F.avg_pool2d(x, 7).flatten(1))
        return self.linear(x) if hasattr(self, "linear") else x


def eoe_resnet(head: bool = False) -> nn.Module:
    return shaken(EoeResNet((16, 16, 32, 32), 12, head))


def blur_kernel(sigma: float = 4.0) -> Tensor:
    """A Gaussian cut at 4 sigma, as a picture that sums to one."""
    r = int(4 * sigma + 0.5)
    kernel = torch.zeros(2 * r + 1, 2 * r + 1, dtype=torch.float64)
    for i in range(-r, r + 1):
        for j in range(-r, r + 1):
            kernel[i + r, j + r] = torch.exp(torch.tensor(-(i * i + j * j) / (2 * sigma**2)))
    return (kernel / kernel.sum()).float()
