"""PyG's layers with the weights of a CellGraphNet say the same of every cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphs import CellGraph, CellGraphNet, explain, graph_composite, grid_partition
from graphs.pyg import explain_pyg, pyg_composite, required_pyg
from graphs.routes import ACROSS
from neuralize.composites import Composite
from neuralize.engine.operations.elementwise import SumKind
from neuralize.rules.named import Norm

pyg = required_pyg()
N, H = 40, 6


class Same(nn.Module):
    """A CellGraphNet for one patient with one image, of PyG's layers."""

    def __init__(self, net: CellGraphNet) -> None:
        super().__init__()
        self.encoder, self.head, self.log_hazard = net.encoder, net.head, net.log_hazard
        self.convs = nn.ModuleList(self.conv(block.conv) for block in net.blocks)
        self.norms = nn.ModuleList(block.norm for block in net.blocks)
        self.pools = nn.ModuleList(self.pool(b.pool) for b in net.blocks if b.pool is not None)

    @staticmethod
    def conv(own: Any) -> nn.Module:
        kind = type(own).__name__
        if kind == "GIN":
            return pyg.nn.GINConv(own.mlp)  # type: ignore[no-any-return]
        conv = pyg.nn.GCNConv(H, H) if kind == "GCN" else pyg.nn.SAGEConv(H, H)
        with torch.no_grad():
            if kind == "GCN":
                conv.lin.weight.copy_(own.linear.weight)
                conv.bias.copy_(own.linear.bias)
            else:
                conv.lin_l.weight.copy_(own.linear.weight[:, :H])
                conv.lin_r.weight.copy_(own.linear.weight[:, H:])
                conv.lin_l.bias.copy_(own.linear.bias)
        return conv  # type: ignore[no-any-return]

    @staticmethod
    def pool(own: Any) -> nn.Module:
        pool = pyg.nn.TopKPooling(H, own.ratio)
        with torch.no_grad():
            pool.select.weight.copy_(own.direction[None])
        return pool  # type: ignore[no-any-return]

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        h = self.encoder(x)
        total: Any = 0
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = norm(h + conv(h, edge_index).relu())
            if self.pools:
                h, edge_index, _, batch, _, _ = self.pools[k](h, edge_index, batch=batch)
            read = [pyg.nn.global_max_pool(h, batch), pyg.nn.global_mean_pool(h, batch)]
            total = torch.cat(read, -1) + total
        hazard: Tensor = self.log_hazard(self.head(total))
        return hazard


def tissue() -> CellGraph:
    rng = np.random.default_rng(0)
    positions = rng.random((N, 2)) * 100
    far = ((positions[:, None] - positions[None]) ** 2).sum(-1)
    near = np.argsort(far, 1)[:, 1:4]
    one_way = {(int(a), k) for k, row in enumerate(near) for a in row}
    edges = np.array(sorted(one_way | {(b, a) for a, b in one_way})).T
    return CellGraph(
        positions, rng.integers(0, 3, N), ("T", "B", "tumour"), np.zeros(N, int), ("image",),
        ("patient",), edges=edges,
    )  # fmt: skip


def exact(composite: Composite) -> Composite:
    kinds = (SumKind, nn.AdaptiveAvgPool2d, nn.BatchNorm2d)
    return composite.with_rules(layer_map=[(kinds, Norm(0))])


@pytest.mark.parametrize("conv", ["gin", "gcn", "sage"])
@pytest.mark.parametrize("ratio", [None, 0.6])
def test_pyg_layers_and_our_own_agree_cell_by_cell(conv: Any, ratio: float | None) -> None:
    torch.manual_seed(1)
    net = CellGraphNet(in_features=3, hidden=H, blocks=2, conv=conv, pool_ratio=ratio).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    cells = tissue()
    edges = torch.from_numpy(cells.require_edges())
    data = pyg.data.Data(torch.from_numpy(cells.inputs()).double(), edges)
    data.batch = torch.zeros(N, dtype=torch.int64)
    model = Same(net.eval()).double()
    grid = grid_partition(cells, 30)
    for partition in (None, grid):
        own = explain(
            net, cells, partition=partition, composite=exact(graph_composite(0.25, 0.0)),
            dtype=torch.float64,
        )  # fmt: skip
        found = explain_pyg(
            model, data, parts=None if partition is None else partition.codes,
            composite=exact(pyg_composite(model, 0.25, 0.0)),
        )  # fmt: skip
        size = np.abs(own.values).sum()
        assert found.evidence == pytest.approx(float(own.log_hazard[0]), rel=1e-10)
        np.testing.assert_allclose(found.values.numpy(), own.values, atol=1e-11 * size)
        if partition is not None:
            across = float(own.absorbed[ACROSS][0])
            assert found.absorbed[ACROSS] == pytest.approx(across, abs=1e-10 * size)
            assert abs(across) > 1e-4 * size
