"""What relevance over cells is compared with: gradients, masks, chance.

Each is a function of a model and a graph and gives one score per cell ``(n,)``. With ``f`` the log
hazard and ``x_i`` the features of cell ``i``:

* gradient x input ``x_i . df/dx_i``; squared gradient ``|df/dx_i|^2``; gradient ``|df/dx_i|``;
* integrated gradients ``(x_i - b) . int_0^1 df/dx_i(b + t (x - b)) dt`` (Sundararajan et al., ICML
  2017);
* GNNExplainer (Ying et al., NeurIPS 2019), by PyG: a mask over cells that keeps the prediction;
* the number of neighbours; random numbers.

Only gradient x input and integrated gradients have a sign.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from graphs.cell_graph import CellGraph, each_patient
from graphs.inputs import GraphInput, graph_input
from graphs.lrp import covariate_names, prepared
from graphs.network import CellGraphNet
from neuralize.errors import InputError

Array = np.ndarray


def _gradient(
    model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None,
    at: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Features ``x`` and ``df/dx`` at ``at(x)``, each ``(n, f)``; patients do not mix."""
    with prepared(model, None, None) as (net, dtype):
        device = next((p.device for p in net.parameters()), None)
        data = graph_input(graph, covariates, covariate_names(net)).to(device, dtype)
        point = at(data.x).clone().requires_grad_()
        hazard = net.of_features(point, data)
        (gradient,) = torch.autograd.grad(hazard.sum(), point)
    return data.x.double().cpu(), gradient.double().cpu()


def gradient_x_input(
    model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None = None
) -> Array:
    """``x_i . df/dx_i`` ``(n,)``.

    Examples
    --------
    >>> from graphs import CellGraphNet
    >>> cells = CellGraph(np.zeros((2, 2)), np.array([0, -1]), ("a", "b"), np.zeros(2, int),
    ...                   ("i",), ("p",), edges=np.array([[0, 1], [1, 0]]))
    >>> float(gradient_x_input(CellGraphNet(in_features=2, hidden=4), cells)[1])
    0.0
    """
    x, gradient = _gradient(model, graph, covariates)
    found: Array = (x * gradient).sum(1).numpy()
    return found


def squared_gradient(
    model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None = None
) -> Array:
    """``|df/dx_i|^2`` ``(n,)``; ranks cells as the gradient's norm does."""
    found: Array = _gradient(model, graph, covariates)[1].square().sum(1).numpy()
    return found


def integrated_gradients(
    model: nn.Module,
    graph: CellGraph,
    covariates: pd.DataFrame | None = None,
    *,
    baseline: Array | None = None,
    steps: int = 16,
) -> Array:
    """Gradients along the straight way from ``baseline`` ``(f,)`` to the features ``(n,)``.

    All cells move at once. The default baseline is zero: cells without a phenotype. Midpoints of
    ``steps`` intervals.

    Raises
    ------
    InputError
        No step, or a baseline of another number of features.
    """
    inputs = graph.inputs()
    start = np.zeros(inputs.shape[1]) if baseline is None else np.asarray(baseline, np.float64)
    if start.shape != (inputs.shape[1],) or steps < 1:
        raise InputError(
            f"Expected a baseline ({inputs.shape[1]},) and at least 1 step, got {start.shape} and "
            f"{steps}."
        )
    b = torch.from_numpy(start)
    total = torch.zeros(inputs.shape, dtype=torch.float64)
    for t in (np.arange(steps) + 0.5) / steps:
        x, gradient = _gradient(model, graph, covariates, partial(_between, b, float(t)))
        total += gradient / steps
    found: Array = ((x - b) * total).sum(1).numpy()
    return found


def _between(start: Tensor, t: float, x: Tensor) -> Tensor:
    start = start.to(x)
    return start + t * (x - start)


def degree(model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None = None) -> Array:
    """Number of edges into each cell ``(n,)``: what the graph alone says."""
    return np.bincount(graph.require_edges()[1], minlength=len(graph)).astype(np.float64)


def random_scores(
    model: nn.Module, graph: CellGraph, covariates: pd.DataFrame | None = None, *, seed: int = 0
) -> Array:
    """Uniform random numbers ``(n,)``."""
    return np.random.default_rng(seed).random(len(graph))


class ForPyG(nn.Module):
    """One patient's network as PyG's explainers call it: ``(x, edge_index) -> (1, 1)``.

    The edges are those of the patient; ``edge_index`` is not read, so edge masks have no effect.
    """

    def __init__(self, net: CellGraphNet, data: GraphInput) -> None:
        super().__init__()
        self.net, self.data = net, data

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Log hazard ``(1, 1)`` of features ``x`` ``(n, f)``."""
        return self.net.of_features(x, self.data)[:, None]


def gnn_explainer(
    model: nn.Module,
    graph: CellGraph,
    covariates: pd.DataFrame | None = None,
    *,
    epochs: int = 100,
    lr: float = 0.01,
    seed: int = 0,
    progress: bool = True,
) -> Array:
    """PyG's GNNExplainer: how much of each cell a mask keeps, in 0 to 1 ``(n,)``.

    One mask value per cell, patient by patient; edges are not masked. A mask has no sign.

    Parameters
    ----------
    epochs, lr
        Of the mask, as PyG's defaults.

    Raises
    ------
    ImportError
        torch-geometric is not installed.
    """
    try:
        with warnings.catch_warnings():
            # torch-geometric 2.8 scripts a class while it is imported, which torch 2.13 deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch_geometric.explain import Explainer, GNNExplainer
    except ImportError as error:
        raise ImportError(
            'GNNExplainer needs torch-geometric: pip install "unsupervised-xai[pyg]".'
        ) from error
    found = []
    states = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    with prepared(model, None, None) as (net, dtype), states:
        torch.manual_seed(seed)
        device = next((p.device for p in net.parameters()), None)
        asked = [p for p in net.parameters() if p.requires_grad]
        names = covariate_names(net)
        patients = tqdm(
            each_patient(graph), "GNNExplainer", len(graph.patient_names), disable=not progress,
            delay=2,
        )  # fmt: skip
        try:
            # the mask alone is fitted, and gradients of weights would cost as much again
            for p in asked:
                p.requires_grad_(False)
            with patients as bar:
                for _, cells in bar:
                    data = graph_input(cells, covariates, names).to(device, dtype)
                    explainer = Explainer(
                        ForPyG(net, data), GNNExplainer(epochs=epochs, lr=lr),
                        explanation_type="model", node_mask_type="object",
                        model_config={"mode": "regression", "task_level": "graph",
                                      "return_type": "raw"},
                    )  # fmt: skip
                    edges = torch.from_numpy(cells.require_edges()).to(data.x.device)
                    mask = explainer(data.x, edges).node_mask
                    found.append(mask.double().sum(1).cpu().numpy())
        finally:
            for p in asked:
                p.requires_grad_(True)
    return np.concatenate(found)
