"""Relevance over cell graphs against the detach trick, masks part by part, and its own accounts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from graphs import (
    CellGraph,
    CellGraphNet,
    explain,
    graph_composite,
    graph_input,
    grid_partition,
    grid_relevance,
    interaction_range,
    neighbourhoods,
    partition_by,
)
from graphs.relevance import averaged
from graphs.routes import Aggregation
from neuralize.errors import InputError, NoRuleError
from neuralize.rules.named import Ignore
from tests.graphs.cohorts import cohort, network, table
from tests.graphs.detached import relevance

NETWORKS = {
    "plain": {"norm": False, "skip": False, "readouts": ("mean",)},
    "gin": {"covariates": ("stage", "age")},
    "gcn": {"conv": "gcn", "covariates": ("stage",)},
    "sage": {"conv": "sage", "covariates": ("stage",)},
    "pooled": {"pool_ratio": 0.5, "covariates": ("stage", "age")},
    "pooled sage": {"conv": "sage", "pool_ratio": 0.4, "norm": False, "readouts": ("sum", "max")},
    "one block": {"blocks": 1, "readouts": ("max",)},
}


def dense_inputs(net: CellGraphNet, graph: CellGraph, patient: str):
    cells = graph.patient(patient)
    data = graph_input(cells, table(graph), net.config.covariates).to(dtype=torch.float64)
    a = torch.zeros(len(cells), len(cells), dtype=torch.float64)
    a[cells.edges[1], cells.edges[0]] = 1
    return cells, data.x, a, data.image_sizes, data.covariates


@pytest.mark.parametrize("gamma", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_equals_the_detach_trick(name, gamma):
    graph = cohort()
    net = network(graph, **NETWORKS[name])
    found = explain(net, graph, table(graph), composite=graph_composite(gamma), progress=False)
    for k, patient in enumerate(graph.patient_names):
        _, x, a, sizes, covariates = dense_inputs(net, graph, patient)
        expected, f = relevance(net, x, a, sizes, covariates, gamma)
        mine = graph.patient_of_cell == k
        np.testing.assert_allclose(found.log_hazard[k], f, rtol=1e-12)
        np.testing.assert_allclose(found.values[mine], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_accounts_add_up_with_everything_switched_on(name):
    graph = cohort()
    net = network(graph, **NETWORKS[name])
    for partition in (None, grid_partition(graph, 30), partition_by(graph, "region")):
        found = explain(net, graph, table(graph), partition=partition, progress=False)
        np.testing.assert_allclose(found.conservation_error, 0, atol=1e-12)
        assert found.relative_conservation_error.max() < 1e-12
        for covariate in net.config.covariates:
            assert np.abs(found.absorbed[f"covariate {covariate}"]).min() > 0
        assert ("across parts" in found.absorbed) == (partition is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_pass_equals_a_mask_for_every_part(name):
    """400 cells of one patient in two images; every part by its own masked passes."""
    graph = cohort(sizes=((250, 150),))
    net = network(graph, **NETWORKS[name])
    partition = grid_partition(graph, 25)
    assert len(partition) > 25
    found = explain(net, graph, table(graph), partition=partition, progress=False)
    _, x, a, sizes, covariates = dense_inputs(net, graph, "0")
    for part in range(len(partition)):
        mask = torch.from_numpy((partition.codes == part).astype(float))
        masks = [mask] * (net.config.blocks + 1)
        expected, _ = relevance(net, x, a, sizes, covariates, layer_mask=masks)
        inside = partition.codes == part
        np.testing.assert_allclose(found.values[inside], expected[inside], rtol=0, atol=1e-11)
        assert expected[~inside].abs().max() == 0


@pytest.mark.parametrize("name", ["gin", "pooled", "sage"])
def test_log_hazard_is_the_networks_own_and_unchanged_by_parts(name):
    graph = cohort()
    net = network(graph, **NETWORKS[name])
    data = graph_input(graph, table(graph), net.config.covariates).to(dtype=torch.float64)
    with torch.no_grad():
        own = net(data).numpy()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = grid_relevance(net, graph, 20, table(graph), progress=False)
    np.testing.assert_allclose(found.log_hazard, own, rtol=1e-12)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_one_part_is_no_partition_and_single_cells_leave_only_self_loops():
    graph = cohort()
    net = network(graph, **NETWORKS["gin"])
    whole = explain(net, graph, table(graph), progress=False)
    one = explain(
        net, graph, table(graph), partition=grid_partition(graph, 1e6, -1), progress=False
    )
    np.testing.assert_allclose(one.values, whole.values, atol=1e-14)
    np.testing.assert_allclose(one.absorbed["across parts"], 0, atol=1e-14)
    alone = explain(
        net, graph, table(graph), partition=partition_by(graph, np.arange(len(graph))),
        progress=False,
    )  # fmt: skip
    _, x, a, sizes, covariates = dense_inputs(net, graph, "1")
    cell = 7
    mask = torch.zeros(len(x), dtype=torch.float64)
    mask[cell] = 1
    expected, _ = relevance(net, x, a, sizes, covariates, layer_mask=[mask] * 4)
    mine = np.flatnonzero(graph.patient_of_cell == 1)
    np.testing.assert_allclose(alone.values[mine[cell]], expected[cell], atol=1e-12)


def test_gamma_zero_without_biases_is_gradient_times_input():
    graph = cohort(sizes=((60,),))
    net = network(graph, norm=False, skip=False, readouts=("mean",))
    for module in net.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.zero_()
    data = graph_input(graph).to(dtype=torch.float64)
    x = data.x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(net.of_features(x, data).sum(), x)
    found = explain(net, graph, composite=graph_composite(0.0, 0.0), progress=False)
    np.testing.assert_allclose(found.values, (grad * x).detach(), atol=1e-12)


def test_attention_of_a_single_image_changes_nothing():
    graph = cohort(sizes=((50,),))
    net = network(graph)
    before = explain(net, graph, progress=False)
    with torch.no_grad():
        net.attention[0].weight.mul_(-3)
    after = explain(net, graph, progress=False)
    np.testing.assert_allclose(before.values, after.values, atol=1e-14)


def test_offsets_average_the_grids():
    graph = cohort(sizes=((80,),))
    net = network(graph)
    found = grid_relevance(net, graph, 40, offsets=2, progress=False)
    grids = [
        explain(net, graph, partition=grid_partition(graph, 40, (a, b)), progress=False)
        for a in (0, 20) for b in (0, 20)
    ]  # fmt: skip
    np.testing.assert_allclose(found.values, np.mean([g.values for g in grids], 0), atol=1e-14)
    np.testing.assert_allclose(found.conservation_error, 0, atol=1e-12)


def test_interaction_range_rises_to_everything():
    graph = cohort()
    net = network(graph, **NETWORKS["gin"])
    curve = interaction_range(net, graph, [5, 50, 1e5], table(graph), progress=False)
    last = curve[curve.cell_size == 1e5]
    np.testing.assert_allclose(last.agreement, 1, atol=1e-9)
    np.testing.assert_allclose(last.across, 0, atol=1e-12)
    assert (curve.groupby("patient").agreement.first() < 0.999).all()
    assert last.parts.tolist() == [2, 1]


class Ensemble(nn.Module):
    def __init__(self, members, how):
        super().__init__()
        self.members, self.how = nn.ModuleList(members), how


@pytest.mark.parametrize("count", [3, 4])
def test_ensembles_are_explained_by_their_members(count):
    graph = cohort(sizes=((30,), (40,), (20,)))
    members = [network(graph, seed=s) for s in range(count)]
    single = [explain(net, graph, progress=False) for net in members]
    hazards = np.stack([one.log_hazard for one in single])
    mean = explain(Ensemble(members, "mean"), graph, progress=False)
    np.testing.assert_allclose(mean.log_hazard, hazards.mean(0), atol=1e-14)
    np.testing.assert_allclose(mean.values, np.mean([s.values for s in single], 0), atol=1e-14)
    median = explain(Ensemble(members, "median"), graph, progress=False)
    np.testing.assert_allclose(median.log_hazard, np.median(hazards, 0), atol=1e-14)
    for patient in range(3):
        ranked = np.argsort(hazards[:, patient])
        middle = [ranked[(count - 1) // 2], ranked[count // 2]]
        mine = graph.patient_of_cell == patient
        expected = np.mean([single[m].values[mine] for m in middle], 0)
        np.testing.assert_allclose(median.values[mine], expected, atol=1e-14)
    for found in (mean, median):
        np.testing.assert_allclose(found.conservation_error, 0, atol=1e-12)
    with pytest.raises(InputError, match="'mean' or 'median'"):
        explain(Ensemble(members, "mode"), graph, progress=False)


def test_groups_and_tables():
    graph = cohort()
    net = network(graph, **NETWORKS["gin"])
    found = grid_relevance(net, graph, 30, table(graph), progress=False)
    for group in ("phenotype", "region", "image", "part"):
        np.testing.assert_allclose(found.by(group).sum(axis=1), found.patient_sums, atol=1e-13)
    means = found.by("phenotype", "mean")
    mine = (graph.patient_of_cell == 1) & (graph.phenotypes == 2)
    assert means.loc["1", "type 2"] == pytest.approx(found.cells[mine].mean())
    assert list(means)[-1] == "not known"
    frame = found.to_frame()
    assert len(frame) == len(graph) and frame.relevance.sum() == pytest.approx(found.cells.sum())
    parts = found.parts()
    assert parts.cells.sum() == len(graph)
    np.testing.assert_allclose(parts.relevance.sum(), found.cells.sum())
    np.testing.assert_allclose(
        found.accounts().drop(columns="log_hazard").sum(axis=1), found.log_hazard, atol=1e-12
    )
    with pytest.raises(InputError, match="with a partition"):
        explain(net, graph, table(graph), progress=False).by("part")


def test_double_precision_explains_a_copy():
    graph = cohort(sizes=((300,),))
    net = network(graph, hidden=16).float()
    single = explain(net, graph, progress=False)
    double = explain(net, graph, dtype=torch.float64, progress=False)
    assert next(net.parameters()).dtype == torch.float32
    assert double.relative_conservation_error.max() < 1e-12
    assert single.relative_conservation_error.max() < 1e-4
    np.testing.assert_allclose(
        single.values, double.values, atol=1e-3 * np.abs(double.values).max()
    )


def test_training_mode_is_restored_and_not_explained():
    graph = cohort(sizes=((50,),))
    net = network(graph)
    expected = explain(net, graph, progress=False)
    net.train()
    found = explain(net, graph, progress=False)
    assert net.training and all(m.training for m in net.modules())
    np.testing.assert_allclose(found.values, expected.values)


def test_neighbourhoods_are_a_partition():
    graph = cohort()
    labels = neighbourhoods(graph, 3)
    partition = partition_by(graph, labels)
    assert set(labels) == {0, 1, 2} and partition.cells.sum() == len(graph)
    assert len(partition) <= 3 * len(graph.image_names)


def test_bad_input_is_refused():
    graph = cohort()
    net = network(graph, **NETWORKS["gin"])
    with pytest.raises(InputError, match="with edges"):
        explain(net, CellGraph(**{**vars(graph), "edges": None}), table(graph))
    with pytest.raises(InputError, match="patient '1'"):
        explain(net, graph, table(graph).iloc[:1])
    with pytest.raises(InputError, match="one row of covariates per patient, got '1' twice"):
        explain(net, graph, pd.concat([table(graph), table(graph).iloc[1:]]))
    with pytest.raises(InputError, match="covariates stage, age"):
        explain(net, graph)
    with pytest.raises(InputError, match="Expected finite covariates, got nan for 'age'"):
        broken = table(graph)
        broken.loc["1", "age"] = np.nan
        explain(net, graph, broken)
    with pytest.raises(InputError, match="partition of the graph's 150 cells"):
        explain(net, graph, table(graph), partition=grid_partition(graph.patient("1"), 10))
    with pytest.raises(InputError, match="features per cell"):
        explain(CellGraphNet(in_features=3), graph)
    for size in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="cell_size above 0"):
            grid_partition(graph, size)
    with pytest.raises(InputError, match="labels, one per cell"):
        partition_by(graph, np.zeros(3))
    with pytest.raises(InputError, match="CellGraphNet"):
        explain(nn.Linear(2, 2), graph)


def test_a_network_with_an_operation_without_rule_is_refused():
    graph = cohort(sizes=((30,),))
    net = network(graph)
    net.head[1] = _Odd()
    with pytest.raises(NoRuleError, match=r"head\.1"):
        explain(net, graph, progress=False)


class _Odd(nn.Module):
    def forward(self, x):
        return torch.special.gammaln(x.abs() + 1)


def test_averaged_keeps_shares_that_only_some_have():
    graph = cohort(sizes=((30,),))
    net = network(graph)
    both = averaged([
        explain(net, graph, progress=False), grid_relevance(net, graph, 20, progress=False)
    ])  # fmt: skip
    np.testing.assert_allclose(both.conservation_error, 0, atol=1e-12)


@pytest.mark.parametrize("conv", ["gin", "gcn", "sage"])
def test_every_layer_by_its_dense_jacobian(conv):
    """One block, layer by layer: ``R_in = h . J^T (R_out / z)`` with ``J`` from autograd."""
    graph = cohort(sizes=((12,),))
    net = network(graph, hidden=6, blocks=1, conv=conv, skip=False, readouts=("mean",))
    _, x, a, _, _ = dense_inputs(net, graph, "0")
    block, eye = net.blocks[0], torch.eye(len(a), dtype=torch.float64)
    if conv == "gin":
        steps = [lambda h: (a + eye) @ h, block.conv.mlp[0], torch.relu, block.conv.mlp[2]]
    elif conv == "gcn":
        d = (a + eye).sum(1) ** -0.5
        steps = [lambda h: (d[:, None] * (a + eye) * d) @ h, block.conv.linear]
    else:
        mean = a / a.sum(1, keepdim=True).clamp(min=1)
        steps = [lambda h: torch.cat([mean @ h, h], 1), block.conv.linear]
    scale = block.norm.weight / torch.sqrt(block.norm.running_var + block.norm.eps)
    shift = block.norm.bias - block.norm.running_mean * scale
    chain = [
        net.encoder, *steps, torch.relu, lambda h: h * scale + shift,
        lambda h: h.mean(0, keepdim=True), net.head[0], torch.relu, net.head[2], net.log_hazard,
    ]  # fmt: skip
    values = [x]
    with torch.no_grad():
        for f in chain:
            values.append(f(values[-1]))
    exact = explain(net, graph, composite=graph_composite(0.0, 0.0), progress=False)
    r = values[-1]
    for f, h, z in zip(reversed(chain), reversed(values[:-1]), reversed(values[1:]), strict=True):
        if f is not torch.relu:
            jacobian = torch.autograd.functional.jacobian(f, h)
            r = h * torch.tensordot(torch.where(z == 0, 0 * z, r / z), jacobian, dims=z.ndim)
    np.testing.assert_allclose(exact.values, r.detach(), rtol=0, atol=1e-12)


def test_ignored_sums_hand_on_nothing_and_keep_the_accounts():
    graph = cohort(sizes=((30,),))
    net = network(graph, skip=False, norm=False)
    rules = graph_composite().with_rules(layer_map=[(Aggregation, Ignore())])
    found = explain(net, graph, composite=rules, progress=False)
    assert not found.values.any() and abs(found.absorbed["ignored"][0]) > 0
    np.testing.assert_allclose(found.conservation_error, 0, atol=1e-12)
