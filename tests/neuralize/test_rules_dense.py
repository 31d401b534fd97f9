"""Every rule against a slow re-implementation on the dense matrix of the layer, in float64.

The matrix is the Jacobian of the layer, row by row; the rules are written out neuron by neuron.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuralize import LRP
from neuralize.composites import CONVOLUTIONS, Composite
from neuralize.rules.named import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Ignore,
    Norm,
    Rule,
    TakeMost,
    WinnerTakeAll,
    WSquare,
    ZBox,
    ZPlus,
)

EPS = 1e-6
Array = np.ndarray
AFFINE = (nn.Linear, *CONVOLUTIONS)


def composite(rule: Rule) -> Composite:
    return Composite("one rule", ((AFFINE, rule),))


LAYERS: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda b: nn.Linear(5, 4, bias=b), (5,)),
    "linear on tokens": (lambda b: nn.Linear(4, 3, bias=b), (3, 4)),
    "conv1d": (lambda b: nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2, bias=b), (2, 7)),
    "conv2d": (lambda b: nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=b), (2, 5, 6)),
    "dilated conv2d": (lambda b: nn.Conv2d(2, 3, 2, dilation=2, bias=b), (2, 5, 5)),
    "depthwise conv2d": (lambda b: nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=b), (3, 4, 4)),
    "same conv2d": (lambda b: nn.Conv2d(2, 2, 4, padding="same", bias=b), (2, 5, 5)),
    "conv3d": (lambda b: nn.Conv3d(2, 2, 2, bias=b), (2, 3, 3, 3)),
    "conv_transpose1d": (lambda b: nn.ConvTranspose1d(2, 3, 3, stride=2, bias=b), (2, 4)),
    "conv_transpose2d": (
        lambda b: nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, groups=2, bias=b),
        (4, 3, 3),
    ),
    "conv_transpose3d": (lambda b: nn.ConvTranspose3d(2, 2, 2, bias=b), (2, 2, 2, 2)),
    "conv2d and BatchNorm": (
        lambda b: nn.Sequential(nn.Conv2d(2, 3, 3, bias=b), batch_norm(nn.BatchNorm2d(3))),
        (2, 4, 5),
    ),
    "conv_transpose2d and BatchNorm": (
        lambda b: nn.Sequential(
            nn.ConvTranspose2d(2, 4, 2, groups=2, bias=b), batch_norm(nn.BatchNorm2d(4))
        ),
        (2, 3, 3),
    ),
    "linear and BatchNorm": (
        lambda b: nn.Sequential(nn.Linear(4, 3, bias=b), batch_norm(nn.BatchNorm1d(3))),
        (4,),
    ),
}


def batch_norm(module: nn.Module) -> nn.Module:
    for tensor in (module.running_mean, module.weight.data, module.bias.data):
        tensor.normal_()
    module.running_var.uniform_(0.5, 2)
    return module


def built(name: str, bias: bool, signed: bool, n: int = 3) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(len(name) + 10 * bias)
    make, shape = LAYERS[name]
    layer = make(bias).double().eval()
    x = torch.randn(n, *shape, dtype=torch.float64)
    return layer, x if signed else x.abs()


def dense(layer: nn.Module, shape: torch.Size) -> tuple[Array, Array]:
    """Matrix ``(outputs, inputs)`` and offset of an affine layer, for one row."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    offset = layer(zero).detach().flatten().numpy()
    matrix = torch.autograd.functional.jacobian(layer, zero)
    return matrix.reshape(len(offset), -1).numpy(), offset


def stab(d: Array) -> Array:
    return d + EPS * np.where(d < 0, -1.0, 1.0)


def up(v: Array) -> Array:
    return np.maximum(v, 0)


def down(v: Array) -> Array:
    return np.minimum(v, 0)


def split(parts: Array, bias: Array, r: Array) -> tuple[Array, float]:
    """Relevance by contributions ``parts`` ``(j, i)`` beside a bias, and the bias's share."""
    s = r / stab(parts.sum(1) + bias)
    return parts.T @ s, float(bias @ s)


def reference(rule: Rule, w: Array, b: Array, x: Array, r: Array) -> tuple[Array, float]:
    """One row: relevance of the inputs and what the bias absorbs."""
    if "bias" in getattr(rule, "zero_params", ()):
        b, with_bias = 0 * b, b
    else:
        with_bias = b
    z = w @ x + with_bias
    if isinstance(rule, Epsilon):
        return split(w * x, b, r)
    zplus = up(w) * up(x) + down(w) * down(x)
    if isinstance(rule, ZPlus):
        return split(zplus, up(b), r)
    if isinstance(rule, AlphaBeta):
        more, more_bias = split(zplus, up(b), r)
        less, less_bias = split(down(w) * up(x) + up(w) * down(x), down(b), r)
        return (
            rule.alpha * more - rule.beta * less,
            rule.alpha * more_bias - rule.beta * less_bias,
        )
    if isinstance(rule, Gamma):
        g = rule.gamma
        total, share = np.zeros_like(x), 0.0
        for j in range(len(z)):
            p, n = w[j] + g * up(w[j]), w[j] + g * down(w[j])
            if z[j] > 0:
                parts, bias = p * up(x) + n * down(x), b[j] + g * up(b[j])
            elif z[j] < 0:
                parts, bias = n * up(x) + p * down(x), b[j] + g * down(b[j])
            else:
                continue
            s = r[j] / stab(parts.sum() + bias)
            total += parts * s
            share += bias * s
        return total, share
    if isinstance(rule, ZBox):
        low, high = (np.broadcast_to(np.asarray(v, float), x.shape) for v in (rule.low, rule.high))
        return split(w * x - up(w) * low - down(w) * high, 0 * b, r)
    if isinstance(rule, WSquare):
        return split(w**2, b**2, r)
    if isinstance(rule, Flat):
        ones = flat_matrix
        assert ones is not None
        return split(ones, 0 * b, r)
    raise AssertionError(rule)


flat_matrix: Array | None = None

RULES: list[Rule] = [
    Epsilon(EPS),
    Epsilon(EPS, zero_params=("bias",)),
    Norm(EPS),
    ZPlus(EPS),
    ZPlus(EPS, zero_params=("bias",)),
    AlphaBeta(2, 1, EPS),
    AlphaBeta(1, 0, EPS),
    AlphaBeta(3, 2, EPS, zero_params=("bias",)),
    Gamma(0.25, EPS),
    Gamma(3.0, EPS),
    Gamma(0.25, EPS, zero_params=("bias",)),
    ZBox(-3.0, 4.0, EPS),
    WSquare(EPS),
    WSquare(EPS, zero_params=("bias",)),
    Flat(EPS),
]


def ones_like(layer: nn.Module) -> nn.Module:
    """The layer with weights of one and no bias; BatchNorm's scale would be merged into them."""
    import copy

    twin = copy.deepcopy(layer)
    own = twin[0] if isinstance(twin, nn.Sequential) else twin
    own.weight.data.fill_(1.0)
    if own.bias is not None:
        own.bias.data.zero_()
    return own


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own remark on even kernels
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "nonnegative"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", LAYERS)
def test_rules_on_affine_layers(name: str, bias: bool, signed: bool) -> None:
    global flat_matrix
    layer, x = built(name, bias, signed)
    w, b = dense(layer, x.shape[1:])
    flat_matrix = dense(ones_like(layer), x.shape[1:])[0]
    seed = torch.randn(layer(x).shape, dtype=torch.float64)
    for rule in RULES:
        trace = LRP(layer, composite(rule)).trace(x)
        found, absorbed = trace.relevance(seed)
        for row in range(len(x)):
            r = seed[row].flatten().numpy()
            expected, share = reference(rule, w, b, x[row].flatten().numpy(), r)
            scale = max(np.abs(expected).max(), 1e-12)
            np.testing.assert_allclose(
                found[row].flatten().numpy(), expected, rtol=0, atol=1e-9 * scale, err_msg=str(rule)
            )
            own = float(absorbed.get("bias", torch.zeros(len(x)))[row])
            assert own == pytest.approx(share, rel=1e-8, abs=1e-9 * scale), rule
            kept = r.sum() - expected.sum() - share
            stabilizer = float(absorbed["stabilizer"][row])
            assert stabilizer == pytest.approx(kept, rel=1e-6, abs=1e-9 * scale), rule


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 2.5])),
        (-torch.rand(1, 2, 5, 6, dtype=torch.float64), 3 * torch.ones(2, 5, 6)),
    ],
    ids=["per channel", "per pixel"],
)
def test_box_bounds_by_channel_and_pixel(low: Tensor, high: Tensor) -> None:
    layer, x = built("conv2d", True, True)
    w, b = dense(layer, x.shape[1:])
    seed = torch.randn(layer(x).shape, dtype=torch.float64)
    found, _ = LRP(layer, composite(ZBox(low, high, EPS))).trace(x).relevance(seed)
    wide = [
        (v.double().reshape(2, 1, 1) if v.ndim == 1 else v.double().reshape(2, 5, 6))
        .expand(2, 5, 6).flatten().numpy() for v in (low, high)
    ]  # fmt: skip
    for row in range(len(x)):
        expected, _ = reference(
            ZBox(wide[0], wide[1], EPS), w, b, x[row].flatten().numpy(), seed[row].flatten().numpy()
        )
        np.testing.assert_allclose(found[row].flatten().numpy(), expected, atol=1e-9)


def test_lrp_0_hands_nothing_on_where_the_output_is_zero() -> None:
    layer = nn.Linear(2, 2, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    x = torch.ones(1, 2, dtype=torch.float64)
    trace = LRP(layer, composite(Epsilon(0.0))).trace(x)
    found, absorbed = trace.relevance(torch.tensor([[5.0, 4.0]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[2.0, 2.0]], dtype=torch.float64))
    assert float(absorbed["stabilizer"]) == pytest.approx(5.0)


def test_ignore_absorbs_all_by_name() -> None:
    layer, x = built("conv2d", True, True)
    seed = torch.randn(layer(x).shape, dtype=torch.float64)
    found, absorbed = LRP(layer, composite(Ignore())).trace(x).relevance(seed)
    assert not found.any()
    torch.testing.assert_close(absorbed["ignored"], seed.flatten(1).sum(1))


def test_embeddings_give_each_token_the_relevance_of_its_vector() -> None:
    torch.manual_seed(0)
    words = nn.Embedding(9, 4).double()
    model = nn.Sequential(words, nn.Flatten(), nn.Linear(12, 2).double())
    ids = torch.tensor([[1, 4, 4], [0, 8, 2]])
    seed = torch.randn(2, 2, dtype=torch.float64)
    found, _ = LRP(model, composite(Epsilon(EPS))).trace(ids).relevance(seed)
    w, b = model[2].weight.detach().numpy(), model[2].bias.detach().numpy()
    for row in range(2):
        vectors = words.weight[ids[row]].detach().numpy()
        expected, _ = split(w * vectors.ravel(), b, seed[row].numpy())
        np.testing.assert_allclose(found[row], expected.reshape(3, 4).sum(1), atol=1e-12)


POOLS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "average": (nn.AvgPool2d(2, 1, 1, count_include_pad=False), (2, 4, 5)),
    "adaptive": (nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 7)),
    "average 1d": (nn.AvgPool1d(3, 2), (2, 7)),
    "average 3d": (nn.AdaptiveAvgPool3d(2), (1, 3, 4, 3)),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 3)),
    "nearest": (nn.Upsample(size=(5, 4)), (2, 3, 3)),
}


@pytest.mark.parametrize("name", POOLS)
def test_averages_and_upsampling_split_by_contribution(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = POOLS[name]
    x = torch.randn(3, *shape, dtype=torch.float64)
    w, b = dense(layer, x.shape[1:])
    seed = torch.randn(layer(x).shape, dtype=torch.float64)
    found, _ = LRP(layer, Composite("none")).trace(x).relevance(seed)
    for row in range(3):
        expected, _ = split(w * x[row].flatten().numpy(), b, seed[row].flatten().numpy())
        np.testing.assert_allclose(found[row].flatten().numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("rule", [WinnerTakeAll(), TakeMost(2.0)], ids=str)
def test_maximum_pools(rule: Rule) -> None:
    torch.manual_seed(0)
    layer = nn.MaxPool2d(3, 2, 1)
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    seed = torch.randn(layer(x).shape, dtype=torch.float64)
    lrp = LRP(layer, Composite("max", ((nn.MaxPool2d, rule),)))
    found, _ = lrp.trace(x).relevance(seed)
    expected = np.zeros(x.shape)
    values, r = x.numpy(), seed.numpy()
    for n, c, i, j in np.ndindex(*seed.shape):
        rows = [y for y in range(2 * i - 1, 2 * i + 2) if 0 <= y < 5]
        cols = [k for k in range(2 * j - 1, 2 * j + 2) if 0 <= k < 6]
        window = values[n, c][np.ix_(rows, cols)]
        if isinstance(rule, TakeMost):
            p = np.exp(rule.stiffness * (window - window.max()))
            p /= p.sum()
        else:
            p = (window == window.max()).astype(float)
        expected[n, c][np.ix_(rows, cols)] += p * r[n, c, i, j]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("rule", [r for r in RULES if not isinstance(r, Norm)], ids=repr)
def test_a_relu_behind_the_layer_changes_nothing(rule: Rule) -> None:
    """The output is then kept rectified only, and made again where relevance needs the rest."""
    layer, x = built("conv2d and BatchNorm", True, True)
    z = layer(x).detach()
    model = nn.Sequential(layer, nn.ReLU(inplace=True))
    anywhere = torch.randn(z.shape, dtype=torch.float64)
    for seed in (anywhere, anywhere * (z > 0)):
        alone, kept = LRP(layer, composite(rule)).trace(x).relevance(seed)
        found, absorbed = LRP(model, composite(rule)).trace(x).relevance(seed)
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-11)
        for name, share in kept.items():
            torch.testing.assert_close(absorbed[name], share, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_many_targets_at_once_are_each_alone(rule: Rule) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), batch_norm(nn.BatchNorm2d(4)), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(4, 3, 2), nn.Tanh(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.LayerNorm(3),
        nn.Linear(3, 5),
    ).double().eval()  # fmt: skip
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64)
    model[7] = nn.Flatten()
    with torch.no_grad():
        width = model[:8](x).shape[1]
    model[8], model[9] = nn.LayerNorm(width).double(), nn.Linear(width, 5).double()
    trace = LRP(model, composite(rule)).trace(x, keep=True)
    seeds = torch.randn(4, *trace.output.shape, dtype=torch.float64)
    found, absorbed = trace.batched(seeds)
    for k, seed in enumerate(seeds):
        alone, shares = trace.relevance(seed)
        scale = float(alone.abs().max())
        torch.testing.assert_close(found[k], alone, rtol=1e-9, atol=1e-11 * scale)
        for name, share in shares.items():
            torch.testing.assert_close(absorbed[name][k], share, rtol=1e-8, atol=1e-10 * scale)
