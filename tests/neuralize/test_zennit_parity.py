"""zennit as a second oracle: the same relevance for every preset that both have.

zennit 0.5.1 merges BatchNorm without its eps, which moves the forward pass; the networks here have
an eps so small that both merges are exact. zennit needs canonizers for merges and residual sums.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuralize import LRP
from neuralize.composites import (
    Composite,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
)
from neuralize.torchvision_guard import import_zennit

zennit = import_zennit()
torchvision = pytest.importorskip("torchvision")
from zennit.canonizers import (  # noqa: E402
    AttributeCanonizer,
    CompositeCanonizer,
    SequentialMergeBatchNorm,
)
from zennit.torchvision import ResNetCanonizer, VGGCanonizer  # noqa: E402


class InvertedResiduals(AttributeCanonizer):
    """MobileNetV2's functional sum as a module that zennit has a rule for."""

    def __init__(self) -> None:
        super().__init__(self.attributes)

    @staticmethod
    def attributes(name: str, module: nn.Module) -> dict[str, Any] | None:
        if type(module).__name__ != "InvertedResidual":
            return None
        return {
            "forward": InvertedResiduals.forward.__get__(module),
            "canonizer_sum": zennit.layer.Sum(),
        }

    @staticmethod
    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.use_res_connect:
            return self.conv(x)
        return self.canonizer_sum(torch.stack([x, self.conv(x)], -1))


class MobileNetCanonizer(CompositeCanonizer):
    def __init__(self) -> None:
        super().__init__((SequentialMergeBatchNorm(), InvertedResiduals()))


NETWORKS: dict[str, tuple[int, type[Any]]] = {
    "resnet18": (64, ResNetCanonizer),
    "mobilenet_v2": (64, MobileNetCanonizer),
    "vgg16": (32, VGGCanonizer),
    "resnet50": (64, ResNetCanonizer),
}

LOW, HIGH = -1.5, 2.0

PRESETS: dict[str, Composite] = {
    "EpsilonPlus": epsilon_plus(),
    "EpsilonPlusFlat": epsilon_plus_flat(),
    "EpsilonAlpha2Beta1": epsilon_alpha2_beta1(),
    "EpsilonAlpha2Beta1Flat": epsilon_alpha2_beta1_flat(),
    "EpsilonGammaBox": epsilon_gamma_box(LOW, HIGH),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    if name == "vgg16":
        # as deep, with a head that a small picture needs
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier = nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10))
    if name == "mobilenet_v2":
        # its pooling is functional, where zennit passes the plain gradient
        model = nn.Sequential(
            model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.classifier
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-14
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.1)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_relevance_as_zennit(name: str, preset: str) -> None:
    size, canonizer = NETWORKS[name]
    model = network(name)
    options = {"low": LOW, "high": HIGH} if preset == "EpsilonGammaBox" else {}
    theirs = getattr(zennit.composites, preset)(canonizers=[canonizer()], **options)
    x = torch.randn(2, 3, size, size).clamp(LOW, HIGH)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        model, x = model.to(dtype), x.to(dtype)
        trace = LRP(model, PRESETS[preset]).trace(x)
        seed = torch.zeros_like(trace.output)
        seed[torch.arange(2), trace.output.argmax(1)] = 1.0
        found, _ = trace.relevance(seed)
        # zennit 1.0 leaves merged weights in a model, so it gets a copy
        with theirs.context(copy.deepcopy(model)) as ready:
            leaf = x.clone().requires_grad_()
            output = ready(leaf)
            (expected,) = torch.autograd.grad(output, leaf, seed)
        scale = float(expected.abs().max())
        output = output.detach()
        assert float((output - trace.output).abs().max()) < 1e-3 * float(output.abs().max())
        assert float((found - expected).abs().max()) < tolerance * scale
