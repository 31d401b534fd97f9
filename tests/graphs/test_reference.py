"""Relevance against a reference cell: conservation, a dense first layer, and the invariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphs import CellGraph, CellGraphNet, explain, graph_composite, graph_input
from graphs.lrp import Bag
from graphs.reference import FromReference, against, mean_cell
from graphs.routes import Route, following
from neuralize.errors import InputError
from neuralize.lrp import LRP

EXACT = {"dtype": torch.float64, "progress": False}


def cohort(seed: int = 0) -> CellGraph:
    dice = np.random.default_rng(seed)
    images = np.repeat([0, 1, 2], [9, 12, 7])
    pairs = dice.integers(0, 28, (2, 150))
    pairs = pairs[:, (images[pairs[0]] == images[pairs[1]]) & (pairs[0] != pairs[1])]
    return CellGraph(
        dice.uniform(0, 50, (28, 2)), dice.integers(0, 3, 28), ("T", "tumour", "stroma"), images,
        ("a1", "a2", "b1"), ("a", "a", "b"), np.concatenate([pairs, pairs[::-1]], 1),
    )  # fmt: skip


def net(seed: int = 0) -> CellGraphNet:
    torch.manual_seed(seed)
    made = CellGraphNet(in_features=3, hidden=8, blocks=2)
    for block in made.blocks:
        block.norm.running_mean.normal_()
        block.norm.running_var.uniform_(0.5, 2)
    return made.eval()


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_first_layer_by_loops_and_conservation(gamma: float) -> None:
    model, graph, m = net(), cohort(), np.array([0.5, 0.2, 0.3])
    found = explain(model, graph, composite=against(graph_composite(gamma), m), **EXACT)
    assert (found.relative_conservation_error < 1e-10).all()
    wide = net().double()
    for patient in graph.patient_names:
        mine = np.array(graph.patients)[graph.images] == patient
        data = graph_input(graph.patient(patient)).to(None, torch.float64)
        with following(Route(watched=frozenset([("layer", 0)]))) as route:
            trace = LRP(Bag(wide, data), graph_composite(gamma)).trace(data.x[None])
            trace.relevance(trace.output)
        r = route.seen["layer", 0].detach().numpy()
        w, b = wide.encoder.weight.detach().numpy(), wide.encoder.bias.detach().numpy()
        x = data.x.numpy()
        expected = np.zeros_like(x)
        for i in range(len(x)):
            for j in range(8):
                z = w[j] @ x[i] + b[j]
                z += 1e-6 * (1 if z >= 0 else -1)
                for a in range(3):
                    expected[i, a] += (x[i, a] - m[a]) * w[j, a] * r[i, j] / z
        assert np.allclose(found.values[mine], expected, rtol=0, atol=1e-10)


def test_how_the_encoder_shares_a_constant_does_not_matter() -> None:
    """Nor does it to the network; without a reference it changes the ranking of cells."""
    model, moved, graph = net(), net(), cohort()
    with torch.no_grad():
        v = torch.randn(8)
        moved.encoder.weight += v[:, None]
        moved.encoder.bias -= v
        same = graph_input(graph)
        assert torch.allclose(model(same), moved(same), atol=1e-6)
    bare = graph_composite(0.1)
    held = against(bare, mean_cell(graph))
    for composite, agrees in ((bare, False), (held, True)):
        one, two = (explain(k, graph, composite=composite, **EXACT).cells for k in (model, moved))
        assert np.allclose(one, two, atol=1e-4 * np.abs(one).max()) == agrees


def test_zero_is_no_reference() -> None:
    model, graph = net(), cohort()
    zero = explain(model, graph, composite=against(graph_composite(), np.zeros(3)), **EXACT)
    assert np.allclose(zero.cells, explain(model, graph, **EXACT).cells, atol=1e-12)


def test_mean_cell_counts_patients_alike() -> None:
    graph = cohort()
    rows = graph.inputs()
    of_patients = [rows[graph.patient_of_cell == p].mean(0) for p in range(2)]
    assert np.allclose(mean_cell(graph), np.mean(of_patients, 0), atol=1e-7)
    assert mean_cell(graph).sum() == pytest.approx(1)


def test_bad_references() -> None:
    with pytest.raises(
        InputError, match="reference of 3 numbers, one per feature of a cell, got 2"
    ):
        explain(net(), cohort(), composite=against(graph_composite(), np.zeros(2)), **EXACT)
    with pytest.raises(InputError, match="finite numbers"):
        against(graph_composite(), np.array([np.nan]))
    unknown = CellGraph(np.zeros((1, 2)), np.array([-1]), ("a",), np.zeros(1, int), ("i",), ("p",))
    with pytest.raises(InputError, match="none whose phenotype is known"):
        mean_cell(unknown)
    assert FromReference((0.5,)).epsilon == 1e-6
