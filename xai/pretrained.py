"""A small pretrained encoder that ships with the package, for examples on real images."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
"""Classes of the logits."""


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut without parameters (option A of He et al.)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride, self.pad = stride, (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps ``(n, c_out, h / stride, w / stride)``."""
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(h + F.pad(shortcut, (0, 0, 0, 0, self.pad, self.pad)))


class CifarResNet(nn.Module):
    """The residual network of He et al. (arXiv 1512.03385) for images of 32 x 32 pixels.

    Attributes
    ----------
    head
        ``"features"``: 64 numbers per image. ``"logits"``: one per class of CIFAR-10.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, depth: int = 20, head: str = "features") -> None:
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, n)
        self.layer2 = _stage(16, 32, 2, n)
        self.layer3 = _stage(32, 64, 2, n)
        self.linear = nn.Linear(64, 10)
        self.head = head
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(n, 64)`` or logits ``(n, 10)`` of images ``(n, 3, 32, 32)`` in 0 to 1."""
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        x = self.layer3(self.layer2(self.layer1(x))).mean((2, 3))
        return x if self.head == "features" else self.linear(x)


def _stage(c_in: int, c_out: int, stride: int, n: int) -> nn.Sequential:
    first = ResidualBlock(c_in, c_out, stride)
    return nn.Sequential(first, *[ResidualBlock(c_out, c_out, 1) for _ in range(n - 1)])


def cifar_resnet20(head: str = "features") -> CifarResNet:
    """A ResNet-20 trained on CIFAR-10, in evaluation mode.

    Weights by Yerlan Idelbayev (pytorch_resnet_cifar10, 2018), BSD licence of two clauses, whose
    text lies beside them in the package.

    Parameters
    ----------
    head
        ``"features"`` for the 64 numbers after pooling, ``"logits"`` for the ten classes.

    Examples
    --------
    >>> encoder = cifar_resnet20()
    >>> encoder(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 64])
    """
    if head not in ("features", "logits"):
        raise ValueError(f"Expected head 'features' or 'logits', got {head!r}.")
    model = CifarResNet(20, head)
    with (
        as_file(files("xai") / "data" / "cifar_resnet20.npz") as path,
        np.load(path, allow_pickle=False) as arrays,
    ):
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    model.load_state_dict(state)
    return model.eval()
