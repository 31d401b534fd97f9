"""PyG models through the engine, against layers written again edge by edge."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs.pyg import ConvComposite, explain_pyg, pyg_composite, required_pyg
from graphs.pyg.layers import CENTRE
from graphs.routes import ACROSS
from neuralize.composites import Composite
from neuralize.engine.operations.elementwise import SumKind
from neuralize.rules.named import Norm
from tests.graphs import pyg_oracle as oracle

pyg = required_pyg()
N, F, H, K = 12, 4, 6, 3
PARTS = torch.tensor([0, 0, 1, 1, 1, 2, 0, 3, 3, 4, 3, 4])
BATCH = torch.tensor([0] * 7 + [1] * 5)


def mlp(a: int, b: int) -> nn.Module:
    return nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b))


CONVS: dict[str, Callable[[int, int], nn.Module]] = {
    "GIN": lambda a, b: pyg.nn.GINConv(mlp(a, b), eps=0.3, train_eps=True),
    "GINE": lambda a, b: pyg.nn.GINEConv(mlp(a, b), edge_dim=2),
    "GCN": pyg.nn.GCNConv,
    "GCN without bias": lambda a, b: pyg.nn.GCNConv(a, b, bias=False),
    "SAGE": pyg.nn.SAGEConv,
    "SAGE max": lambda a, b: pyg.nn.SAGEConv(a, b, aggr="max"),
    "GraphConv": pyg.nn.GraphConv,
    "GAT": lambda a, b: pyg.nn.GATConv(a, b // 2, heads=2, dropout=0.3),
    "GAT mean": lambda a, b: pyg.nn.GATConv(a, b, heads=3, concat=False),
    "ResGated": pyg.nn.ResGatedGraphConv,
}
WEIGHTED = ("GCN", "GraphConv")


class Net(nn.Module):
    """Two convolutions, norm, pooling and jumping knowledge where given, three readouts, a head."""

    def __init__(self, conv: str, norm: Any = None, pool: Any = None, jump: str = "") -> None:
        super().__init__()
        self.conv1, self.conv2 = CONVS[conv](F, H), CONVS[conv](H, H)
        self.norm, self.pool, self.dropout = norm, pool, nn.Dropout(0.5)
        self.jump = pyg.nn.JumpingKnowledge(jump) if jump else None
        self.head = nn.Linear(3 * H * (2 if jump == "cat" else 1), K)

    def forward(
        self, x: Tensor, edge_index: Tensor, batch: Tensor, edge_weight: Any = None,
        edge_attr: Any = None,
    ) -> Any:  # fmt: skip
        more = [t for t in (edge_weight, edge_attr) if t is not None]
        first = h = self.conv1(x, edge_index, *more).relu()
        if self.norm is not None:
            h = self.norm(h) if isinstance(self.norm, pyg.nn.BatchNorm) else self.norm(h, batch)
        if self.pool is not None:
            h, edge_index, kept, batch, _, _ = self.pool(h, edge_index, *more, batch=batch)
            more = [] if kept is None else [kept]
        h = self.dropout(self.conv2(h, edge_index, *more).relu())
        if self.jump is not None:
            h = self.jump([first, h])
        read = (pyg.nn.global_add_pool, pyg.nn.global_mean_pool, pyg.nn.global_max_pool)
        return self.head(torch.cat([pool(h, batch) for pool in read], -1))

    def as_oracle(self, x: Tensor, g: oracle.Graph, batch: Tensor, gamma: float) -> Tensor:
        """The same, such that gradient times input is its relevance."""
        first = h = oracle.convolution(self.conv1, x, g, gamma).relu()
        if self.norm is not None:
            h = oracle.norm(self.norm, h, batch)
        if self.pool is not None:
            kept, score = selected(self.pool, h.detach(), g, batch)
            h, g, batch = h[kept] * score[:, None], g.among(kept), batch[kept]
        h = oracle.convolution(self.conv2, h, g, gamma).relu()
        if self.jump is not None:
            both = [first, h]
            h = torch.cat(both, -1) if self.jump.mode == "cat" else torch.stack(both).amax(0)
        return oracle.readout(h, batch) @ self.head.weight.detach().T + self.head.bias.detach()


def selected(pool: Any, h: Tensor, g: oracle.Graph, batch: Tensor) -> tuple[Tensor, Tensor]:
    """What TopK and SAG pooling keep of each graph, best first, and their gates."""
    if isinstance(pool, pyg.nn.SAGPooling):
        bare = oracle.Graph(g.edges, g.n)
        score = oracle.graph_conv(pool.gnn, h, bare, 0)[:, 0] * pool.select.weight[0, 0].sign()
    else:
        score = h @ pool.select.weight[0] / pool.select.weight.norm()
    score = torch.tanh(score).detach()
    kept = []
    for k in range(int(batch.max()) + 1):
        mine = (batch == k).nonzero().flatten()
        best = sorted(mine.tolist(), key=lambda i: -float(score[i]))
        kept += best[: math.ceil(pool.ratio * len(mine))]
    return torch.tensor(kept), score[kept]


def scattered(model: nn.Module, seed: int = 0) -> nn.Module:
    """In double precision, with parameters and statistics of no special value."""
    torch.manual_seed(seed)
    model = model.double().eval()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim <= 1:
            value.uniform_(0.5, 1.5) if "var" in name or "weight" in name else value.normal_(0, 0.3)
    return model


def data_for(conv: str, seed: int = 3) -> Any:
    """Two graphs in a batch, with a self-loop, an edge given twice and a node without edges."""
    g = torch.Generator().manual_seed(seed)
    left = torch.randint(0, 7, (2, 16), generator=g)
    right = torch.randint(7, 11, (2, 9), generator=g)
    edges = torch.cat([left, right, torch.tensor([[2, 3], [2, 4]]), left[:, :1]], 1)
    x = torch.randn(N, F, dtype=torch.float64, generator=g)
    data = pyg.data.Data(x, edges, batch=BATCH)
    e = edges.shape[1]
    if conv in WEIGHTED:
        data.edge_weight = torch.rand(e, dtype=torch.float64, generator=g) + 0.2
    if conv == "GINE":
        data.edge_attr = torch.randn(e, 2, dtype=torch.float64, generator=g)
    return data


def exact(model: nn.Module, gamma: float) -> Composite:
    kinds = (SumKind, nn.AdaptiveAvgPool2d, nn.BatchNorm2d, nn.LayerNorm)
    return pyg_composite(model, gamma, 0.0).with_rules(layer_map=[(kinds, Norm(0))])


def graph_of(data: Any, parts: Tensor | None = None) -> oracle.Graph:
    weights, attributes = data.get("edge_weight"), data.get("edge_attr")
    return oracle.Graph(data.edge_index, N, parts, weights, attributes)


def by_gradient(
    model: Net, data: Any, gamma: float, index: int, target: int, parts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    x = data.x.clone().requires_grad_()
    output = model.as_oracle(x, graph_of(data, parts), BATCH, gamma)
    (gradient,) = torch.autograd.grad(output[index, target], x)
    return output.detach(), gradient * data.x


VARIANTS: dict[str, Callable[[], Net]] = {
    **{name: (lambda name=name: Net(name)) for name in CONVS},
    "BatchNorm": lambda: Net("GIN", norm=pyg.nn.BatchNorm(H)),
    "GraphNorm": lambda: Net("GCN", norm=pyg.nn.GraphNorm(H)),
    "LayerNorm": lambda: Net("SAGE", norm=pyg.nn.LayerNorm(H)),
    "LayerNorm of nodes": lambda: Net("SAGE", norm=pyg.nn.LayerNorm(H, mode="node")),
    "TopK": lambda: Net("GCN", pool=pyg.nn.TopKPooling(H, 0.5)),
    "TopK, GIN, norm": lambda: Net("GIN", pyg.nn.BatchNorm(H), pyg.nn.TopKPooling(H, 0.5)),
    "TopK of all, in another order": lambda: Net("GCN", pool=pyg.nn.TopKPooling(H, 0.99)),
    "SAG": lambda: Net("SAGE", pool=pyg.nn.SAGPooling(H, 0.5)),
    "jump cat": lambda: Net("GIN", jump="cat"),
    "jump max": lambda: Net("SAGE", jump="max"),
}


def conv_of(name: str) -> str:
    kinds = {"GINConv": "GIN", "GCNConv": "GCN", "GraphConv": "GraphConv"}
    return name if name in CONVS else kinds.get(type(VARIANTS[name]().conv1).__name__, "SAGE")


@pytest.mark.parametrize("parts", [None, PARTS], ids=["whole", "parts"])
@pytest.mark.parametrize("name", VARIANTS)
def test_relevance_is_that_of_the_layers_written_edge_by_edge(
    name: str, parts: Tensor | None
) -> None:
    model, data = scattered(VARIANTS[name]()), data_for(conv_of(name))
    assert isinstance(model, Net)
    for gamma, index, target in ((0.0, 0, 2), (0.25, 1, 0), (2.0, 0, 1)):
        output, expected = by_gradient(model, data, gamma, index, target, parts)
        found = explain_pyg(
            model, data, index=index, target=target, parts=parts, composite=exact(model, gamma)
        )
        torch.testing.assert_close(found.output, output, atol=1e-10, rtol=1e-10)
        size = float(expected.abs().sum())
        assert size > 1e-6
        torch.testing.assert_close(found.values, expected, atol=1e-10 * size, rtol=0)
        assert abs(found.conservation_error) < 1e-10 * size
        assert (ACROSS in found.absorbed) == (parts is not None)


@pytest.mark.parametrize("name", VARIANTS)
def test_one_pass_holds_what_a_mask_per_part_would(name: str) -> None:
    """sGNN-LRP: the mask of one part after every layer, part after part."""
    model, data = scattered(VARIANTS[name]()), data_for(conv_of(name))
    found = explain_pyg(
        model, data, index=0, target=1, parts=PARTS, composite=exact(model, 0.25), edges=True
    )
    for part in range(5):
        # every other part is cut into single nodes: what stays in this one is the same
        alone = torch.where(part == PARTS, 0, torch.arange(N) + 1)
        _, mine = by_gradient(model, data, 0.25, 0, 1, alone)  # type: ignore[arg-type]
        expected = float(mine[part == PARTS].sum())
        size = float(found.values.abs().sum())
        assert abs(float(found.of_parts[part]) - expected) < 1e-10 * size


@pytest.mark.parametrize("name", CONVS)
def test_nodes_without_any_edges_explain_themselves(name: str) -> None:
    model, data = scattered(VARIANTS[name]()), data_for(name)
    data.edge_index = data.edge_index[:, :0]
    for key in ("edge_weight", "edge_attr"):
        if key in data:
            data[key] = data[key][:0]
    _, expected = by_gradient(model, data, 0.25, 0, 1)  # type: ignore[arg-type]
    for parts in (None, PARTS):
        found = explain_pyg(
            model, data, index=0, target=1, parts=parts, composite=exact(model, 0.25), edges=True
        )
        size = float(expected.abs().sum())
        torch.testing.assert_close(found.values, expected, atol=1e-10 * size, rtol=0)
        assert found.edges is not None and found.edges.shape == (0,)
        assert found.absorbed.get(ACROSS, 0.0) == 0.0


@pytest.mark.parametrize("name", VARIANTS)
def test_default_rules_conserve_and_leave_the_output_alone(name: str) -> None:
    model, data = scattered(VARIANTS[name](), 1), data_for(conv_of(name), 4)
    more = {k: data[k] for k in ("edge_weight", "edge_attr") if k in data}
    with torch.no_grad():
        plain = model(data.x, data.edge_index, data.batch, **more)
    for parts in (None, PARTS):
        found = explain_pyg(model, data, index=1, target=1, parts=parts)
        torch.testing.assert_close(found.output, plain, atol=1e-12, rtol=1e-12)
        assert found.evidence == pytest.approx(float(plain[1, 1]), rel=1e-12)
        assert abs(found.conservation_error) < 1e-10
        assert not found.values[BATCH == 0].any()  # the other graph has no say


def test_the_share_of_edge_features_and_of_a_mean_have_their_names() -> None:
    model, data = scattered(VARIANTS["GINE"]()), data_for("GINE")
    assert explain_pyg(model, data, target=0).absorbed["edge features"] != 0
    model, data = scattered(VARIANTS["GraphNorm"]()), data_for("GCN")
    absorbed = explain_pyg(model, data, target=0).absorbed
    assert absorbed[CENTRE] != 0 and absorbed["norm.bias"] != 0


def test_without_gamma_the_order_of_sum_and_weights_does_not_matter() -> None:
    """GCNConv is put in order for gamma's sake; with Epsilon PyG's own order says the same."""

    class Own(pyg.nn.GCNConv):  # type: ignore[misc, name-defined]
        """Not the class that is put in order."""

    model, data = scattered(VARIANTS["GCN"]()), data_for("GCN")
    other = copy.deepcopy(model)
    other.conv1.__class__ = other.conv2.__class__ = Own
    for gamma, same in ((0.0, True), (0.5, False)):
        a, b = (
            explain_pyg(m, data, target=0, composite=exact(m, gamma)).values for m in (model, other)
        )
        assert torch.allclose(a, b, atol=1e-10) == same


class Nodes(nn.Module):
    """An output per node."""

    def __init__(self) -> None:
        super().__init__()
        self.gnn = pyg.nn.GCN(F, H, 2, K)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Any = None) -> Tensor:
        found: Tensor = self.gnn(x, edge_index, edge_weight=edge_weight)
        return found


def test_an_output_per_node_is_explained_within_its_reach() -> None:
    model, data = scattered(Nodes()), data_for("GCN")
    found = explain_pyg(model, data, index=9, target=2)
    near, *_ = pyg.utils.k_hop_subgraph(9, 2, data.edge_index)
    far = torch.ones(N, dtype=torch.bool)
    far[near] = False
    assert far.any() and not found.values[far].any() and found.values[near].any()
    both = explain_pyg(model, data, index=[9, 2], target=2)
    other = explain_pyg(model, data, index=2, target=2)
    torch.testing.assert_close(both.values, found.values + other.values)
    assert both.evidence == pytest.approx(found.evidence + other.evidence)


def test_edges_carry_what_arrives_at_their_messages() -> None:
    """One layer: what goes along an edge is what its message hands to its sender."""
    torch.manual_seed(0)

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = pyg.nn.GCNConv(F, 1, bias=False)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            found: Tensor = self.conv(x, edge_index)
            return found

    model = One().double()
    # an edge given twice, one back, a loop, which PyG replaces by its own, and a node without edges
    edges = torch.tensor([[0, 0, 1, 2, 3, 3], [1, 1, 0, 2, 1, 2]])
    data = pyg.data.Data(data_for("GIN").x[:5], edges)
    found = explain_pyg(model, data, edges=True, composite=exact(model, 0.0))
    graph = oracle.Graph(edges, 5).with_loops()
    degree = torch.bincount(graph.edges[1], minlength=5)
    weight = model.conv.lin.weight.detach()[0]
    sent, received = edges
    expected = data.x[sent] @ weight / (degree[sent] * degree[received]).sqrt()
    torch.testing.assert_close(found.edges, expected)
    loops = float((data.x @ weight / degree)[[0, 1, 3, 4]].sum())
    assert found.evidence == pytest.approx(float(expected.sum()) + loops)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "GATv2": lambda: pyg.nn.GATv2Conv(F, 4, heads=2),
    "Transformer": lambda: pyg.nn.TransformerConv(F, 8, beta=True),
    "MFConv": lambda: pyg.nn.MFConv(F, 8),  # a linear map per degree, some of no node
    "EdgeConv": lambda: pyg.nn.EdgeConv(mlp(2 * F, 8)),
    "Cheb": lambda: pyg.nn.ChebConv(F, 8, 3),
    "ARMA": lambda: pyg.nn.ARMAConv(F, 8, num_stacks=2),
    "SAGE soft": lambda: pyg.nn.SAGEConv(F, 8, aggr="softmax"),
    "SAGE of several": lambda: pyg.nn.SAGEConv(F, 8, aggr=["mean", "max", "min"]),
    "U-Net": lambda: pyg.nn.GraphUNet(F, H, 8, 2),
    "GIN with norms": lambda: pyg.nn.GIN(F, H, 2, 8, norm="batch_norm", jk="cat"),
}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse:UserWarning")  # PyG's GraphUNet squares edges
@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_run_operation_by_operation_and_conserve(name: str) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = OTHERS[name](), nn.Linear(8, 2)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            read = self.layer(x, edge_index).relu().mean(0, keepdim=True)
            found: Tensor = self.head(read)
            return found

    model, data = scattered(Wrapped()), data_for("GIN")
    with torch.no_grad():
        plain = model(data.x, data.edge_index)
    for parts in (None, PARTS):
        found = explain_pyg(model, data, target=1, parts=parts, edges=True)
        torch.testing.assert_close(found.output, plain, atol=1e-12, rtol=1e-12)
        assert abs(found.conservation_error) < 1e-10
        assert found.nodes.abs().max() > 0


def test_the_model_is_left_as_it_was() -> None:
    model = scattered(Net("GCN", pyg.nn.GraphNorm(H), pyg.nn.TopKPooling(H, 0.5)))
    cached = pyg.nn.GCNConv(F, H, cached=True).double()
    model.conv1 = cached
    model.train()
    model.pool.eval()
    state = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    hooks = count_hooks(model)
    explain_pyg(model, data_for("GCN"), target=0, parts=PARTS, edges=True)
    assert count_hooks(model) == hooks == 0
    assert [m.training for m in model.modules()] == modes
    assert cached._cached_edge_index is None
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def count_hooks(model: nn.Module) -> int:
    total = 0
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith("hooks") and value is not None:
                total += len(value)
    return total


def test_double_precision_explains_a_copy() -> None:
    model = scattered(Net("GIN")).float()
    data = data_for("GIN")
    data.x = data.x.float()
    found = explain_pyg(model, data, target=0, dtype=torch.float64)
    assert found.values.dtype == torch.float64 and abs(found.conservation_error) < 1e-12
    assert next(model.parameters()).dtype == torch.float32 and data.x.dtype == torch.float32


def test_composites_are_by_path_and_can_be_changed() -> None:
    model = Net("GIN")
    composite = pyg_composite(model, 0.5)
    assert isinstance(composite, ConvComposite)
    assert composite.convolutions == ("conv1", "conv2")
    layer = model.conv1.nn[0]
    found = composite.rule("conv1.nn.0", layer, nn.Linear, True)
    assert str(found) == "Gamma" and found != composite.rule("head", model.head, nn.Linear, False)
    assert str(composite.rule("conv10.nn.0", layer, nn.Linear, True)) == "Epsilon"
