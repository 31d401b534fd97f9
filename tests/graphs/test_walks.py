"""Walks, sets of cells and interactions against enumeration by the detach trick on tiny graphs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from graphs import explain, graph_composite, grid_partition, partition_by
from graphs.interactions import (
    coupling,
    matchings,
    neighbouring,
    phenotype_pairs,
    readout_shares,
)
from graphs.walks import all_walks, subgraph_relevance, top_walks, walk_relevance
from neuralize.errors import InputError
from tests.graphs.cohorts import cohort, network, table
from tests.graphs.detached import relevance
from tests.graphs.test_lrp import Ensemble, dense_inputs

TINY = {
    "gin": {"blocks": 2, "covariates": ("stage",)},
    "gcn": {"blocks": 2, "conv": "gcn"},
    "sage": {"blocks": 2, "conv": "sage", "norm": False},
    "pooled": {"blocks": 2, "pool_ratio": 0.6},
}


def tiny(name):
    graph = cohort(sizes=((4, 3),), k=1, seed=3)
    return graph, network(graph, hidden=5, **TINY[name])


def one_hot(n, cells):
    mask = torch.zeros(n, dtype=torch.float64)
    mask[list(cells)] = 1
    return mask


def oracle(net, graph, layers, readouts):
    _, x, a, sizes, covariates = dense_inputs(net, graph, graph.patient_names[0])
    return relevance(net, x, a, sizes, covariates, layer_mask=layers, readout_mask=readouts)[0]


@pytest.mark.parametrize("name", TINY)
def test_walks_equal_masked_passes_and_add_up_to_the_cells(name):
    graph, net = tiny(name)
    n = len(graph)
    total = np.zeros(n)
    for length in (1, 2):
        walks = all_walks(graph, length)
        found = walk_relevance(net, graph, walks, table(graph), chunk=7)
        for walk, value in zip(walks, found, strict=True):
            masks = [one_hot(n, [cell]) for cell in walk] + [None] * (2 - length)
            readouts = [None, *(torch.full((n,), float(k == length)).double() for k in (1, 2))]
            expected = oracle(net, graph, masks, readouts)
            assert value == pytest.approx(float(expected.sum()), abs=1e-12)
            total[walk[0]] += value
    whole = explain(net, graph, table(graph), progress=False)
    np.testing.assert_allclose(total, whole.cells, atol=1e-12)


@pytest.mark.parametrize("name", TINY)
def test_every_walk_of_a_part_is_counted_by_its_partition(name):
    """One pass over a partition against the enumeration of all walks of both lengths."""
    graph, net = tiny(name)
    partition = partition_by(graph, np.arange(len(graph)) // 2)
    expected = np.zeros(len(graph))
    across = 0.0
    for length in (1, 2):
        walks = all_walks(graph, length)
        found = walk_relevance(net, graph, walks, table(graph))
        inside = (partition.codes[walks] == partition.codes[walks[:, :1]]).all(1)
        np.add.at(expected, walks[inside, 0], found[inside])
        across += found[~inside].sum()
    found = explain(net, graph, table(graph), partition=partition, progress=False)
    np.testing.assert_allclose(found.cells, expected, atol=1e-12)
    whole = explain(net, graph, table(graph), progress=False)
    np.testing.assert_allclose(whole.cells.sum() - found.cells.sum(), across, atol=1e-12)
    # what crosses is absorbed at the border, before the biases further down take their share of it
    lost = sum(whole.absorbed[k][0] - found.absorbed[k][0] for k in ("bias", "stabilizer"))
    np.testing.assert_allclose(found.absorbed["across parts"][0], across + lost, atol=1e-12)


def test_all_walks_are_all_there_are():
    graph, _ = tiny("gin")
    linked = {(i, i) for i in range(len(graph))} | set(map(tuple, graph.edges.T.tolist()))
    for length in (1, 3):
        expected = [
            walk
            for walk in itertools.product(range(len(graph)), repeat=length + 1)
            if all(pair in linked for pair in itertools.pairwise(walk))
        ]
        assert sorted(map(tuple, all_walks(graph, length).tolist())) == expected


@pytest.mark.parametrize("outside", [0.0, 0.3, 1.0])
def test_sets_of_cells_equal_sums_over_walks(outside):
    graph, net = tiny("gin")
    chosen = [0, 2, 5]
    expected = 0.0
    for length in (1, 2):
        walks = all_walks(graph, length)
        found = walk_relevance(net, graph, walks, table(graph))
        out = (~np.isin(walks, chosen)).sum(1)
        touching = out <= length
        expected += (found * np.where(touching, outside**out, 0.0)).sum()
    found = subgraph_relevance(net, graph, chosen, table(graph), outside=outside)
    assert found == pytest.approx(expected, abs=1e-12)


def test_top_walks_are_the_largest():
    graph, net = tiny("gin")
    walks = all_walks(graph, 2)
    found = walk_relevance(net, graph, walks, table(graph))
    top = top_walks(net, graph, 4, table(graph))
    assert top.relevance.abs().tolist() == sorted(np.abs(found), reverse=True)[:4]
    names = [*graph.phenotype_names, "not known"]
    for walk, said in zip(top.walk, top.phenotypes, strict=True):
        assert said == " > ".join(names[graph.phenotypes[c]] for c in walk)


def test_phenotype_pairs_equal_masked_readouts_and_add_up():
    graph = cohort(sizes=((30, 20), (25,)))
    net = network(graph, covariates=("stage",))
    found = phenotype_pairs(net, graph, table(graph))
    whole = explain(net, graph, table(graph), progress=False)
    sums = found.groupby("patient", sort=False).relevance.sum()
    np.testing.assert_allclose(sums, whole.patient_sums, atol=1e-12)
    cells, x, a, sizes, covariates = dense_inputs(net, graph, "1")
    mask = torch.from_numpy((cells.phenotypes == 2).astype(float))
    expected, _ = relevance(net, x, a, sizes, covariates, readout_mask=[None, mask, mask, mask])
    for p in range(4):
        row = found[(found.patient == "1") & (found.source == f"type {p}")
                    & (found.readout == "type 2")]  # fmt: skip
        value = float(expected[cells.phenotypes == p].sum())
        assert row.relevance.item() == pytest.approx(value, abs=1e-12)


def test_readouts_share_what_the_head_leaves():
    graph = cohort(sizes=((30, 20), (25,)))
    net = network(graph, covariates=("stage",), readouts=("max", "mean"))
    found = readout_shares(net, graph, table(graph))
    assert list(found) == [f"layer {k} {kind}" for k in (1, 2, 3) for kind in ("max", "mean")]
    # with biases off below the readouts, what arrives there is what the cells get
    for block in net.blocks:
        for module in (block.conv.mlp[0], block.conv.mlp[2]):
            module.bias.data.zero_()
        block.norm.bias.data.zero_()
        block.norm.running_mean.zero_()
    net.encoder.bias.data.zero_()
    exact = graph_composite(0.25, 0.0)
    found = readout_shares(net, graph, table(graph), composite=exact)
    whole = explain(net, graph, table(graph), composite=exact, progress=False)
    np.testing.assert_allclose(found.sum(axis=1), whole.patient_sums, atol=1e-12)


def test_ensembles_by_mean_and_by_median():
    graph = cohort(sizes=((30,),))
    members = [network(graph, seed=s) for s in range(2)]
    both = phenotype_pairs(Ensemble(members, "mean"), graph)
    each = [phenotype_pairs(net, graph) for net in members]
    np.testing.assert_allclose(both.relevance, (each[0].relevance + each[1].relevance) / 2)
    with pytest.raises(InputError, match="by mean"):
        phenotype_pairs(Ensemble(members, "median"), graph)


def test_coupling_equals_merging_two_parts_at_a_time():
    graph = cohort(sizes=((60, 40), (30,)))
    net = network(graph, covariates=("stage",))
    partition = grid_partition(graph, 50)
    found = coupling(net, graph, partition, table(graph), progress=False)
    pairs, _ = neighbouring(graph, partition)
    assert len(found) == len(pairs) > 6
    alone = partition.sums(
        explain(net, graph, table(graph), partition=partition, progress=False).cells
    )
    for (g, h), value in zip(pairs, found.coupling, strict=True):
        labels = np.where(partition.codes == h, g, partition.codes)
        merged = explain(
            net, graph, table(graph), partition=partition_by(graph, labels), progress=False
        )
        together = merged.cells[np.isin(partition.codes, [g, h])].sum()
        assert value == pytest.approx(together - alone[g] - alone[h], abs=1e-12)


def test_rounds_use_no_part_twice():
    pairs = np.array(list(itertools.combinations(range(7), 2)))
    rounds = list(matchings(pairs))
    assert sorted(np.concatenate(rounds).tolist()) == list(range(len(pairs)))
    for chosen in rounds:
        assert len(np.unique(pairs[chosen])) == 2 * len(chosen)


def test_bad_input_is_refused():
    graph, net = tiny("gin")
    covariates = table(graph)
    with pytest.raises(InputError, match="1 to 2 steps"):
        walk_relevance(net, graph, [[0, 0, 0, 0]], covariates)
    with pytest.raises(InputError, match="cells from 0 to 6"):
        walk_relevance(net, graph, [[0, 9]], covariates)
    with pytest.raises(InputError, match="numbers of cells"):
        subgraph_relevance(net, graph, [], covariates)
    with pytest.raises(InputError, match="from 0 to 1"):
        subgraph_relevance(net, graph, [0], covariates, outside=2)
    two = cohort(sizes=((5,), (5,)))
    with pytest.raises(InputError, match="one patient"):
        top_walks(network(two), two)
    with pytest.raises(InputError, match="ensemble"):
        walk_relevance(Ensemble([net, net], "mean"), graph, [[0, 0]], covariates)
    big = cohort(sizes=((3000,),), k=6)
    with pytest.raises(InputError, match="at most 200000 walks"):
        all_walks(big, 3)
