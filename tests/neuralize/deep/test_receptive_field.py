"""Receptive fields against what gradients of random networks say, and against the recursion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize import InputError
from neuralize.deep.fully_convolutional import fully_convolutional
from neuralize.deep.receptive_field import ReceptiveField, receptive_field, receptive_fields
from xai.pretrained import CifarResNet


class Residual(nn.Module):
    """Branches of different reach, one of them strided by slicing, with functional padding."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Conv2d(2, 3, (5, 3), stride=2, padding=(2, 1))
        self.short = nn.Conv2d(2, 3, 1)
        self.last = nn.Conv2d(6, 2, 3, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.long(x), self.short(x)[..., ::2, ::2]
        x = torch.cat([a + b, F.relu(a).mean(1, keepdim=True).expand(-1, 3, -1, -1) * 2], 1)
        return self.last(F.pad(x, (3, 1, 2, 0)))


class ResNetMap(CifarResNet):
    """The shipped residual network without pooling and dense layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))


def small(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def narrow(name: str) -> nn.Sequential:
    """A named network with fewer channels."""
    plan = fully_convolutional(name, (1, 32, 32))
    return plan.model_copy(update={"channels": tuple(2 for _ in plan.channels)}).build()


NETWORKS = {
    "one-convolution": (small(nn.Conv2d(1, 2, 3)), (1, 9, 9)),
    "even-kernel": (small(nn.Conv2d(1, 2, 4, 2, 1), nn.Conv2d(2, 1, 2)), (1, 20, 20)),
    "same": (small(nn.Conv2d(1, 2, 5, padding="same"), nn.Conv2d(2, 1, 3)), (1, 16, 16)),
    "rectangles": (
        small(nn.Conv2d(1, 2, (3, 5), stride=(1, 2), padding=(0, 2)), nn.MaxPool2d((2, 1))),
        (1, 14, 23),
    ),
    "average-pool": (small(nn.Conv2d(1, 2, 3), nn.AvgPool2d(3, 2, 1), nn.ReLU()), (1, 21, 21)),
    "pool-with-padding": (small(nn.MaxPool2d(3, 2, 1), nn.Conv2d(1, 2, 3, 2, 1)), (1, 25, 25)),
    "reflecting": (small(nn.ReflectionPad2d(2), nn.Conv2d(1, 1, 5)), (1, 17, 17)),
    "residual": (Residual(), (2, 31, 33)),
    "light": (narrow("light"), (1, 28, 28)),
    "cnn32": (narrow("cnn32"), (1, 32, 32)),
    "resnet": (ResNetMap(8), (3, 32, 32)),
}  # fmt: skip


def seen(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, int, np.ndarray, tuple]:
    """A unit in the middle, and the rows and columns whose gradients on random input are not 0."""
    torch.manual_seed(0)
    found = None
    for _ in range(4):  # a maximum pool shows only its winner: several inputs show the window
        for p in network.parameters():
            nn.init.normal_(p)
        x = torch.randn(12, *shape, dtype=torch.float64, requires_grad=True)
        y = network.double().eval()(x)
        u, v = y.shape[-2] // 2, y.shape[-1] // 2
        (g,) = torch.autograd.grad(y[..., u, v].sum(), x)
        now = (g != 0).any(0).any(0).numpy()
        found = now if found is None else found | now
    assert found is not None
    return u, v, found, tuple(y.shape[-2:])


@pytest.mark.parametrize("name", NETWORKS)
def test_fields_are_where_gradients_are(name: str) -> None:
    network, shape = NETWORKS[name]
    field = receptive_field(network, shape)
    *unit, found, size = seen(network, shape)
    assert field.n == size
    for axis in (0, 1):
        pixels = np.flatnonzero(found.any(1 - axis))
        low = field.first[axis] + unit[axis] * field.j[axis]
        high = low + field.r[axis] - 1
        edge = shape[1 + axis] - 1
        assert (pixels[0], pixels[-1]) == (max(low, 0), min(high, edge))
        assert field.s[axis] + unit[axis] * field.j[axis] == (low + high) / 2
        assert low > 0 or high < edge, "the field should not cover the whole picture"


def test_the_recursion_of_the_paper() -> None:
    layers = [(5, 1, 2), (2, 2, 0), (3, 1, 1), (3, 2, 1), (4, 3, 0)]
    n, j, r, s = 40, 1, 1, 0.0
    modules: list[nn.Module] = []
    expected = []
    for k, stride, pad in layers:
        modules.append(
            nn.MaxPool2d(k, stride, pad) if k in (2, 4) else nn.Conv2d(1, 1, k, stride, pad)
        )
        n = (n + 2 * pad - k) // stride + 1
        j, r, s = j * stride, r + (k - 1) * j, s + ((k - 1) / 2 - pad) * j
        expected.append(ReceptiveField((n, n), (j, j), (r, r), (s, s)))
    found = receptive_fields(nn.Sequential(*modules), (1, 40, 40))
    assert list(found) == ["0", "1", "2", "3", "4", "output"]
    assert list(found.values()) == [*expected, expected[-1]]


def test_a_reused_layer_counts_twice_and_the_network_is_left_alone() -> None:
    conv = nn.Conv2d(1, 1, 3)
    network = nn.Sequential(conv, nn.BatchNorm2d(1), conv).train()
    found = receptive_fields(network, (1, 12, 12))
    assert [f.r for f in found.values()] == [(3, 3), (5, 5), (5, 5)]
    assert network.training and int(network[1].num_batches_tracked) == 0
    assert not conv._forward_hooks and not conv._forward_pre_hooks


@pytest.mark.parametrize(
    ("network", "shape", "what"),
    [
        (small(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1)), (1, 9, 9), "adaptive_avg_pool2d"),
        (nn.Sequential(nn.Flatten(), nn.Linear(81, 3)), (1, 9, 9), "flatten' in 0"),
        (nn.ConvTranspose2d(1, 1, 3), (1, 9, 9), "conv_transpose2d"),
        (nn.Upsample(scale_factor=2), (1, 9, 9), "interpolate"),
        (nn.Conv2d(1, 1, 3), (9,), "no receptive fields"),
    ],
)  # fmt: skip
def test_what_is_no_map_is_refused_by_name(
    network: nn.Module, shape: tuple[int, ...], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        receptive_field(network, shape)


class Misfit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 1, 1, stride=2), nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)[..., :5, :5]


def test_branches_of_different_steps_have_no_common_field() -> None:
    with pytest.raises(InputError, match="pixels apart"):
        receptive_field(Misfit(), (1, 9, 9))
