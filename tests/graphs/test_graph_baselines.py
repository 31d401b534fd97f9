"""Baselines against finite differences, closed forms, and what GNNExplainer must find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphs import CellGraph, CellGraphNet, GraphInput, concatenated, explain, graph_input
from graphs.baselines import (
    degree,
    gnn_explainer,
    gradient_x_input,
    integrated_gradients,
    random_scores,
    squared_gradient,
)
from graphs.evaluation import log_hazards
from neuralize.composites import epsilon
from neuralize.errors import InputError


def line(n: int, patient: str, seed: int = 0) -> CellGraph:
    """Cells in a row, each beside the next."""
    dice = np.random.default_rng(seed)
    edges = np.array([[i, i + 1] for i in range(n - 1)]).T
    return CellGraph(
        np.stack([np.arange(n), np.zeros(n)], 1), dice.integers(-1, 2, n), ("T", "tumour"),
        np.zeros(n, int), (f"{patient}_1",), (patient,),
        np.concatenate([edges, edges[::-1]], 1), dice.normal(size=(n, 1)), ("marker",),
    )  # fmt: skip


COHORT = concatenated([line(6, "a"), line(9, "b", 1)])


def net(**options: object) -> CellGraphNet:
    torch.manual_seed(0)
    made = CellGraphNet(in_features=3, hidden=6, blocks=2, **options).double()
    for block in made.blocks:
        if block.norm is not None:
            block.norm.running_mean.normal_()
            block.norm.running_var.uniform_(0.5, 2)
    return made


def differences(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """``df/dx`` of the sum of log hazards, by central differences."""
    found = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * 1e-6
            found[at] += sign * log_hazards(model, COHORT, x=moved).sum() / 2e-6
    return found


def test_gradients_against_differences() -> None:
    model, x = net(), COHORT.inputs().astype(np.float64)
    gradient = differences(model, x)
    assert np.allclose(gradient_x_input(model, COHORT), (x * gradient).sum(1), atol=1e-7)
    assert np.allclose(squared_gradient(model, COHORT), (gradient**2).sum(1), atol=1e-7)


def test_gradient_x_input_is_epsilon_without_normalisation_and_biases() -> None:
    """Where every map is linear and has no bias, LRP-0 is gradient x input (up to stabilizers)."""
    model = net(norm=False)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(p)
    # attention's weights are held constant by LRP and not by the gradient: with one image per
    # patient they are 1
    found = explain(model, COHORT, composite=epsilon(0.0), dtype=torch.float64, progress=False)
    assert np.allclose(found.cells, gradient_x_input(model, COHORT), atol=3e-5)
    assert np.abs(found.cells).max() > 1e-2


def test_integrated_gradients_are_complete() -> None:
    """They add up to the difference between the features' and the baseline's log hazard."""
    model, baseline = net(), np.array([0.3, 0.5, -0.2])
    for start in (None, baseline):
        found = integrated_gradients(model, COHORT, baseline=start, steps=200)
        x = np.broadcast_to(np.zeros(3) if start is None else start, (len(COHORT), 3))
        expected = log_hazards(model, COHORT) - log_hazards(model, COHORT, x=x.copy())
        assert np.allclose(np.bincount(COHORT.patient_of_cell, found), expected, atol=1e-2)


def test_integrated_gradients_of_one_step_are_gradients_at_the_middle() -> None:
    model, x = net(), COHORT.inputs().astype(np.float64)
    found = integrated_gradients(model, COHORT, steps=1)
    assert np.allclose(found, (x * differences(model, x / 2)).sum(1), atol=1e-7)


def test_degree_and_random() -> None:
    assert degree(net(), COHORT)[:6].tolist() == [1, 2, 2, 2, 2, 1]
    assert np.array_equal(
        random_scores(net(), COHORT, seed=3), random_scores(net(), COHORT, seed=3)
    )
    assert not np.array_equal(
        random_scores(net(), COHORT, seed=3), random_scores(net(), COHORT, seed=4)
    )


class TwoCells(nn.Module):
    """Reads two cells of each patient and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def of_features(self, x: Tensor, data: GraphInput) -> Tensor:
        return torch.stack([3 * (p[1] + p[4]) @ self.w for p in x.split(list(data.image_sizes))])


def test_gnn_explainer_finds_the_cells_that_are_read() -> None:
    pytest.importorskip("torch_geometric", exc_type=ImportError)
    graph = COHORT
    graph = CellGraph(
        graph.positions, np.zeros(len(graph), int), ("T", "tumour"), graph.images,
        graph.image_names, graph.patients, graph.edges, np.ones((len(graph), 1)), ("marker",),
    )  # fmt: skip
    model = TwoCells()
    before = torch.random.get_rng_state()
    found = gnn_explainer(model, graph, epochs=60, lr=0.05, progress=False)
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.w.requires_grad
    assert model.w.grad is None
    assert found.shape == (15,)
    assert ((found >= 0) & (found <= 1)).all()
    read = np.zeros(15, bool)
    read[[1, 4, 7, 10]] = True
    assert found[read].min() > found[~read].max() + 0.3
    assert np.array_equal(found, gnn_explainer(model, graph, epochs=60, lr=0.05, progress=False))


def test_covariates_reach_the_baselines() -> None:
    import pandas as pd

    torch.manual_seed(1)
    model = CellGraphNet(in_features=3, hidden=6, blocks=1, covariates=("stage",))
    table = pd.DataFrame({"stage": [1, 3]}, index=["a", "b"])
    found = log_hazards(model, COHORT, table)
    with torch.no_grad():
        expected = model.eval()(graph_input(COHORT, table, ("stage",)))
    assert np.allclose(found, expected)
    assert gradient_x_input(model, COHORT, table).shape == (15,)
    with pytest.raises(InputError, match="covariates stage as a table"):
        gradient_x_input(model, COHORT)


def test_bad_baselines_are_refused() -> None:
    with pytest.raises(InputError, match=r"baseline \(3,\) and at least 1 step, got \(2,\)"):
        integrated_gradients(net(), COHORT, baseline=np.zeros(2))
    with pytest.raises(InputError, match="at least 1 step"):
        integrated_gradients(net(), COHORT, steps=0)
    with pytest.raises(InputError, match="CellGraphNet or an ensemble"):
        gradient_x_input(nn.Linear(3, 1), COHORT)
