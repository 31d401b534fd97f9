"""Rules of transformers against their formulas, written out entry by entry in Python floats.

No gradients and no tensors in the oracles: sums over indices as the papers have them (AttnLRP,
arXiv 2402.05602; AH and LN rule of CP-LRP, Ali et al. 2022).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize import LRP
from neuralize.composites import Composite
from neuralize.engine.operations.attention import Attention
from neuralize.rules import CPLRP, AttnLRP
from tests.neuralize.gradient_oracle import EXACT, random

BATCH, HEADS, LENGTH, SOURCE, WIDTH = 2, 4, 3, 5, 2


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def with_attention(rule: AttnLRP | CPLRP) -> Composite:
    return EXACT.with_rules(layer_map=[(Attention, rule)])


def explained(
    function: Any, x: Tensor, relevance_of: Tensor, composite: Composite = EXACT
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    trace = LRP(Function(function), composite).trace(x)
    return trace.output, *trace.relevance(relevance_of)


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(s - top) for s in scores]
    return [p / sum(powers) for p in powers]


def attention_by_loops(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, relevance: Tensor, scale: float, rule: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, list[float]]]:
    """One batch entry after the other; ``k`` and ``v`` may have fewer heads than ``q``."""
    n, heads, length, width = q.shape
    groups = heads // k.shape[1]
    out = torch.zeros(n, heads, length, v.shape[-1], dtype=torch.float64)
    found = [torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)]
    lost: dict[str, list[float]] = {"softmax": [0.0] * n, "attention mask": [0.0] * n}
    for b, h, j in itertools.product(range(n), range(heads), range(length)):
        g = h // groups
        source = range(k.shape[2])
        product = [
            scale * sum(float(q[b, h, j, d]) * float(k[b, g, i, d]) for d in range(width))
            for i in source
        ]
        added = [float(mask[b, h, j, i]) for i in source]
        a = softmax([s + m for s, m in zip(product, added, strict=True)])
        to_weight = [0.0 for _ in source]
        for p in range(v.shape[-1]):
            o = sum(a[i] * float(v[b, g, i, p]) for i in source)
            out[b, h, j, p] = o
            for i in source:
                share = a[i] * float(v[b, g, i, p]) * float(relevance[b, h, j, p])
                share /= o + math.copysign(1e-9, o)  # the stabilizer of attention
                if rule == "AttnLRP":  # half to the weight, half to the value
                    to_weight[i] += share / 2
                    share = share / 2
                found[2][b, g, i, p] += share
        if rule == "CPLRP":
            continue
        total = sum(to_weight)
        for i in source:
            slope = to_weight[i] - a[i] * total
            for d in range(width):
                part = scale * float(q[b, h, j, d]) * float(k[b, g, i, d]) * slope / 2
                found[0][b, h, j, d] += part
                found[1][b, g, i, d] += part
            kept = product[i] * slope
            if not math.isinf(added[i]):
                lost["attention mask"][b] += added[i] * slope
                kept += added[i] * slope
            lost["softmax"][b] += to_weight[i] - kept
    return out, *found, lost


def masks() -> dict[str, Tensor | None]:
    keep = random(7, BATCH, 1, LENGTH, SOURCE) > -0.5
    keep[..., 0] = True
    return {
        "none": None,
        "boolean": keep,
        "additive": random(8, LENGTH, SOURCE),
        "infinite": torch.zeros(LENGTH, SOURCE).double().masked_fill(~keep[0, 0], -math.inf),
        "per head": random(9, 1, HEADS, LENGTH, SOURCE),
    }


def spread_out(mask: Tensor | None) -> Tensor:
    shape = (BATCH, HEADS, LENGTH, SOURCE)
    if mask is None:
        return torch.zeros(shape, dtype=torch.float64)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -math.inf)
    return mask.expand(shape)


def packed(key_heads: int) -> tuple[Tensor, Any]:
    """Inputs side by side, and the function that takes them apart."""
    sizes = [HEADS * LENGTH * WIDTH, key_heads * SOURCE * WIDTH, key_heads * SOURCE * WIDTH]

    def parts(x: Tensor) -> list[Tensor]:
        q, k, v = x.split(sizes, 1)
        return [
            q.unflatten(1, (HEADS, LENGTH, WIDTH)),
            k.unflatten(1, (key_heads, SOURCE, WIDTH)),
            v.unflatten(1, (key_heads, SOURCE, WIDTH)),
        ]

    return random(1, BATCH, sum(sizes)), parts


@pytest.mark.parametrize("rule", [AttnLRP(), CPLRP()], ids=str)
@pytest.mark.parametrize("how", ["fused", "spelled out"])
@pytest.mark.parametrize("key_heads", [HEADS, 2])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", masks())
def test_scaled_dot_products(
    rule: AttnLRP | CPLRP, how: str, key_heads: int, scale: float | None, mask: str
) -> None:
    x, parts = packed(key_heads)
    given = masks()[mask]
    used = 1 / math.sqrt(WIDTH) if scale is None else scale

    def fused(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            *parts(x), attn_mask=given, scale=scale, enable_gqa=key_heads != HEADS
        )

    def spelled_out(x: Tensor) -> Tensor:
        q, k, v = parts(x)
        k, v = (t.repeat_interleave(HEADS // key_heads, 1) for t in (k, v))
        scores = q @ k.mT * used
        if given is not None and given.dtype == torch.bool:
            scores = scores.masked_fill(~given, -math.inf)
        elif given is not None:
            scores = scores + given
        return scores.softmax(-1) @ v

    relevance = random(2, BATCH, HEADS, LENGTH, WIDTH)
    function = fused if how == "fused" else spelled_out
    out, values, absorbed = explained(function, x, relevance, with_attention(rule))
    expected_out, *expected, lost = attention_by_loops(
        *parts(x), spread_out(given), relevance, used, str(rule)
    )
    torch.testing.assert_close(out, expected_out)
    for found, wanted, name in zip(parts(values), expected, "qkv", strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: n + m)
    if how == "fused":
        for name, wanted in lost.items():
            share = absorbed.get(name, torch.zeros(BATCH)).double()
            torch.testing.assert_close(share, torch.tensor(wanted).double(), rtol=1e-6, atol=1e-7)
    total = values.sum(1) + sum(absorbed.values())
    torch.testing.assert_close(total, relevance.flatten(1).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [AttnLRP(), CPLRP()], ids=str)
def test_causal_attention_is_attention_with_a_triangular_mask(rule: AttnLRP | CPLRP) -> None:
    x, parts = packed(HEADS)
    mask = torch.ones(LENGTH, SOURCE, dtype=torch.bool).tril()
    relevance = random(2, BATCH, HEADS, LENGTH, WIDTH)
    _, values, _ = explained(
        lambda x: F.scaled_dot_product_attention(*parts(x), is_causal=True),
        x, relevance, with_attention(rule),
    )  # fmt: skip
    added = torch.zeros(LENGTH, SOURCE).double().masked_fill(~mask, -math.inf)
    _, *expected, _ = attention_by_loops(
        *parts(x), spread_out(added), relevance, 1 / math.sqrt(WIDTH), str(rule)
    )
    for found, wanted in zip(parts(values), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_a_mask_that_depends_on_the_input_shares() -> None:
    x = random(1, 2, 24)

    def forward(x: Tensor) -> Tensor:
        q, k, v, m = (t.unflatten(1, (1, 3, 2)) for t in x.split(6, 1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=m @ m.mT)

    out, values, absorbed = explained(forward, x, torch.ones(2, 1, 3, 2).double())
    torch.testing.assert_close(out, forward(x))
    assert values[:, 18:].abs().min() > 0
    total = values.sum(1) + sum(absorbed.values())
    torch.testing.assert_close(total, torch.full((2,), 6.0).double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dim", [1, -1])
def test_softmax_alone(dim: int) -> None:
    x, relevance = random(1, 2, 3, 4), random(2, 2, 3, 4)
    _, values, absorbed = explained(lambda x: x.softmax(dim), x, relevance)
    lost = [0.0, 0.0]
    for b, i, j in itertools.product(range(2), range(3), range(4)):
        line = [(b, c, j) for c in range(3)] if dim == 1 else [(b, i, c) for c in range(4)]
        p = dict(zip(line, softmax([float(x[at]) for at in line]), strict=True))
        total = sum(float(relevance[at]) for at in line)
        at = (b, i, j)
        wanted = float(x[at]) * (float(relevance[at]) - p[at] * total)
        assert math.isclose(float(values[at]), wanted, rel_tol=1e-9, abs_tol=1e-12)
        lost[b] += float(relevance[at]) - wanted
    torch.testing.assert_close(absorbed["softmax"].double(), torch.tensor(lost).double())


def normalised_by_loops(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    relevance: Tensor,
    group: list[tuple[int, ...]],
    channel: Any,
    eps: float,
) -> tuple[dict[tuple[int, ...], float], float]:
    """LN rule for the entries of one group: ``y = w (x - mean) / sd + b``, ``sd`` held."""
    n = len(group)
    mean = sum(float(x[at]) for at in group) / n
    sd = math.sqrt(sum((float(x[at]) - mean) ** 2 for at in group) / n + eps)
    values, lost = dict.fromkeys(group, 0.0), 0.0
    for k in group:
        w, b = float(weight[channel(k)]), float(bias[channel(k)])
        y = w * (float(x[k]) - mean) / sd + b
        for i in group:  # y_k = sum_i x_i w (d_ik - 1 / n) / sd + b
            values[i] += float(x[i]) * w * ((i == k) - 1 / n) / sd * float(relevance[k]) / y
        lost += b * float(relevance[k]) / y
    return values, lost


def groups_of(kind: str) -> tuple[Any, Any]:
    """The groups of entries of ``(2, 4, 3)`` that are normalised together, and whose weight."""
    every = list(itertools.product(range(2), range(4), range(3)))
    keys = {
        "layer_norm": lambda at: (at[0], at[1]),
        "layer_norm of two dimensions": lambda at: (at[0],),
        "group_norm": lambda at: (at[0], at[1] // 2),
        "instance_norm": lambda at: (at[0], at[1]),
    }
    of = keys[kind]
    groups = [[at for at in every if of(at) == key] for key in sorted({of(at) for at in every})]
    channels = {
        "layer_norm": lambda at: at[2:],
        "layer_norm of two dimensions": lambda at: at[1:],
    }
    return groups, channels.get(kind, lambda at: at[1:2])


@pytest.mark.parametrize("kind", ["layer_norm", "layer_norm of two dimensions", "group_norm",
                                  "instance_norm"])  # fmt: skip
def test_normalisations(kind: str) -> None:
    x, relevance = random(1, 2, 4, 3), random(2, 2, 4, 3)
    shape = {"layer_norm": (3,), "layer_norm of two dimensions": (4, 3)}.get(kind, (4,))
    weight, bias = random(3, *shape), random(4, *shape)

    def forward(x: Tensor) -> Tensor:
        if kind.startswith("layer_norm"):
            return F.layer_norm(x, shape, weight, bias, 1e-3)
        if kind == "group_norm":
            return F.group_norm(x, 2, weight, bias, 1e-3)
        return F.instance_norm(x, weight=weight, bias=bias, eps=1e-3)

    _, values, absorbed = explained(forward, x, relevance)
    lost = [0.0, 0.0]
    groups, channel = groups_of(kind)
    for group in groups:
        wanted, share = normalised_by_loops(x, weight, bias, relevance, group, channel, 1e-3)
        lost[group[0][0]] += share
        for at, value in wanted.items():
            assert math.isclose(float(values[at]), value, rel_tol=1e-7, abs_tol=1e-9), at
    torch.testing.assert_close(absorbed["bias"].double(), torch.tensor(lost).double())


@pytest.mark.parametrize("name", ["rms_norm", "normalize", "spelled out"])
def test_a_scale_alone_passes(name: str) -> None:
    x, relevance = random(1, 2, 5), random(2, 2, 5)
    weight = random(3, 5)
    functions = {
        "rms_norm": lambda x: F.rms_norm(x, (5,), weight),
        "normalize": lambda x: F.normalize(x, dim=-1),
        "spelled out": lambda x: weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    }
    _, values, absorbed = explained(functions[name], x, relevance)
    torch.testing.assert_close(values, relevance)
    assert all(share.abs().max() < 1e-9 for share in absorbed.values())


def test_swiglu_shares_and_a_sigmoid_gate_gives_all_to_the_signal() -> None:
    x, relevance = random(1, 2, 5), random(2, 2, 3)
    up, gate = random(3, 3, 5), random(4, 3, 5)
    _, values, _ = explained(lambda x: F.silu(F.linear(x, gate)) * F.linear(x, up), x, relevance)
    _, sigmoid, _ = explained(
        lambda x: torch.sigmoid(F.linear(x, gate)) * F.linear(x, up), x, relevance
    )
    for b, i in itertools.product(range(2), range(5)):
        z = [sum(float(x[b, d]) * float(up[k, d]) for d in range(5)) for k in range(3)]
        h = [sum(float(x[b, d]) * float(gate[k, d]) for d in range(5)) for k in range(3)]
        to = [float(x[b, i]) * float(up[k, i]) * float(relevance[b, k]) / z[k] for k in range(3)]
        of = [float(x[b, i]) * float(gate[k, i]) * float(relevance[b, k]) / h[k] for k in range(3)]
        # SiLU is a signal of its own: the product is of degree two
        assert math.isclose(float(values[b, i]), sum(to) / 2 + sum(of) / 2, rel_tol=1e-6)
        assert math.isclose(float(sigmoid[b, i]), sum(to), rel_tol=1e-6)
