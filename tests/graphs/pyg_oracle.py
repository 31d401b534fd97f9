"""PyG's layers written again, edge by edge in float64, so that gradient times input is LRP.

Where a rule is not that of the gradient, the forward value is kept and the gradient is changed:
``p * (z / p).detach()`` is ``z`` with the gradient of ``p``. Nothing here calls PyG or the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Graph:
    """Edges ``(2, e)``, and which of them hand relevance on."""

    edges: Tensor
    n: int
    parts: Tensor | None = None
    weights: Tensor | None = None
    attributes: Tensor | None = None

    def with_loops(self, fill: float = 1.0, replace: bool = False) -> Graph:
        """Self-loops for all; those there keep their weight, or go."""
        loops = self.edges[0] == self.edges[1]
        weights = torch.ones(self.edges.shape[1], dtype=torch.float64)
        weights = weights if self.weights is None else self.weights
        own = torch.full((self.n,), fill, dtype=torch.float64)
        if not replace:
            for k in loops.nonzero().flatten().tolist():
                own[self.edges[0, k]] = weights[k]
        numbers = torch.arange(self.n)
        edges = torch.cat([self.edges[:, ~loops], torch.stack([numbers, numbers])], 1)
        return Graph(edges, self.n, self.parts, torch.cat([weights[~loops], own]))

    def among(self, kept: Tensor) -> Graph:
        """The graph of some nodes, in that order."""
        number = {int(node): k for k, node in enumerate(kept)}
        rows = [
            k for k, (a, b) in enumerate(self.edges.T.tolist()) if a in number and b in number
        ]  # fmt: skip
        edges = [[number[int(node)] for node in self.edges[side, rows]] for side in (0, 1)]
        return Graph(
            torch.tensor(edges).reshape(2, -1), len(kept),
            None if self.parts is None else self.parts[kept],
            None if self.weights is None else self.weights[rows],
            None if self.attributes is None else self.attributes[rows],
        )  # fmt: skip

    def handed_on(self, messages: Tensor) -> Tensor:
        """Messages with no gradient between parts."""
        if self.parts is None:
            return messages
        stays = self.parts[self.edges[0]] == self.parts[self.edges[1]]
        shape = (-1, *[1] * (messages.ndim - 1))
        return torch.where(stays.reshape(shape), messages, messages.detach())

    def sum(self, messages: Tensor) -> Tensor:
        messages = self.handed_on(messages)
        rows = [messages[self.edges[1] == k].sum(0) for k in range(self.n)]
        return torch.stack(rows)

    def mean(self, messages: Tensor) -> Tensor:
        counts = [max(int((self.edges[1] == k).sum()), 1) for k in range(self.n)]
        return self.sum(messages) / torch.tensor(counts).reshape(-1, *[1] * (messages.ndim - 1))

    def max(self, messages: Tensor) -> Tensor:
        messages = self.handed_on(messages)
        rows = []
        for k in range(self.n):
            mine = messages[self.edges[1] == k]
            rows.append(mine.amax(0) if len(mine) else mine.sum(0))
        return torch.stack(rows)


def gamma_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float) -> Tensor:
    """``W x + b`` with the gradient of generalised gamma."""
    weight = weight.detach()
    b = torch.zeros(len(weight), dtype=x.dtype) if bias is None else bias.detach()
    z = x @ weight.T + b
    up, down = x.clamp(min=0), x.clamp(max=0)
    more, less = weight + gamma * weight.clamp(min=0), weight + gamma * weight.clamp(max=0)
    above = up @ more.T + down @ less.T + b + gamma * b.clamp(min=0)
    below = up @ less.T + down @ more.T + b + gamma * b.clamp(max=0)
    p = torch.where(z > 0, above, below)
    ratio = torch.where(p == 0, 0, z / torch.where(p == 0, 1, p))
    return p * ratio.detach()


def mlp(net: Any, x: Tensor, gamma: float) -> Tensor:
    for layer in net:
        if isinstance(layer, nn.Linear):
            x = gamma_linear(x, layer.weight, layer.bias, gamma)
        else:
            x = x.relu()
    return x


def gin(conv: Any, h: Tensor, g: Graph, gamma: float) -> Tensor:
    return mlp(conv.nn, g.sum(h[g.edges[0]]) + (1 + conv.eps.item()) * h, gamma)


def gine(conv: Any, h: Tensor, g: Graph, gamma: float) -> Tensor:
    assert g.attributes is not None
    made = g.attributes @ conv.lin.weight.detach().T + conv.lin.bias.detach()
    z = g.sum((h[g.edges[0]] + made).relu()) + (1 + conv.eps.item()) * h
    return mlp(conv.nn, z, gamma)


def gcn(conv: Any, h: Tensor, g: Graph, gamma: float) -> Tensor:
    looped = g.with_loops()
    assert looped.weights is not None
    degree = torch.zeros(g.n, dtype=torch.float64)
    for k, node in enumerate(looped.edges[1].tolist()):
        degree[node] += looped.weights[k]
    root = torch.where(degree > 0, degree, torch.inf) ** -0.5
    weights = looped.weights * root[looped.edges[0]] * root[looped.edges[1]]
    summed = looped.sum(weights[:, None] * h[looped.edges[0]])
    return gamma_linear(summed, conv.lin.weight, conv.bias, gamma)


def sage(conv: Any, h: Tensor, g: Graph, gamma: float) -> Tensor:
    how = {"mean": g.mean, "max": g.max, "add": g.sum}[conv.aggr]
    both = torch.cat([how(h[g.edges[0]]), h], 1)
    weight = torch.cat([conv.lin_l.weight, conv.lin_r.weight], 1)
    return gamma_linear(both, weight, conv.lin_l.bias, gamma)


def graph_conv(conv: Any, h: Tensor, g: Graph, gamma: float) -> Tensor:
    messages = h[g.edges[0]] if g.weights is None else g.weights[:, None] * h[g.edges[0]]
    both = torch.cat([g.sum(messages), h], 1)
    weight = torch.cat([conv.lin_rel.weight, conv.lin_root.weight], 1)
    return gamma_linear(both, weight, conv.lin_rel.bias, gamma)


def gat(conv: Any, h: Tensor, g: Graph, gamma: float) -> Tensor:
    looped = g.with_loops(replace=True)
    sender, receiver = looped.edges
    wide = gamma_linear(h, conv.lin.weight, None, gamma).reshape(g.n, conv.heads, -1)
    fixed = wide.detach()
    score = (fixed * conv.att_src.detach()).sum(-1)[sender]
    score = score + (fixed * conv.att_dst.detach()).sum(-1)[receiver]
    score = nn.functional.leaky_relu(score, conv.negative_slope)
    attention = torch.zeros_like(score)
    for k in range(g.n):
        mine = receiver == k
        attention[mine] = torch.softmax(score[mine], 0)
    z = looped.sum(attention[..., None] * wide[sender])
    z = z.flatten(1) if conv.concat else z.mean(1)
    return z + conv.bias.detach()


def res_gated(conv: Any, h: Tensor, g: Graph, gamma: float) -> Tensor:
    def linear(layer: Any, x: Tensor) -> Tensor:
        return gamma_linear(x, layer.weight, layer.bias, gamma)

    k, q = linear(conv.lin_key, h).detach(), linear(conv.lin_query, h).detach()
    gate = torch.sigmoid(k[g.edges[1]] + q[g.edges[0]])
    z = g.sum(gate * linear(conv.lin_value, h)[g.edges[0]])
    return z + linear(conv.lin_skip, h) + conv.bias.detach()


CONVOLUTIONS = {
    "GINConv": gin, "GINEConv": gine, "GCNConv": gcn, "SAGEConv": sage, "GraphConv": graph_conv,
    "GATConv": gat, "ResGatedGraphConv": res_gated,
}  # fmt: skip


def convolution(conv: nn.Module, h: Tensor, g: Graph, gamma: float) -> Tensor:
    return CONVOLUTIONS[type(conv).__name__](conv, h, g, gamma)


def norm(layer: Any, h: Tensor, batch: Tensor) -> Tensor:
    """Evaluated BatchNorm, GraphNorm and LayerNorm, with statistics held."""
    kind = type(layer).__name__
    if kind == "BatchNorm":
        bn = layer.module
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        return (h - bn.running_mean) * scale.detach() + bn.bias.detach()
    if kind == "LayerNorm" and layer.mode == "node":
        centred = h - h.mean(1, keepdim=True)
        spread = (centred**2).mean(1, keepdim=True).add(layer.eps).sqrt().detach()
        return centred / spread * layer.weight.detach() + layer.bias.detach()
    parts = []
    for k in range(int(batch.max()) + 1):
        mine = h[batch == k]
        fixed = mine.detach()
        if kind == "GraphNorm":
            mean = fixed.mean(0) * layer.mean_scale.detach()
            spread = ((fixed - mean) ** 2).mean(0).add(layer.eps).sqrt()
        else:
            mean = fixed.mean()
            spread = ((fixed - mean) ** 2).mean().add(layer.eps).sqrt()
        parts.append((mine - mean) / spread * layer.weight.detach() + layer.bias.detach())
    return torch.cat(parts)


def readout(h: Tensor, batch: Tensor) -> Tensor:
    """Sum, mean and maximum of every graph."""
    rows = []
    for k in range(int(batch.max()) + 1):
        mine = h[batch == k]
        rows.append(torch.cat([mine.sum(0), mine.mean(0), mine.amax(0)]))
    return torch.stack(rows)
