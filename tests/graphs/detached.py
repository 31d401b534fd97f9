"""LRP on a CellGraphNet by the detach trick: dense matrices, plain loops, autograd, no engine.

A layer ``z`` is replaced by ``p * (z / stab(p)).detach()`` of the same value, where ``p`` is the
sum that its rule splits; gradient times input of the result is LRP. Walks are selected after a
layer by ``m h + (1 - m) h.detach()``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphs import CellGraphNet

EPSILON = 1e-6


def stab(p: Tensor, epsilon: float = EPSILON) -> Tensor:
    return p + epsilon * torch.where(p < 0, -1.0, 1.0).to(p)


def split(z: Tensor, p: Tensor) -> Tensor:
    """``z``, with the gradient of ``p`` times ``z / stab(p)``."""
    y = p * (z / stab(p)).detach()
    return y + (z - y).detach()


def linear(layer: nn.Linear, h: Tensor, gamma: float) -> Tensor:
    """Generalised gamma; with ``gamma = 0``, epsilon."""
    w, b = layer.weight.detach(), layer.bias
    b = torch.zeros(len(w)).to(w) if b is None else b.detach()
    z = h @ w.T + b
    up, down = h * (h > 0), h * (h < 0)

    def more(t: Tensor, sign: int) -> Tensor:
        return t + gamma * t * (t * sign > 0)

    above = up @ more(w, 1).T + down @ more(w, -1).T + more(b, 1)
    below = up @ more(w, -1).T + down @ more(w, 1).T + more(b, -1)
    return split(z, torch.where(z > 0, above, below))


def select(h: Tensor, mask: Tensor | None) -> Tensor:
    return h if mask is None else h * mask[:, None] + (1 - mask[:, None]) * h.detach()


def summed(a: Tensor, h: Tensor) -> Tensor:
    z = a @ h
    return split(z, z)


def hazard(
    net: CellGraphNet,
    x: Tensor,
    adjacency: Tensor,
    sizes: Sequence[int],
    covariates: Tensor,
    gamma: float,
    layer_mask: Sequence[Tensor | None] | None = None,
    readout_mask: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """The log hazard of one patient, whose gradient times ``x`` is its relevance."""
    config = net.config
    layer_mask = layer_mask or [None] * (config.blocks + 1)
    readout_mask = readout_mask or [None] * (config.blocks + 1)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    alive = torch.arange(len(x))
    h = select(linear(net.encoder, x, 0.0), layer_mask[0])
    total = torch.zeros(len(sizes), len(config.readouts) * config.hidden).to(x)
    for number, block in enumerate(net.blocks, 1):
        a = adjacency[alive][:, alive]
        conv = block.conv
        if config.conv == "gin":
            z = summed(a + torch.eye(len(a)).to(a), h)
            z = linear(conv.mlp[0], z, gamma)
            z = linear(conv.mlp[2], torch.relu(z.detach()) / nonzero(z.detach()) * z, gamma)
        elif config.conv == "gcn":
            loops = a + torch.eye(len(a)).to(a)
            d = loops.sum(1) ** -0.5
            z = linear(conv.linear, summed(d[:, None] * loops * d[None], h), gamma)
        else:
            degree = a.sum(1, keepdim=True)
            mean = torch.where(degree > 0, a / degree, torch.zeros_like(a))
            z = linear(conv.linear, torch.cat([summed(mean, h), h], 1), gamma)
        y = torch.relu(z.detach()) / nonzero(z.detach()) * z
        if config.skip:
            z = h + y
            y = split(z, z)
        if block.norm is not None:
            norm = block.norm
            s = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            z = y * s.detach() + (norm.bias - norm.running_mean * s).detach()
            y = split(z, z)
        if block.pool is not None:
            p = block.pool.direction.detach()
            score = (y @ p / p.norm()).detach()
            kept = []
            for image in range(len(sizes)):
                mine = torch.nonzero(owner[alive] == image)[:, 0]
                best = mine[torch.argsort(-score[mine])][: block.pool.kept(len(mine))]
                kept += sorted(best.tolist())
            y = y[kept] * torch.tanh(score[kept])[:, None]
            alive = alive[kept]
        mask = layer_mask[number]
        h = select(y, None if mask is None else mask[alive])
        mask = readout_mask[number]
        r = select(h, None if mask is None else mask[alive])
        rows = []
        for image in range(len(sizes)):
            mine = r[owner[alive] == image]
            found = []
            for kind in config.readouts:
                if kind == "max":
                    ties = (mine == mine.max(0).values).to(x)
                    found.append((mine * (ties / ties.sum(0)).detach()).sum(0))
                else:
                    z = mine.mean(0) if kind == "mean" else mine.sum(0)
                    found.append(split(z, z))
            rows.append(torch.cat(found))
        part = torch.stack(rows)
        z = total + part
        total = part if number == 1 else split(z, z)
    images = linear(net.head[0], total, 0.0)
    images = torch.relu(images.detach()) / nonzero(images.detach()) * images
    images = linear(net.head[2], images, 0.0)
    for k, layer in enumerate(net.covariates.values()):
        value = (covariates[0, k] - net.covariate_center[k]) / net.covariate_scale[k]
        z = images + (layer.weight[:, 0] * value).detach()
        images = split(z, z)
    weights = torch.softmax(net.attention(images.detach()), 0).detach()
    pooled = (weights * images).sum(0, keepdim=True)
    pooled = split(pooled, pooled)
    return linear(net.log_hazard, pooled, 0.0)[0, 0]


def nonzero(z: Tensor) -> Tensor:
    return torch.where(z == 0, torch.ones_like(z), z)


def relevance(
    net: CellGraphNet, x: Tensor, adjacency: Tensor, sizes: Sequence[int], covariates: Tensor,
    gamma: float = 0.25, layer_mask: Sequence[Tensor | None] | None = None,
    readout_mask: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Relevance ``(n, f)`` and the log hazard."""
    x = x.clone().requires_grad_()
    f = hazard(net, x, adjacency, sizes, covariates, gamma, layer_mask, readout_mask)
    (grad,) = torch.autograd.grad(f, x)
    return (grad * x).detach(), f.detach()
