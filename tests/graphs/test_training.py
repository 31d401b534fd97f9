"""Batches cut from a cohort are those built anew; training learns, stops and refuses."""

import copy
import warnings

import numpy as np
import pytest
import torch

from graphs import CellGraphNet, graph_input
from graphs.batches import PatientBatches, batches_with_events, block_diagonal
from graphs.datasets import planted_motif
from graphs.metrics import harrell
from graphs.survival import Outcome
from graphs.training import (
    GraphTraining,
    fit,
    predict,
    predict_batches,
    set_covariate_scale,
    train,
)
from neuralize.errors import InputError, TrainingError, TrainingWarning

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def cohort():
    return planted_motif(3, patients=12, images=2, cells=(50, 80))


@pytest.mark.parametrize("conv", ["gin", "gcn", "sage"])
def test_batches_are_those_built_anew(cohort, conv):
    table = cohort.patients
    data = PatientBatches(cohort.graph, table, ("stage", "age"), conv)
    batch = data.batch([7, 2, 3])
    # the same from parts of the graph
    net = CellGraphNet(in_features=6, hidden=8, conv=conv, covariates=("stage", "age")).eval()
    names = [cohort.graph.patient_names[k] for k in (7, 2, 3)]
    alone = [net(graph_input(cohort.graph.patient(n), table, ("stage", "age"))) for n in names]
    torch.testing.assert_close(net(batch), torch.cat(alone))
    # what was made once for the cohort is what would be made of the batch
    edges = batch.adjacency.dense()
    names = {"gin": "+1.0", "gcn": "symmetric", "sage": "mean"}
    form = batch.adjacency.__dict__["_made"][names[conv]]
    degree = edges.sum(1)
    looped = edges + torch.eye(len(edges))
    expected = {
        "gin": looped,
        "gcn": looped / torch.sqrt(torch.outer(degree + 1, degree + 1)),
        "sage": edges / degree.clamp(min=1)[:, None],
    }[conv]
    torch.testing.assert_close(form.dense(), expected)
    torch.testing.assert_close(form.transposed.dense(), expected.T)


def test_a_fold_of_a_cohort(cohort):
    table, names = cohort.patients, ("stage",)
    whole = PatientBatches(cohort.graph, table, names)
    rows = [1, 4, 5, 8]
    some = cohort.graph.patient(*(cohort.graph.patient_names[k] for k in rows))
    nets = []
    for data in (whole.of(rows), PatientBatches(some, table, names)):
        torch.manual_seed(0)
        nets.append(CellGraphNet(in_features=6, hidden=8, blocks=1, covariates=names))
        fit(nets[-1], data, cohort.outcome[rows], GraphTraining(epochs=2, **QUIET))
    found = [predict_batches(net, whole, size=5) for net in nets]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[0], predict(nets[0], cohort.graph, table), atol=1e-5)
    assert nets[0].covariate_center.item() == pytest.approx(table["stage"].iloc[rows].mean())


def test_directed_blocks_keep_their_transpose():
    from graphs.adjacency import Adjacency

    parts = [
        Adjacency.from_edges(torch.tensor([[0, 0, 2], [1, 2, 1]]), 3),
        Adjacency.from_edges(torch.tensor([[1], [0]]), 2),
    ]
    for part in parts:
        _ = part.transposed
    joined = block_diagonal(parts)
    assert torch.equal(joined.__dict__["transposed"].dense(), joined.dense().T)
    assert torch.equal(joined.dense(), torch.block_diag(*(p.dense() for p in parts)))


def test_images_are_drawn(cohort):
    data = PatientBatches(cohort.graph)
    generator = torch.Generator().manual_seed(0)
    drawn = {data.batch([0, 1], 1, generator).image_sizes for _ in range(20)}
    sizes = cohort.graph.cells_per_image
    assert drawn == {(a, b) for a in sizes[:2].tolist() for b in sizes[2:4].tolist()}


@pytest.mark.parametrize("size", [2, 5, 10, 40])
def test_no_batch_is_without_events(size):
    event = torch.zeros(40, dtype=torch.bool)
    event[[3, 17, 30]] = True
    found = batches_with_events(event, size, torch.Generator().manual_seed(1))
    assert sorted(k for rows in found for k in rows) == list(range(40))
    assert all(event[rows].any() for rows in found)
    assert max(map(len, found)) - min(map(len, found)) <= 2


def test_training_learns_and_leaves_random_state(cohort):
    torch.manual_seed(0)
    net = CellGraphNet(in_features=6, hidden=8, blocks=1, dropout=0.0)
    before, at_first = torch.random.get_rng_state(), predict(net, cohort.graph)
    losses = train(
        net, cohort.graph, cohort.outcome, training=GraphTraining(epochs=30, lr=0.01, **QUIET)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(losses) == 30 and losses[-1] < losses[0] - 0.1
    found = predict(net, cohort.graph)
    assert harrell(found.to_numpy(), cohort.outcome) > harrell(at_first.to_numpy(), cohort.outcome)
    assert found.index.tolist() == list(cohort.graph.patient_names)


def test_the_same_seed_gives_the_same_network(cohort):
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        net = CellGraphNet(in_features=6, hidden=8, blocks=1)
        plan = GraphTraining(epochs=2, batch_size=6, images_per_step=1, seed=seed, **QUIET)
        train(net, cohort.graph, cohort.outcome, training=plan)
        found.append(predict(net, cohort.graph, progress=False).to_numpy())
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_covariates_are_scaled_by_the_training_patients(cohort):
    some = cohort.graph.patient_names[:8]
    net = CellGraphNet(in_features=6, hidden=8, blocks=1, covariates=("age", "stage"))
    outcome = cohort.outcome.of(some)
    train(net, cohort.graph.patient(*some), outcome, cohort.patients, GraphTraining(1, **QUIET))
    ages = cohort.patients["age"].to_numpy()[:8]
    assert float(net.covariate_center[0]) == pytest.approx(ages.mean(), rel=1e-6)
    assert float(net.covariate_scale[0]) == pytest.approx(ages.std(), rel=1e-5)
    set_covariate_scale(net, torch.tensor([[60.0, 2.0], [60.0, 3.0]]))
    assert float(net.covariate_scale[0]) == 1.0


def test_double_precision(cohort):
    torch.manual_seed(0)
    net = CellGraphNet(in_features=6, hidden=8, blocks=1, covariates=("age",), dropout=0.0).double()
    single = copy.deepcopy(net).float()
    found = []
    for one, size in ((net, None), (single, 40)):
        train(one, cohort.graph, cohort.outcome, cohort.patients, GraphTraining(3, size, **QUIET))
        found.append(predict(one, cohort.graph, cohort.patients).to_numpy())
    assert net.encoder.weight.dtype == torch.float64
    np.testing.assert_allclose(*found, atol=1e-3)


def test_a_loss_that_is_not_finite(cohort):
    torch.manual_seed(0)
    net = CellGraphNet(in_features=6, hidden=8, blocks=1)
    epochs = iter(range(100))
    good = []

    def spoil(module, args, output):  # NaN from the third epoch on (one step each)
        if next(epochs) < 2:
            good.append({k: v.clone() for k, v in module.state_dict().items()})
            return output
        return output * float("nan")

    handle = net.log_hazard.register_forward_hook(spoil)
    plan = GraphTraining(epochs=5, batch_size=None, **QUIET)
    with pytest.warns(TrainingWarning, match="in epoch 3"):
        losses = train(net, cohort.graph, cohort.outcome, training=plan)
    assert len(losses) == 2
    assert all(bool(torch.isfinite(t).all()) for t in net.state_dict().values())
    with pytest.raises(TrainingError, match="first epoch"):
        train(net, cohort.graph, cohort.outcome, training=plan)
    handle.remove()


def test_bad_input(cohort):
    net = CellGraphNet(in_features=6, hidden=8, blocks=1)
    none = Outcome(cohort.outcome.patients, cohort.outcome.time, np.zeros(12))
    with pytest.raises(InputError, match="Training needs at least one event"):
        train(net, cohort.graph, none)
    with pytest.raises(InputError, match="images of every patient"):
        train(net, cohort.graph.patient("P000", "P001"), cohort.outcome)
    for bad in ({"epochs": 0}, {"batch_size": 1}, {"images_per_step": 0}, {"lr": 0.0}):
        with pytest.raises(InputError, match="Expected"):
            GraphTraining(**bad)


def test_no_warning_for_ties(cohort):
    tied = Outcome(cohort.outcome.patients, np.ceil(cohort.outcome.time / 500), np.ones(12))
    net = CellGraphNet(in_features=6, hidden=8, blocks=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(net, cohort.graph, tied, training=GraphTraining(epochs=1, **QUIET))
