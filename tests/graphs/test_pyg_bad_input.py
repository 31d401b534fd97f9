"""PyG models and graphs that cannot be explained, and how they can be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs.pyg import explain_pyg, required_pyg
from neuralize.errors import InputError, NoRuleError, UnsupportedModelError

pyg = required_pyg()
EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 0, 3, 2, 3, 4]])
PARTS = [0, 0, 1, 1, 1]


def graph(**fields: Any) -> Any:
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return pyg.data.Data(**{"x": x, "edge_index": EDGES, **fields})


class Net(nn.Module):
    """``f`` between two convolutions; one output per graph."""

    def __init__(self, f: Callable[..., Any] | None = None, **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f = f
        self.conv1, self.conv2 = pyg.nn.GCNConv(3, 4), pyg.nn.GCNConv(4, 2)
        self.layers = nn.ModuleDict(layers)
        self.double()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.conv1(x, edge_index).relu()
        if self.f is not None:
            h, edge_index = self.f(self.layers, h, edge_index)
        found: Tensor = self.conv2(h, edge_index).sum(0, keepdim=True)
        return found


BAD_DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "no features": (lambda: graph(x=None), "data.x"),
    "whole numbers": (lambda: graph(x=torch.ones(5, 3, dtype=torch.int64)), "data.x"),
    "one dimension": (lambda: graph(x=torch.rand(5)), "data.x"),
    "no nodes": (lambda: graph(x=torch.rand(0, 3)), "data.x"),
    "NaN": (lambda: graph(x=torch.full((5, 3), torch.nan)), "finite"),
    "no edges": (lambda: graph(edge_index=None), "edge_index"),
    "transposed edges": (lambda: graph(edge_index=EDGES.T), "edge_index"),
    "edges out of range": (lambda: graph(edge_index=EDGES + 1), "nodes 0 to 4"),
    "negative edges": (lambda: graph(edge_index=EDGES - 1), "nodes 0 to 4"),
    "a tensor": (lambda: torch.rand(5, 3), "Data"),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_graphs_that_do_not_fit_are_refused(what: str) -> None:
    make, says = BAD_DATA[what]
    with pytest.raises(InputError, match=says):
        explain_pyg(Net(), make(), target=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "target among the 2"),
        ({"target": 2}, "target among the 2"),
        ({"target": 0, "index": 1}, "index among the 1"),
        ({"target": 0, "index": []}, "index among the 1"),
        ({"target": 0, "parts": [0, 1]}, r"parts \(5,\)"),
        ({"target": 0, "parts": [0.0] * 5}, "whole numbers"),
        ({"target": 0, "parts": [0, 0, 0, 0, -1]}, "from 0"),
        ({"target": 0, "parts": [True] * 5}, "whole numbers"),
    ],
)
def test_choices_that_do_not_fit_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        explain_pyg(Net(), graph(), **options)


def test_heterogeneous_graphs_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Heterogeneous"):
        explain_pyg(Net(), pyg.data.HeteroData(), target=0)


@pytest.mark.filterwarnings("ignore:.*Sparse.*:UserWarning")
def test_sparse_adjacencies_form_no_messages() -> None:
    adjacency = pyg.utils.to_torch_coo_tensor(EDGES, size=(5, 5)).double()
    for data in (graph(edge_index=adjacency), graph(adj_t=adjacency)):
        with pytest.raises(UnsupportedModelError, match="to_edge_index"):
            explain_pyg(Net(), data, target=0)

    def fuses(layers: Any, h: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        return h, adjacency

    with pytest.raises(UnsupportedModelError, match=r"'conv2' .GCNConv. has a sparse"):
        explain_pyg(Net(fuses), graph(), target=0)


def test_an_edge_index_object_is_explained_as_its_tensor() -> None:
    edges = pyg.EdgeIndex(EDGES, sparse_size=(5, 5))
    model = Net()
    found = explain_pyg(model, graph(edge_index=edges), target=0, parts=PARTS)
    expected = explain_pyg(model, graph(), target=0, parts=PARTS)
    assert torch.equal(found.values, expected.values)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = pyg.nn.GatedGraphConv(3, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        found: Tensor = self.conv(x, edge_index)
        return found


class Multiplied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = pyg.nn.SimpleConv(aggr="mul")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        found: Tensor = self.conv(x, edge_index)
        return found


@pytest.mark.parametrize(
    ("make", "says"), [(Gated, "gru_cell.*'conv.rnn'"), (Multiplied, "scatter_reduce_? .*prod")]
)
def test_what_has_no_rule_is_named(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(NoRuleError, match=says):
        explain_pyg(make().double(), graph(), target=0)


def with_mean(layers: Any, h: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    return h + h.mean(0, keepdim=True), edge_index


def with_virtual_node(layers: Any, h: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.zeros(len(h), dtype=torch.int64)
    return h + pyg.nn.global_max_pool(h, batch)[batch], edge_index


def normed(layers: Any, h: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    return layers["norm"](h), edge_index


@pytest.mark.parametrize(
    "make",
    [
        lambda: Net(with_mean),
        lambda: Net(with_virtual_node),
        lambda: Net(normed, norm=pyg.nn.PairNorm()),
        lambda: Net(normed, norm=pyg.nn.InstanceNorm(4)),
    ],
    ids=["mean", "virtual node", "PairNorm", "InstanceNorm"],
)
def test_borders_do_not_part_nodes_that_meet_beside_the_edges(make: Callable[[], Net]) -> None:
    model, data = make(), graph()
    whole = explain_pyg(model, data, target=0)  # without borders it is relevance like any other
    assert abs(whole.conservation_error) < 1e-10
    with pytest.raises(NoRuleError, match="beside the edges"):
        explain_pyg(model, data, target=0, parts=PARTS)


def test_norms_with_held_statistics_leave_borders_whole() -> None:
    model = Net(normed, norm=pyg.nn.GraphNorm(4))
    assert abs(explain_pyg(model, graph(), target=0, parts=PARTS).conservation_error) < 1e-10


def loops_added(layers: Any, h: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    h, edge_index, *_ = layers["pool"](h, edge_index)
    return h, pyg.utils.add_self_loops(edge_index, num_nodes=len(h))[0]


def own_pooling(layers: Any, h: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    return h[:3], edge_index[:, (edge_index < 3).all(0)]


def test_nodes_are_followed_through_pooling_or_refused() -> None:
    halved = Net(loops_added, pool=pyg.nn.TopKPooling(4, 0.5))
    assert abs(explain_pyg(halved, graph(), target=0, parts=PARTS).conservation_error) < 1e-10
    permuted = Net(loops_added, pool=pyg.nn.TopKPooling(4, 0.99))
    permuted.conv1.bias.data.fill_(1.0)
    permuted.layers["pool"].select.weight.data.fill_(-1.0)  # the smallest first
    for model, says in ((permuted, "several selections"), (Net(own_pooling), "known are 5")):
        assert abs(explain_pyg(model, graph(), target=0).conservation_error) < 1e-10
        for asked in ({"parts": PARTS}, {"edges": True}):
            with pytest.raises(UnsupportedModelError, match=says):
                explain_pyg(model, graph(), target=0, **asked)


class OfData(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, data: Any) -> Any:
        return self.net(data.x, data.edge_index)


class Odd(OfData):
    def forward(self, edges: Tensor, features: Tensor) -> Any:
        return self.net(features, edges)


def test_models_are_called_as_they_want_to_be() -> None:
    net, data = Net(), graph()
    expected = explain_pyg(net, data, target=0, parts=PARTS, edges=True)
    of_data = explain_pyg(OfData(net), data, target=0, parts=PARTS, edges=True)
    assert torch.equal(of_data.values, expected.values)
    assert expected.edges is not None and of_data.edges is not None
    assert torch.equal(of_data.edges, expected.edges)
    assert data.x.grad_fn is None and not data.x.requires_grad
    with pytest.raises(InputError, match=r"Odd\(edges, features\).*call=lambda"):
        explain_pyg(Odd(net), data, target=0)

    def call(model: nn.Module, x: Tensor, data: Any) -> Any:
        return model(data.edge_index, x)

    odd = explain_pyg(Odd(net), data, target=0, call=call)
    assert torch.equal(odd.values, explain_pyg(net, data, target=0).values)
    assert set(odd.absorbed) >= {"bias", "stabilizer"}


def test_a_model_that_fails_keeps_no_hooks() -> None:
    model = Net(with_mean)
    with pytest.raises(NoRuleError):
        explain_pyg(model, graph(), target=0, parts=PARTS)
    assert not any(
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if name.endswith("hooks")
    )
