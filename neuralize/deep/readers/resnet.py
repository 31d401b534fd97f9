"""ResNets by their key names, as torchvision and timm write them: what anomalib's features are of.

He et al. (CVPR 2016), Xie et al. (CVPR 2017), Zagoruyko and Komodakis (BMVC 2016). A stem
``conv1, bn1`` of 7 x 7 with stride 2 and a pool of 3 x 3, then stages ``layer1`` to ``layer4`` of
blocks; every stage but the first halves the picture, in the 3 x 3 convolution of its first block
(the second one of a bottleneck). Strides are not in a state dict: other ones are not recognised.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from neuralize.deep.readers.assemble import Source
from neuralize.deep.readers.content import State, count, sizes
from neuralize.errors import CheckpointError


class Stage(BaseModel):
    """Blocks of one width: how many, channels inside and of the outcome, groups inside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: int
    inner: int
    outer: int
    groups: int = 1


class ResNetPlan(BaseModel):
    """What a trunk, without its dense layer, is built from; JSON in a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stem: int
    bottleneck: bool
    stages: tuple[Stage, ...]

    def build(self) -> ResNet:
        """The trunk, with fresh weights."""
        return ResNet(self)


class ResNet(nn.Module):
    """``(n, 3, h, w)`` to the maps of the last stage."""

    def __init__(self, plan: ResNetPlan) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, plan.stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.stem)
        width = plan.stem
        self.stages = len(plan.stages)
        for i, stage in enumerate(plan.stages):
            blocks = []
            for j in range(stage.blocks):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Block(width, stage, stride, plan.bottleneck))
                width = stage.outer
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Maps of pictures."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x


class Block(nn.Module):
    """Two convolutions of 3 x 3, or a bottleneck of 1 x 1, 3 x 3, 1 x 1; and what goes around."""

    def __init__(self, width: int, stage: Stage, stride: int, bottleneck: bool) -> None:
        super().__init__()
        inner, outer = stage.inner, stage.outer
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1 = nn.Conv2d(width, inner, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=stage.groups, bias=False)
            self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outer)
        else:
            self.conv1 = nn.Conv2d(width, inner, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, outer, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.bn2 = nn.BatchNorm2d(inner if bottleneck else outer)
        self.downsample: nn.Module | None = None
        if stride != 1 or width != outer:
            around = nn.Conv2d(width, outer, 1, stride, bias=False)
            self.downsample = nn.Sequential(around, nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        """Maps of maps."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def resnet_of(state: State, source: Source) -> ResNetPlan:
    """The trunk a state dict is of, by names and shapes.

    Raises
    ------
    CheckpointError
        Another network.
    """
    path = source.path
    if "conv1.weight" not in state or "layer1.0.conv1.weight" not in state:
        raise CheckpointError(
            f"{path}: expected the layers of a ResNet (conv1, layer1.0.conv1, ...), got "
            f"{', '.join(sorted(state)[:5])} and others. Pass the backbone as network=, e.g. "
            "timm.create_model(name, features_only=True)."
        )
    stem = sizes(state, "conv1.weight", 4, path)
    bottleneck = "layer1.0.conv3.weight" in state
    stages = []
    for i in range(count(state, "layer{}.0.conv1.weight")):
        name = f"layer{i + 1}"
        inner, _, *kernel = sizes(state, f"{name}.0.conv1.weight", 4, path)
        if kernel != ([1, 1] if bottleneck else [3, 3]):
            raise CheckpointError(
                f"{path}: expected {name}.0.conv1 of {'1 x 1' if bottleneck else '3 x 3'}, got "
                f"{kernel[0]} x {kernel[1]}. Pass the backbone as network=."
            )
        second = sizes(state, f"{name}.0.conv2.weight", 4, path)
        last = sizes(state, f"{name}.0.conv3.weight", 4, path) if bottleneck else second
        if inner % second[1]:
            raise CheckpointError(f"{path}: {name}.0.conv2 has {second[1]} of {inner} channels.")
        stages.append(
            Stage(
                blocks=count(state, name + ".{}.conv1.weight", 0),
                inner=inner,
                outer=last[0],
                groups=inner // second[1] if bottleneck else 1,
            )
        )
    return ResNetPlan(stem=stem[0], bottleneck=bottleneck, stages=tuple(stages))
