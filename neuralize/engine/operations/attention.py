"""Attention: softmax, scaled dot products, multi-head attention.

AttnLRP (Achtibat et al., arXiv 2402.05602): ``O = A V`` is of degree two, so ``A`` and ``V`` share
half and half; the softmax is linearised at its input, ``R_i = x_i (R_i - A_i sum_j R_j)``; scores
``q . k`` share half and half again. CP-LRP (Ali et al., ICML 2022): ``A`` is held constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralize.engine.registry import Call, operation
from neuralize.engine.rows import Rows
from neuralize.engine.steps import Shares, Step, fold_to, share
from neuralize.errors import NoRuleError
from neuralize.rules.named import CPLRP


class Attention(nn.Module):
    """What products with a softmax stand for in a composite's map: AttnLRP or CPLRP."""


class Softmax(Step):
    """``R_i = x_i (R_i - p_i sum_j R_j)``: first-order Taylor; the rest is absorbed."""

    sinks = ("softmax",)

    def __init__(self, f: Any, dim: int, rows: Rows) -> None:
        self.f, self.dim, self.rows = f, dim, rows

    def compute(self, *inputs: Tensor) -> Tensor:
        (self.x,) = inputs
        return self.f(self.x)  # type: ignore[no-any-return]

    def kept(self, z: Tensor) -> None:
        self.p = z

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        # a masked score of minus infinity has p = 0 and hands on nothing
        x = self.x.masked_fill(self.x.isinf(), 0)
        r = x * (relevance - self.p * relevance.sum(self.dim, keepdim=True))
        return [r], {"softmax": self.rows.sum(relevance) - self.rows.sum(r)}


class ScaledDotProduct(Step):
    """``softmax(scale q k^T + mask) v``, with its rule."""

    sinks = ("stabilizer", "softmax", "attention mask")

    def __init__(
        self, f: Any, attends: bool, mask: Tensor | None, causal: bool, scale: float, groups: int,
        rows: Rows,
    ) -> None:  # fmt: skip
        self.f, self.attends, self.mask, self.causal = f, attends, mask, causal
        self.scale, self.groups, self.rows = scale, groups, rows

    def compute(self, *inputs: Tensor) -> Tensor:
        self.q, self.k, self.v = inputs
        return self.f(*inputs)  # type: ignore[no-any-return]

    def kept(self, z: Tensor) -> None:
        self.z = z

    def _wide(self, t: Tensor) -> Tensor:
        return t if self.groups == 1 else t.repeat_interleave(self.groups, -3)

    def _narrow(self, r: Tensor) -> Tensor:
        return r if self.groups == 1 else r.unflatten(-3, (-1, self.groups)).sum(-3)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Attention weights ``A`` and the additive mask."""
        scores = self.q @ self._wide(self.k).transpose(-1, -2) * self.scale
        bias = torch.zeros_like(scores[..., :1, :1])
        if self.mask is not None:
            bias = self.mask
            if self.mask.dtype == torch.bool:
                bias = torch.zeros_like(self.mask, dtype=scores.dtype)
                bias = bias.masked_fill(~self.mask, -math.inf)
        if self.causal:
            size = scores.shape[-2:]
            ones = torch.ones(size, dtype=torch.bool, device=scores.device).tril()
            bias = torch.zeros(size, dtype=scores.dtype, device=scores.device)
            bias = bias.masked_fill(~ones, -math.inf)
        a = torch.softmax(scores + bias, -1)
        # a query that sees nothing attends to nothing, as torch has it
        return a.nan_to_num(0.0) if self.mask is not None else a, bias

    def split(self, relevance: Tensor) -> tuple[Sequence[Tensor | None], Shares]:
        a, bias = self.weights()
        s = share(relevance, self.z, 1e-9)
        lost = {"stabilizer": self.rows.sum(relevance) - self.rows.sum(s * self.z)}
        if not self.attends:
            r_v = self.v * self._narrow(a.transpose(-1, -2) @ s)
            return [None, None, fold_to(r_v, self.v.shape)], lost
        s = s / 2
        v, k = self._wide(self.v), self._wide(self.k)
        r_v = self.v * self._narrow(a.transpose(-1, -2) @ s)
        # R_A = A * (s v^T); through the softmax R_x = x * g with g = R_A - A sum R_A
        r_a = a * (s @ v.transpose(-1, -2))
        g = (r_a - a * r_a.sum(-1, keepdim=True)) * self.scale
        r_q = self.q * (g @ k) / 2
        r_k = self.k * self._narrow(g.transpose(-1, -2) @ self.q) / 2
        # what goes to q and k is half each of sum (scale q k^T) g; the mask takes its own
        to_mask = self.rows.sum(g / self.scale * bias.masked_fill(bias.isinf(), 0))
        lost["attention mask"] = to_mask
        arrived = self.rows.sum(r_a)
        lost["softmax"] = arrived - self.rows.sum(r_q) - self.rows.sum(r_k) - to_mask
        pairs = zip((r_q, r_k, r_v), (self.q, self.k, self.v), strict=True)
        return [fold_to(r, t.shape) for r, t in pairs], lost


@operation("scaled_dot_product_attention")
def scaled_dot_product_attention(call: Call) -> Any:
    """Scaled dot-product attention as one step: nothing of size ``(L, L)`` is kept."""
    q, k, v, mask, dropout, causal, scale, grouped = call.arguments(
        "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa",
        dropout_p=0.0, is_causal=False, enable_gqa=False,
    )  # fmt: skip
    if dropout:
        raise NoRuleError(
            f"Attention in {call.run.place} drops weights at random although the network is in "
            "evaluation mode. Pass dropout_p=0.0 there unless self.training."
        )
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    rule = call.rule(Attention)
    run = call.run
    if any(run.tag(t) is None for t in (q, k, v)) or (
        isinstance(mask, Tensor) and run.tag(mask) is not None
    ):
        return _spelled_out(call, q, k, v, mask, causal, scale, grouped)
    f_args = {"attn_mask": mask, "is_causal": causal, "scale": scale}
    if grouped:
        f_args["enable_gqa"] = True
    groups = q.shape[-3] // k.shape[-3] if grouped else 1

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **f_args)

    tag = run.tag(q)
    assert tag is not None
    for t in (q, k, v):
        call.require_apart([-2, -1], t)
    _require_same_rows(call, q, k, v)
    step = ScaledDotProduct(
        f, not isinstance(rule, CPLRP), None if mask is None else mask.detach(), bool(causal),
        scale, groups, tag.rows,
    )  # fmt: skip
    return call.apply(step, [q, k, v], rule, tag.rows)


def _require_same_rows(call: Call, *operands: Tensor) -> None:
    """Refuse queries that meet keys of another row."""
    rows = [tag.rows for t in operands if (tag := call.run.tag(t)) is not None]
    if rows[0].n == 1 or (rows[0].dim is not None and all(r == rows[0] for r in rows)):
        return
    heads = operands[0].shape[-3] if operands[0].ndim > 2 else 1
    lines = []
    for r, t in zip(rows, operands, strict=True):
        line = r.shadow(t.shape)[..., 0, 0]
        if line.ndim and line.shape[-1] not in (1, heads):  # shared by groups of queries
            line = line.repeat_interleave(heads // line.shape[-1], -1)
        lines.append(line)
    first, *others = torch.broadcast_tensors(*lines)
    if any(not torch.equal(first, other) for other in others):
        raise call.mixing()


def _spelled_out(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any,
    causal: bool,
    scale: float,
    grouped: bool,
) -> Any:
    """Attention operation by operation, where some of its parts are constants or signals."""
    if causal or grouped:
        raise NoRuleError(
            f"Attention in {call.run.place} with constants among query, key and value, and causal "
            "or grouped heads, has no rule. Give the module one by name_map."
        )
    with call.mode:
        scores = torch.matmul(q, k.transpose(-1, -2)) * scale
        if mask is not None:
            scores = (
                scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
            )
        return torch.matmul(scores.softmax(-1), v)


@operation("multi_head_attention_forward")
def multi_head_attention(call: Call) -> Any:
    """``nn.MultiheadAttention``: packed projections and scaled dot products, spelled out."""
    names = ("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight",
             "in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight",
             "out_proj_bias", "training", "key_padding_mask", "need_weights", "attn_mask",
             "use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight",
             "static_k", "static_v", "average_attn_weights", "is_causal")  # fmt: skip
    given = dict(zip(names, call.arguments(*names, need_weights=True), strict=True))
    unusual = [n for n in ("bias_k", "bias_v", "static_k", "static_v") if given[n] is not None]
    if unusual or given["add_zero_attn"]:
        raise NoRuleError(
            f"MultiheadAttention in {call.run.place} with {', '.join(unusual) or 'add_zero_attn'} "
            "has no rule. Give the module one by name_map."
        )
    with call.mode:
        return _multi_head(given)


def _multi_head(given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    q, k, v = given["query"], given["key"], given["value"]
    single = q.dim() == 2
    if single:
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
    length, n, width = q.shape
    heads = given["num_heads"]
    bias = given["in_proj_bias"]
    if given["use_separate_proj_weight"]:
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = given["in_proj_weight"].chunk(3)
    biases = [None] * 3 if bias is None else bias.chunk(3)

    def heads_of(t: Tensor, weight: Tensor, b: Tensor | None) -> Tensor:
        t = F.linear(t, weight, b)
        return t.reshape(t.shape[0], n, heads, -1).permute(1, 2, 0, 3)

    q, k, v = (heads_of(t, w, b) for t, w, b in zip((q, k, v), weights, biases, strict=True))
    mask = _merged_mask(given, n, heads, length, k.shape[2], q.dtype)
    attention: Tensor | None = None
    if given["need_weights"]:
        scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-1, -2))
        attention = (scores if mask is None else scores + mask).softmax(-1)
        out = torch.matmul(attention, v)
        if given["average_attn_weights"] is not False:
            attention = attention.mean(1)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out = out.permute(2, 0, 1, 3).reshape(length, n, width)
    out = F.linear(out, given["out_proj_weight"], given["out_proj_bias"])
    if not single:
        return out, attention
    return out.squeeze(1), None if attention is None else attention.squeeze(0)


def _merged_mask(
    given: dict[str, Any], n: int, heads: int, length: int, source: int, dtype: torch.dtype
) -> Tensor | None:
    total: Tensor | None = None
    for name, shape in (("attn_mask", None), ("key_padding_mask", (n, 1, 1, source))):
        mask = given[name]
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
        if shape is not None:
            mask = mask.reshape(shape)
        elif mask.dim() == 3:
            mask = mask.reshape(n, heads, length, source)
        total = mask if total is None else total + mask
    return total
