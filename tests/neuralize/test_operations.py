"""Each operation's relevance and absorbed shares against dense Jacobians in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from neuralize.composites import epsilon
from neuralize.engine import registry
from neuralize.engine.operations.attention import Attention
from neuralize.errors import NoRuleError
from neuralize.lrp import LRP
from neuralize.rules.named import CPLRP
from tests.neuralize.gradient_oracle import (
    EXACT,
    Case,
    Written,
    by_engine,
    by_jacobian,
    half,
    held,
    mixing,
    passed,
    random,
)

ROW = {"c": (6,)}
IMAGE = (3, 4, 5, 6)


def written_into(x: Tensor, c: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = c[0]
    y[:, 1:3] *= 2
    y[1] = y[1] - 1.5 * y[1]
    return y


def zeros_filled(x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), 9)
    out[:, 1:7].copy_(x)
    out[:, 7] += x[:, 0]
    out[:, 8] = x[:, 1]
    return out


def zeros_filled_oracle(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :1]), x, x[:, :2]], 1)


def stale_view(x: Tensor) -> Tensor:
    y = x + x.flip(1)
    left = y[:, :3]
    y.mul_(3)
    return left + y[:, 3:]


def through_view(x: Tensor) -> Tensor:
    y = x + x.flip(1)
    y[:, 2:4].view(len(x), 2).mul_(5)
    y.view(-1, 2, 3)[:, :, 1].mul_(-2)
    return y


def relu_in_place(x: Tensor) -> Tensor:
    y = 2 * x
    F.relu(y[:, :3], inplace=True)
    return y


def relu_oracle(x: Tensor) -> Tensor:
    y = 2 * x
    return torch.cat([y[:, :3] * (y[:, :3] > 0), y[:, 3:]], 1)


def out_argument(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    with torch.no_grad():
        torch.add(x, x.flip(1), out=out)
    return out


def layer_norm_by_hand(x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, -1, False, True)
    return (x - mean) / (var + 1e-5).sqrt()


def layer_norm_oracle(x: Tensor) -> Tensor:
    sd = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return (x - x.mean(-1, keepdim=True)) / held(sd)


def group_norm_oracle(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    g = x.reshape(3, 2, -1)
    sd = (g.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    y = ((g - g.mean(-1, keepdim=True)) / held(sd)).reshape(x.shape)
    return y * w[:, None, None] + b[:, None, None]


def gate_of_channels(x: Tensor, c: Tensor) -> Tensor:
    return x * torch.sigmoid(F.conv2d(x.mean((2, 3), keepdim=True), c))


def attention_by_hand(x: Tensor) -> Tensor:
    q, k, v = x.unflatten(-1, (3, 1, 2)).permute(2, 0, 3, 1, 4)
    return ((q * 2**-0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


def attention_oracle(x: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = x.unflatten(-1, (3, 1, 2)).permute(2, 0, 3, 1, 4)
    scores = half(q @ k.transpose(-1, -2)) * 2**-0.5
    return half((scores if mask is None else scores + mask).softmax(-1) @ v)


def attention_sdpa(x: Tensor, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(
        *x.unflatten(-1, (3, 1, 2)).permute(2, 0, 3, 1, 4), **options
    )


def half_hidden(scores: Tensor, x: Tensor) -> Tensor:
    return scores.softmax(-1)[:, None] @ x[..., None]


HIDING = torch.tensor([0.5, -math.inf, 0, 0, 0, 1], dtype=torch.float64)
CAUSAL = torch.full((4, 4), -math.inf, dtype=torch.float64).triu(1)


def unpooled(x: Tensor) -> Tensor:
    y, at = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(y, at, 2)


def lerp_oracle(x: Tensor, c: Tensor) -> Tensor:
    return x * 0.75 + 0.25 * c


def detached_inside(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return y.detach() + x.data


CASES: dict[str, Case] = {
    # sums
    "parameter": Case(lambda x, c: x + c, constants=ROW),
    "number": Case(lambda x: x + 0.5, lambda x, k: x + k, also={"k": 0.5}),
    "radd": Case(lambda x: 0.5 + x, lambda x, k: x + k, also={"k": 0.5}),
    "alpha": Case(lambda x, c: torch.add(x, c, alpha=2), constants=ROW),
    "sub": Case(lambda x, c: torch.sub(x, c, alpha=3), constants=ROW),
    "rsub": Case(lambda x: 2 - x, lambda x, k: k - x, also={"k": 2.0}),
    "torch.rsub": Case(lambda x, c: torch.rsub(x, c, alpha=2), constants=ROW),
    "parameter minus": Case(lambda x, c: c - x, constants=ROW),
    "broadcast": Case(lambda x, c: x[:, None] + c, constants={"c": (4, 6)}),
    "signals": Case(lambda x: x[:, :, None] - x[:, None] * 3 + x[:, :1, None]),
    "add in place": Case(lambda x, c: (2 * x).add_(c), constants=ROW),
    "two constants": Case(lambda x, c, d: x + c - d, constants={"c": (6,), "d": (1,)}),
    "cumsum": Case(lambda x: x.cumsum(1)),
    "mean": Case(lambda x: x.mean(1, True) + x.sum(dim=1, keepdim=True)),
    # products
    "signals times": Case(lambda x: x * x.flip(1), lambda x: half(x * x.flip(1))),
    "square": Case(lambda x: x * x, lambda x: x * held(x)),
    "pow": Case(lambda x: x**2, lambda x: x * held(x)),
    "mul in place": Case(lambda x, c: (2 * x).mul_(c), factors=ROW),
    "gate": Case(lambda x: x * x.flip(1).sigmoid(), lambda x: x * held(x.flip(1).sigmoid())),
    "gate in place": Case(
        lambda x: (2 * x).mul_(x.flip(1).sigmoid()), lambda x: 2 * x * held(x.flip(1).sigmoid())
    ),
    "one plus tanh": Case(
        lambda x: x * (1 + x.flip(1).tanh()), lambda x: x * held(1 + x.flip(1).tanh())
    ),
    "division": Case(lambda x: x / (x.flip(1).abs() + 1), lambda x: x / held(x.flip(1).abs() + 1)),
    "glu": Case(
        lambda x: F.glu(x, 1), lambda x: x[:, :3] * held(x[:, 3:].sigmoid())
    ),
    "addcmul": Case(
        lambda x, c: torch.addcmul(c, x, x.flip(1), value=2),
        lambda x, c: c + 2 * half(x * x.flip(1)), constants=ROW,
    ),
    "addcdiv": Case(
        lambda x, c: torch.addcdiv(c, x, x.flip(1), value=2),
        lambda x, c: c + 2 * x / held(x.flip(1)), constants=ROW,
    ),
    "lerp": Case(lambda x, c: torch.lerp(x, c, 0.25), lerp_oracle, constants=ROW),
    "einsum": Case(
        lambda x: torch.einsum("ni,nj->nij", x, x.flip(1)).sum(2),
        lambda x: half(torch.einsum("ni,nj->nij", x, x.flip(1))).sum(2),
    ),
    "einsum, batch last": Case(
        lambda x: torch.einsum("in,jn->ijn", x.T, x.T).permute(2, 0, 1),
        lambda x: half(torch.einsum("ni,nj->nij", x, x)),
    ),
    "einsum, parameter": Case(lambda x, c: torch.einsum("ni,ij->nj", x, c), factors={"c": (6, 4)}),
    "constant first": Case(lambda x, c: c @ x.unsqueeze(-1), factors={"c": (4, 6)}),
    "bilinear": Case(
        lambda x, c, d: F.bilinear(x, x.flip(1), c, d),
        lambda x, c, d: half(F.bilinear(x, x.flip(1), c)) + d,
        factors={"c": (4, 6, 6)}, constants={"d": (4,)},
    ),
    "addmm": Case(
        lambda x, c, d: torch.addmm(d, x, c), factors={"c": (6, 4)}, constants={"d": (4,)}
    ),
    "baddbmm": Case(
        lambda x, c: torch.baddbmm(c, x[:, :, None], x[:, None], beta=2, alpha=3),
        lambda x, c: 2 * c + 3 * half(x[:, :, None] * x[:, None]), constants={"c": (6, 6)},
    ),
    # joins
    "cat": Case(
        lambda x, c: torch.cat([c.expand(3, 2), x], 1), constants={"c": (2,)}
    ),
    "stack": Case(lambda x, c: torch.stack([c.expand(3, 6), x], 2), constants=ROW),
    "where": Case(lambda x, c: torch.where(x > 0, x, c), constants=ROW),
    "where number": Case(
        lambda x: torch.where(x > 0, x, 0.3), lambda x, k: torch.where(x > 0, x, k), also={"k": 0.3}
    ),
    "maximum": Case(lambda x, c: torch.maximum(x, c), constants=ROW),
    "class token and positions": Case(
        lambda x, c, d: torch.cat([c.expand(len(x), -1, -1), x], 1) + d,
        shape=(3, 4, 6), constants={"c": (1, 1, 6), "d": (1, 5, 6)},
    ),
    "masked fill": Case(
        lambda x: x.masked_fill(x > 0, 0.7),
        lambda x, k: torch.where(x > 0, k, x), also={"k": 0.7},
    ),
    "pad": Case(
        lambda x: F.pad(x, (1, 2), value=0.7),
        lambda x, k: torch.cat([k.expand(3, 1), x, k.expand(3, 2)], 1), also={"k": 0.7},
    ),
    "pad with zeros": Case(lambda x: F.pad(x, (1, 2))),
    "additive mask": Case(
        lambda x: half_hidden(x + HIDING, x),
        lambda x, k: half(half_hidden((x + k).masked_fill(HIDING.isinf(), -math.inf), x)),
        also={"k": HIDING.masked_fill(HIDING.isinf(), 0)},
    ),
    # in place
    "setitem": Case(
        written_into,
        lambda x, c: torch.cat([c[:1].expand(3, 1), 2 * x[:, 1:3], x[:, 3:]], 1)
        * torch.tensor([[1.0], [-0.5], [1.0]]).double(),
        constants=ROW,
    ),
    "into zeros": Case(zeros_filled, zeros_filled_oracle),
    "stale view": Case(stale_view, lambda x: 3 * (x + x.flip(1)).unflatten(1, (2, 3)).sum(1)),
    "through a view": Case(
        through_view,
        lambda x: (x + x.flip(1)) * torch.tensor([1, -2, 5, 5, -2, 1]).double(),
    ),
    "relu on a view": Case(relu_in_place, relu_oracle),
    "out": Case(out_argument, lambda x: x + x.flip(1)),
    "no_grad and detach": Case(detached_inside, lambda x: 2 * x + x),
    # activations
    "relu": Case(F.relu, lambda x: x * (x > 0)),
    "gelu": Case(F.gelu, lambda x: passed(x, F.gelu(x))),
    "silu in place": Case(lambda x: F.silu(2 * x, True), lambda x: passed(x, F.silu(2 * x))),
    "gelu by hand": Case(
        lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), lambda x: passed(x, F.gelu(x))
    ),
    "softmax": Case(lambda x: x.softmax(1)),
    "softmin": Case(lambda x: F.softmin(x, 1)),
    "softmax, implicit dim": Case(
        lambda x: torch.softmax(x, 1) + F.softmax(x, dim=-1), lambda x: 2 * x.softmax(1)
    ),
    "logsumexp": Case(
        lambda x: torch.logsumexp(x, 1, True),
        lambda x: passed(x, x.softmax(1) * torch.logsumexp(x, 1, True)).sum(1, True),
    ),
    # normalisations
    "layer_norm": Case(
        lambda x, w, b: F.layer_norm(x, (6,), w, b),
        lambda x, w, b: layer_norm_oracle(x) * w + b, factors={"w": (6,)}, constants={"b": (6,)},
    ),
    "layer_norm by hand": Case(layer_norm_by_hand, layer_norm_oracle),
    "group_norm": Case(
        lambda x, w, b: F.group_norm(x, 2, w, b),
        group_norm_oracle, IMAGE, factors={"w": (4,)}, constants={"b": (4,)},
    ),
    "rms_norm": Case(
        lambda x, c: F.rms_norm(x, (6,), c),
        lambda x, c: passed(x, F.rms_norm(x, (6,), c)), factors=ROW,
    ),
    "rms_norm by hand": Case(
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: x * held(torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    ),
    "normalize": Case(F.normalize, lambda x: x / held(x.norm(dim=1, keepdim=True))),
    "cosine": Case(
        lambda x, c: F.cosine_similarity(x, c),
        lambda x, c: (x @ c) / held(x.norm(dim=1) * c.norm()),
        factors=ROW,
    ),
    # pools and views
    "avg_pool": Case(lambda x: F.avg_pool2d(x, 3, 2, 1), shape=IMAGE),
    "adaptive_avg_pool": Case(lambda x: F.adaptive_avg_pool2d(x, (2, 3)), shape=IMAGE),
    "max_pool": Case(lambda x: F.max_pool2d(x, 3, 2, 1), shape=IMAGE),
    "max_unpool": Case(unpooled, shape=(3, 4, 6, 6)),
    "interpolate": Case(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
        shape=IMAGE,
    ),
    "grid_sample": Case(
        lambda x: F.grid_sample(x, random(3, 3, 2, 2, 2).tanh(), align_corners=False), shape=IMAGE
    ),
    "unfold": Case(lambda x: F.unfold(x, 3, padding=1), shape=IMAGE),
    "fold": Case(lambda x: F.fold(F.unfold(x, 3, padding=1), (5, 6), 3, padding=1), shape=IMAGE),
    "Tensor.unfold": Case(lambda x: x.unfold(1, 3, 2)),
    "as_strided": Case(lambda x: x.contiguous().as_strided((3, 2, 3), (6, 3, 1))),
    "pixel_shuffle": Case(lambda x: F.pixel_shuffle(x, 2), shape=IMAGE),
    "windows and back": Case(
        lambda x, c: (x.reshape(3, 2, 2, 6).permute(1, 0, 2, 3).reshape(6, 2, 6) + c)
        .reshape(2, 3, 2, 6).transpose(0, 1),
        shape=(3, 4, 6), constants={"c": (6,)},
    ),
    "topk": Case(lambda x: x.topk(3, 1).values),
    "sort": Case(lambda x: torch.sort(x, dim=1, descending=True)[0]),
    "amax": Case(lambda x: x.amax(1, keepdim=True) + x.max(1).values[:, None]),
    "gather": Case(lambda x: x.gather(1, x.argsort(1))),
    # attention
    "attention by hand": Case(attention_by_hand, attention_oracle, (3, 4, 6)),
    "attention": Case(attention_sdpa, attention_oracle, (3, 4, 6)),
    "causal attention": Case(
        lambda x: attention_sdpa(x, is_causal=True),
        lambda x: attention_oracle(x, CAUSAL), (3, 4, 6),
    ),
    "boolean mask": Case(
        lambda x: attention_sdpa(x, attn_mask=CAUSAL == 0), lambda x: attention_oracle(x, CAUSAL),
        (3, 4, 6),
    ),
    "gate of channels": Case(
        gate_of_channels,
        lambda x, c: x * held(torch.sigmoid(F.conv2d(x.mean((2, 3), keepdim=True), c))),
        IMAGE, factors={"c": (4, 4, 1, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_relevance_and_absorbed_shares_are_those_of_the_jacobian(name: str) -> None:
    case = CASES[name]
    constants = {k: random(7 + i, *shape) for i, (k, shape) in enumerate(case.constants.items())}
    factors = {k: random(17 + i, *shape) for i, (k, shape) in enumerate(case.factors.items())}
    model = Written(case.model, {**constants, **factors}, case.shape[-1])
    x = random(1, *case.shape)
    with torch.no_grad():
        own = model(x)
    weights = random(2, *own.shape)
    output, values, absorbed = by_engine(model, x, weights)
    torch.testing.assert_close(output, own, rtol=1e-14, atol=1e-14)

    also = {k: torch.as_tensor(v, dtype=x.dtype) for k, v in case.also.items()}
    oracle = case.oracle or case.model
    expected, shares = by_jacobian(
        lambda x, **given: oracle(F.linear(x, mixing(case.shape[-1])), **factors, **given),
        x, weights, constants | also,
    )  # fmt: skip
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-7)
    for share_name, share in shares.items():
        found = absorbed.pop("constants" if share_name in also else f"values.{share_name}", None)
        # layers keep their own bias under "bias"
        found = absorbed.pop("bias") if found is None else found
        torch.testing.assert_close(found, share, rtol=1e-6, atol=1e-7)
    given = (weights * own).reshape(len(x), -1).sum(1)
    rest = given - values.flatten(1).sum(1) - sum(shares.values())
    torch.testing.assert_close(sum(absorbed.values(), torch.zeros(3)), rest, rtol=1e-6, atol=1e-7)


# -- layers ----------------------------------------------------------------------------------------


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if "var" in name else buffer.normal_()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double().eval()


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (3, 5, 6)),
    "conv1d same": (nn.Conv1d(4, 6, 4, padding="same", groups=2, dilation=2), (3, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (3, 4, 6, 5)),
    "conv2d reflect": (nn.Conv2d(4, 6, 3, 1, 1, padding_mode="reflect"), (3, 4, 6, 5)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 3)),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2), (3, 4, 5)),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 2, 3, 2), (3, 4, 3, 4)),
    "conv_transpose3d": (nn.ConvTranspose3d(2, 3, 2), (2, 2, 3, 2, 3)),
    "conv, batch norm": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), (3, 4, 6, 5)),
    "transposed, batch norm": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (3, 4, 3, 4)),
    "linear, batch norm": (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), (3, 6)),
    "batch norm alone": (nn.BatchNorm2d(4), (3, 4, 6, 5)),
    "instance norm, own statistics": (nn.InstanceNorm2d(4, track_running_stats=True), (3, 4, 5, 6)),
    "weight norm": (parametrizations.weight_norm(nn.Linear(6, 4)), (3, 6)),
    "spectral norm": (parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)), (3, 4, 6, 5)),
    "used twice": (nn.Sequential(*[nn.Linear(6, 6)] * 2), (3, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_affine_layers_are_input_times_gradient(name: str) -> None:
    layer, shape = LAYERS[name]
    layer = randomised(layer)
    x = random(3, *shape)
    own = layer(x).detach()
    weights = random(4, *own.shape)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    output, values, absorbed = by_engine(layer, x, weights)
    torch.testing.assert_close(output, own, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(
        values, by_jacobian(lambda x: layer(x), x, weights, {})[0], rtol=1e-9, atol=1e-9
    )
    # what is left of every row is the bias's share: the output for no input
    bias = (weights * layer(torch.zeros_like(x))).reshape(len(x), -1).sum(1).detach()
    assert set(absorbed) <= {"bias", "stabilizer"}
    torch.testing.assert_close(absorbed["bias"], bias, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("func", [F.batch_norm, torch.batch_norm])
def test_batch_norm_by_position_and_name(func: Any) -> None:
    mean, var, weight, bias = random(1, 4), random(2, 4).abs() + 1, random(3, 4), random(4, 4)

    def forward(x: Tensor) -> Tensor:
        z = x.relu()
        if func is F.batch_norm:
            return F.batch_norm(z, mean, var, weight, bias, False, 0.9, 0.3)
        return torch.batch_norm(z, weight, bias, mean, var, False, 0.9, 0.3, False)

    x = random(5, 3, 4)
    weights = random(6, 3, 4)
    _, values, absorbed = by_engine(Function(forward), x, weights)
    a = weight / (var + 0.3).sqrt()
    torch.testing.assert_close(values, weights * a * x.relu(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(absorbed["bias"], (weights * (bias - a * mean)).sum(1))


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


# -- attention -------------------------------------------------------------------------------------


def projections(layer: nn.MultiheadAttention, x: Tensor) -> list[Tensor]:
    assert layer.in_proj_weight is not None
    z = F.linear(x, layer.in_proj_weight, layer.in_proj_bias)
    return [t.unflatten(-1, (2, 3)).transpose(1, 2) for t in z.chunk(3, -1)]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("rule", ["AttnLRP", "CPLRP"])
def test_multihead_attention(
    batch_first: bool, need_weights: bool, padding: bool, rule: str
) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(6, 2, batch_first=batch_first).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    if padding:
        mask[0, 3:] = mask[2, 1] = True

    def forward(x: Tensor) -> Tensor:
        y = x if batch_first else x.transpose(0, 1)
        out, _ = layer(
            y, y, y, need_weights=need_weights, key_padding_mask=mask if padding else None
        )
        return out if batch_first else out.transpose(0, 1)

    def oracle(x: Tensor) -> Tensor:
        q, k, v = projections(layer, x)
        scores = half(q @ k.transpose(-1, -2)) / math.sqrt(3)
        a = scores.masked_fill(mask[:, None, None], -math.inf).softmax(-1)
        out = half(a @ v) if rule == "AttnLRP" else held(a) @ v
        return F.linear(out.transpose(1, 2).flatten(2), layer.out_proj.weight, layer.out_proj.bias)

    rules = [(Attention, CPLRP())] if rule == "CPLRP" else []
    composite = EXACT.with_rules(layer_map=rules)
    model = Function(forward)
    model.add_module("layer", layer)
    x = random(1, 3, 5, 6)
    weights = random(2, 3, 5, 6)
    output, values, absorbed = by_engine(model, x, weights, composite)
    torch.testing.assert_close(output, forward(x).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(values, by_jacobian(oracle, x, weights, {})[0], rtol=1e-6, atol=1e-7)
    total = values.flatten(1).sum(1) + sum(absorbed.values())
    torch.testing.assert_close(total, (weights * output).flatten(1).sum(1), rtol=1e-9, atol=1e-9)


def test_attention_weights_that_are_used_carry_relevance() -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(6, 2, batch_first=True).double().eval()
    model = Function(lambda x: layer(x, x, x)[1].sum(1))
    x = random(1, 3, 5, 6)
    output, values, absorbed = by_engine(model, x, torch.ones(3, 5).double())
    torch.testing.assert_close(output, layer(x, x, x)[1].sum(1).detach())
    total = values.flatten(1).sum(1) + sum(absorbed.values())
    torch.testing.assert_close(total, output.sum(1), rtol=1e-9, atol=1e-9)


# -- refusals --------------------------------------------------------------------------------------


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown operation": (lambda x: torch.cumprod(x, 1), "cumprod"),
    "through an operator": (lambda x: x @ x.T, "mixes the rows"),
    "custom Function": (lambda x: Square.apply(x) + 1, "autograd.Function"),  # type: ignore[no-untyped-call]
    "custom Function last": (lambda x: Square.apply(x), "autograd.Function"),  # type: ignore[no-untyped-call]
    "sum over the batch": (lambda x: x - x.mean(0), "batch_size=1"),
    "softmax over the batch": (lambda x: x.softmax(0), "batch_size=1"),
    "sort over the batch": (lambda x: x.sort(0).values, "batch_size=1"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "eval"),
    "numpy": (lambda x: torch.from_numpy(x.detach().numpy()) + x, "numpy"),
    "weights of the whole batch": (
        lambda x: F.conv1d(x.reshape(1, 18, 1), x.reshape(18, 1, 1), groups=18),
        "batch_size=1",
    ),
    "dropout in attention": (
        lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.5),
        "dropout_p",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    function, message = REFUSED[name]
    model = nn.Sequential(nn.Linear(6, 6), Function(function)).double()
    with pytest.raises(NoRuleError, match=message):
        LRP(model, "epsilon").trace(random(1, 3, 6))


def test_an_unknown_operation_is_named_with_its_path_and_both_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_BY_FUNCTION", dict(registry._BY_FUNCTION))  # for this test
    model = nn.Sequential(nn.Linear(6, 6), Function(torch.sinc))
    model = model.double()
    x = random(1, 3, 6)
    with pytest.raises(NoRuleError, match=r"'sinc' in '1' \(Function\)") as refusal:
        LRP(model, "epsilon").trace(x)
    assert "register_operation" in str(refusal.value)
    assert 'unmapped="gradient"' in str(refusal.value)

    # the first way out: the plain gradient
    trace = LRP(model, EXACT.with_rules(unmapped="gradient")).trace(x)
    z = model[0](x).detach()
    seed = random(2, 3, 6)
    slope = torch.autograd.functional.jvp(torch.sinc, z, torch.ones_like(z))[1]
    expected = x * ((seed * slope / z) @ model[0].weight.detach())
    torch.testing.assert_close(trace.relevance(seed)[0], expected, rtol=1e-9, atol=1e-9)

    # the second: an operation that it behaves like
    registry.register_operation(torch.sinc, "gelu")
    trace = LRP(model, EXACT).trace(x)
    expected = x * ((seed / z) @ model[0].weight.detach())
    torch.testing.assert_close(trace.relevance(seed)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recurrent", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_are_refused_by_name(recurrent: type[nn.Module]) -> None:
    layer = recurrent(6, 4, batch_first=True).double()
    with pytest.raises(NoRuleError, match=recurrent.__name__.lower()):
        LRP(Function(lambda x: layer(x)[0]), "epsilon").trace(random(1, 3, 5, 6))


def test_a_named_rule_is_taken_from_the_composite() -> None:
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU()).double()
    x, seed = random(1, 3, 6), random(2, 3, 4)
    trace = LRP(model, epsilon(0.5)).trace(x)
    z = model[0](x).detach()
    stabilized = z + 0.5 * torch.where(z >= 0, 1.0, -1.0)
    values, absorbed = trace.relevance(seed)
    expected = x * ((seed / stabilized) @ model[0].weight.detach())
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    lost = (seed - seed / stabilized * z).sum(1)
    torch.testing.assert_close(absorbed["stabilizer"], lost, rtol=1e-12, atol=1e-12)
