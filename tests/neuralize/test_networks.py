"""Whole networks, unchanged: forward equal, nothing lost, rows apart, relevance by another way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.errors import NoRuleError
from neuralize.lrp import LRP
from neuralize.torchvision_guard import import_zennit
from tests.neuralize.gradient_form import by_gradient_form
from tests.neuralize.gradient_oracle import EXACT, random

import_zennit()  # makes torchvision importable beside builds of torch that it was not made for

from torchvision import models  # noqa: E402
from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # noqa: E402
from torchvision.models.regnet import BlockParams, RegNet  # noqa: E402
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402
from torchvision.models.swin_transformer import (  # noqa: E402
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)


class Block(nn.Module):
    """Two convolutions of a U-Net."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(2, after), nn.SiLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Block(3, 4), Block(4, 8)])
        self.bottom = Block(8, 16)
        self.raised = nn.ModuleList(
            [nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)]
        )
        self.up = nn.ModuleList([Block(16, 8), Block(8, 4)])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for raised, block in zip(self.raised, self.up, strict=True):
            x = block(torch.cat([kept.pop(), raised(x)], 1))
        return self.head(x)  # type: ignore[no-any-return]


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ELU(), nn.Flatten(),
        nn.Linear(96, 5), nn.Linear(5, 96), nn.Unflatten(1, (6, 4, 4)),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.ConvTranspose2d(6, 4, 3, 2, 1, 1),
        nn.Mish(), nn.Conv2d(4, 3, 3, padding=1),
    )  # fmt: skip


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` over patches, with a class token and positions."""

    def __init__(self, batch_first: bool = True, norm_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            12, 2, 24, activation="gelu", batch_first=batch_first, norm_first=norm_first
        )
        self.batch_first = batch_first
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.positions = nn.Parameter(torch.zeros(1, 17, 12))
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(12), enable_nested_tensor=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        if self.batch_first:
            return self.head(self.layers(x)[:, 0])  # type: ignore[no-any-return]
        return self.head(self.layers(x.transpose(0, 1))[0])  # type: ignore[no-any-return]


def squeeze_and_excite() -> nn.Module:
    return models.efficientnet.EfficientNet(
        [models.efficientnet.MBConvConfig(4, 3, 1, 8, 8, 2),
         models.efficientnet.FusedMBConvConfig(2, 3, 2, 8, 16, 1)],
        dropout=0.2, num_classes=4, last_channel=16,
    )  # fmt: skip


def regnet() -> nn.Module:
    params = BlockParams.from_init_params(
        depth=4, w_0=16, w_a=16, w_m=2, group_width=8, se_ratio=0.25
    )
    return RegNet(params, num_classes=4, stem_width=8)


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)], num_classes=4)


def swin(**options: Any) -> nn.Module:
    return SwinTransformer(
        [2, 2], 8, [2, 2], [2, 4], [4, 4], num_classes=4, stochastic_depth_prob=0.2, **options
    )


def maxvit(size: int) -> nn.Module:
    return models.MaxVit(
        (size, size), 8, 2, [8, 16], [1, 1], head_dim=4, stochastic_depth_prob=0.2, num_classes=4
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (partial(ResNet, BasicBlock, [1, 1, 1, 1], num_classes=4), 32),
    "resnext": (
        partial(ResNet, Bottleneck, [1, 1, 1, 1], num_classes=4, groups=4, width_per_group=4), 32),
    "densenet": (partial(models.DenseNet, 4, (2, 2), 8, num_classes=4), 32),
    "mobilenet_v2": (partial(models.mobilenet_v2, width_mult=0.1, num_classes=4), 32),
    "mobilenet_v3": (partial(models.mobilenet_v3_small, width_mult=0.25, num_classes=4), 32),
    "shufflenet": (
        partial(models.ShuffleNetV2, [1, 1, 1], [8, 8, 16, 16, 32], num_classes=4), 32),
    "squeezenet": (partial(models.squeezenet1_1, num_classes=4), 48),
    "mnasnet": (partial(models.MNASNet, 0.1, num_classes=4), 32),
    "efficientnet": (squeeze_and_excite, 32),
    "regnet": (regnet, 32),
    "convnext": (convnext, 32),
    "vit": (partial(models.VisionTransformer, 16, 4, 2, 2, 12, 24, num_classes=4), 16),
    "swin": (swin, 32),
    "swin v2": (
        partial(swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2), 32),
    "maxvit": (partial(maxvit, 32), 32),
    "u-net": (UNet, 16),
    "autoencoder": (autoencoder, 16),
    "encoder": (Encoder, 16),
    "encoder, batch second, norm last": (partial(Encoder, False, False), 16),
}  # fmt: skip

LARGE = {
    "alexnet": 64, "vgg11_bn": 32, "googlenet": 64, "inception_v3": 96, "efficientnet_v2_s": 64,
    "convnext_tiny": 64, "swin_v2_t": 64, "vit_b_32": 64, "wide_resnet50_2": 64,
    "regnet_y_400mf": 64,
}  # fmt: skip


def prepared(model: nn.Module) -> nn.Module:
    """Random statistics, and nothing left at the zeros or ones that initialisation gave it."""
    torch.manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
            elif bool((parameter == parameter.flatten()[0]).all()):
                parameter.uniform_(0.5, 1.5)
    return model.double().eval()


def explained(
    model: nn.Module, x: Tensor, **given: Any
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Check the forward pass, the sums, the rows and the model's state; hand on what came out."""
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        own = model(x, **given)
    own = getattr(own, "logits", own)
    trace = LRP(model, EXACT).trace(x, **given)
    torch.testing.assert_close(trace.output, own, rtol=1e-12, atol=1e-12)
    weights = random(5, *own.shape)
    seed = weights * trace.output
    values, absorbed = trace.relevance(seed)
    evidence = seed.flatten(1).sum(1)
    total = values.flatten(1).sum(1) + sum(absorbed.values())
    scale = float(values.flatten(1).abs().sum(1).max())
    torch.testing.assert_close(total, evidence, rtol=1e-8, atol=1e-8 * scale)
    for i in range(len(x)):
        one = {k: v[i : i + 1] if isinstance(v, Tensor) else v for k, v in given.items()}
        alone = LRP(model, EXACT).trace(x[i : i + 1], **one)
        row, shares = alone.relevance(weights[i : i + 1] * alone.output)
        torch.testing.assert_close(row[0], values[i], rtol=1e-6, atol=1e-8 * scale)
        assert set(shares) == set(absorbed)
        for name, share in shares.items():
            torch.testing.assert_close(share[0], absorbed[name][i], rtol=1e-6, atol=1e-8 * scale)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    return trace.output, weights, {"": values, **absorbed}


def agrees_with_gradient_form(model: nn.Module, x: Tensor) -> None:
    output, weights, found = explained(model, x)
    own, expected = by_gradient_form(model, x, weights)
    torch.testing.assert_close(output, own, rtol=1e-9, atol=1e-9)
    scale = float(expected.abs().max())
    assert scale > 0
    torch.testing.assert_close(found[""], expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_that_of_the_gradient_form(name: str) -> None:
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    agrees_with_gradient_form(prepared(build()), random(1, 3, 3, size, size))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_relevance_of_large_networks_is_that_of_the_gradient_form(name: str) -> None:
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit"):
        options["image_size"] = LARGE[name]
    torch.manual_seed(0)
    model = prepared(models.get_model(name, **options))
    agrees_with_gradient_form(model, random(1, 2, 3, LARGE[name], LARGE[name]))


def test_constants_beside_tokens_absorb_their_share_by_path() -> None:
    _, _, found = explained(prepared(Encoder()), random(1, 3, 3, 16, 16))
    assert {"token", "positions", "bias"} <= set(found)
    assert all(float(found[name].abs().min()) > 0 for name in ("token", "positions"))


def test_a_recurrent_network_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.GRU(6, 5)).double()
    with pytest.raises(NoRuleError, match=r"'gru' in '1' \(GRU\)"):
        LRP(model, "epsilon").trace(random(1, 3, 2, 4), select=lambda out: out[0])


# -- other libraries -------------------------------------------------------------------------------


def hugging_face(name: str, **sizes: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, **sizes
    )
    head = "Model" if "vocab_size" in sizes else "ForImageClassification"
    return prepared(getattr(transformers, name + head)(config))


@pytest.mark.parametrize("name", ["ViT", "Dinov2", "Dinov2WithRegisters"])
def test_hugging_face_vision(name: str) -> None:
    model = hugging_face(name, image_size=16, patch_size=4, num_labels=4)
    _, _, found = explained(model, random(1, 3, 3, 16, 16))
    assert any(n.endswith("cls_token") for n in found)
    assert any(n.endswith("position_embeddings") for n in found)


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert"])
def test_text_encoders_give_relevance_to_tokens(name: str) -> None:
    sizes: dict[str, Any] = {"vocab_size": 30, "max_position_embeddings": 20}
    if name == "DistilBert":
        sizes |= {"dim": 12, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
    model = hugging_face(name, **sizes)
    pooled = Pooled(model)
    tokens = torch.randint(3, 30, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, 5:] = 0
    _, _, found = explained(pooled, tokens, attention_mask=mask)
    assert found[""].shape == tokens.shape
    assert not found[""][0, 5:].any()


class Pooled(nn.Module):
    """The first token's vector of a text encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out = self.encoder(tokens, attention_mask=attention_mask)
        return out.last_hidden_state[:, 0]  # type: ignore[no-any-return]


class Tower(nn.Module):
    """One of the two encoders of a CLIP model."""

    def __init__(self, model: Any, text: bool) -> None:
        super().__init__()
        self.model, self.text = model, text

    def forward(self, x: Tensor) -> Tensor:
        encode = self.model.encode_text if self.text else self.model.encode_image
        return encode(x, normalize=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("text", [False, True])
def test_both_towers_of_clip(text: bool) -> None:
    open_clip = pytest.importorskip("open_clip")
    model = open_clip.model.CLIP(
        embed_dim=8,
        vision_cfg={"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4},
        text_cfg={"context_length": 9, "vocab_size": 30, "width": 16, "heads": 2, "layers": 2},
    )
    torch.manual_seed(0)
    tower = Tower(prepared(model), text)
    tokens = torch.randint(1, 29, (3, 9), generator=torch.Generator().manual_seed(0))
    tokens[:, -1] = 29
    x = tokens if text else random(1, 3, 3, 16, 16)
    _, _, found = explained(tower, x)
    assert found[""].shape == x.shape


TIMM = [
    "test_vit",
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_nfnet",
    "test_resnet",
]


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"img_size": 64} if name == "test_vit" else {}
    agrees_with_gradient_form(prepared(timm.create_model(name, **options)), random(1, 2, 3, 64, 64))


@pytest.mark.parametrize("name", NETWORKS)
def test_many_targets_at_once_are_the_targets_one_by_one(name: str) -> None:
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    x = random(1, 2, 3, size, size)
    trace = LRP(prepared(build()), "epsilon_plus").trace(x, keep=True)
    seeds = random(2, 3, *trace.output.shape) * trace.output
    values, absorbed = trace.batched(seeds)
    for k, seed in enumerate(seeds):
        one, shares = trace.relevance(seed)
        scale = float(one.abs().max())
        torch.testing.assert_close(values[k], one, rtol=1e-9, atol=1e-9 * scale)
        for share_name, share in shares.items():
            size_of_share = float(share.abs().max()) + scale
            torch.testing.assert_close(
                absorbed[share_name][k], share, rtol=1e-9, atol=1e-9 * size_of_share
            )
