"""Deletion curves on real tissue: does the network use the cells that relevance shows?

    python benchmarks/graph_faithfulness.py ../shared/data/nsclc_cells [--splits N] [--out CSV]

Non-small cell lung cancer, 879,694 cells of 153 patients (mxfda's lung table). Per split: two
thirds of the patients train a CellGraphNet (2 GIN blocks of width 32, no covariates), 6 of the
others are explained, all their images. Cells go in the order of their scores, a patient's images
together, half of the cells at most; areas as in ``graphs.evaluation``, in standard deviations of
the held-out log hazards, mean over the patients of all splits with its standard error.

The outcome is hardly predictable from these cells (Harrell's C is printed), so this measures
whether explanations are true to the network, not to the disease.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from torch import nn

from graphs import CellGraph, CellGraphNet, Columns, explain, graph_composite, knn_graph, read_cells
from graphs.baselines import (
    degree,
    gnn_explainer,
    gradient_x_input,
    integrated_gradients,
    random_scores,
    squared_gradient,
)
from graphs.evaluation import deletion_curves
from graphs.metrics import harrell
from graphs.reference import against, mean_cell
from graphs.survival import Outcome
from graphs.training import GraphTraining, predict, train
from neuralize.composites import Composite

Array = np.ndarray
SHARES = tuple(np.linspace(0, 0.5, 11))
EXPLAINED = 6
COLUMNS = Columns(
    phenotype="cell_type",
    image=("patient_id", "image_id"),
    patient="patient_id",
    cell_id="cell_id",
)


def read(folder: Path) -> tuple[CellGraph, Outcome]:
    cells = read_cells(folder / "lung_cells_153patients.parquet", COLUMNS, unit="um")
    table = pd.read_csv(folder / "lung_patients.csv").set_index("patient_id")
    table.index = table.index.astype(int).astype(str)
    outcome = Outcome.from_table(table, "days", "event", "days").matched(cells)
    return knn_graph(cells, k=3, max_edge=50), outcome


def lrp(net: nn.Module, graph: CellGraph, composite: Composite) -> Array:
    return explain(net, graph, composite=composite, progress=False).cells


def methods(mean: Array) -> dict[str, Callable[[nn.Module, CellGraph], Array]]:
    return {
        "LRP gamma 0": partial(lrp, composite=graph_composite(0)),
        "LRP gamma 0.1": partial(lrp, composite=graph_composite(0.1)),
        "LRP gamma 0.25": partial(lrp, composite=graph_composite(0.25)),
        "LRP gamma 0.1, against the mean": partial(
            lrp, composite=against(graph_composite(0.1), mean)
        ),
        "gradient x input": gradient_x_input,
        "integrated gradients from the mean": partial(integrated_gradients, baseline=mean),
        "squared gradient": squared_gradient,
        "GNNExplainer": partial(gnn_explainer, progress=False),
        "number of neighbours": degree,
        "random": random_scores,
    }


def split(graph: CellGraph, outcome: Outcome, seed: int) -> pd.DataFrame:
    names = np.random.default_rng(seed).permutation(np.array(outcome.patients, object))
    test, learnt = tuple(names[: len(names) // 3]), tuple(names[len(names) // 3 :])
    train_graph, held = graph.patient(*learnt), graph.patient(*test)
    torch.manual_seed(seed)
    net = CellGraphNet(in_features=len(graph.input_names), hidden=32, blocks=2)
    plan = GraphTraining(
        12, 32, images_per_step=1, lr=3e-3, weight_decay=0.1, seed=seed, progress=False
    )
    train(net, train_graph, outcome.of(train_graph.patient_names), training=plan)
    hazards = predict(net, held, progress=False)
    c = harrell(hazards, outcome.of(held.patient_names))
    shown = held.patient(*test[:EXPLAINED])
    mean = mean_cell(train_graph)
    print(f"split {seed}: C {c:.3f}, sd of log hazards {hazards.std():.3f}, {shown}", flush=True)
    rows = []
    for name, scores_of in methods(mean).items():
        start = time.perf_counter()
        scores = scores_of(net, shown)
        seconds = (time.perf_counter() - start) / EXPLAINED
        curves = deletion_curves(net, shown, scores, shares=SHARES, progress=False)
        areas = curves.areas(shown.patient_names) / hazards.std()
        rows.append(areas.reset_index().assign(split=seed, c=c, method=name, seconds=seconds))
    return pd.concat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="with lung_cells_153patients.parquet")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    graph, outcome = read(given.folder)
    table = pd.concat([split(graph, outcome, seed) for seed in range(given.splits)])
    groups = table.groupby("method", sort=False)[["raising", "lowering", "both", "seconds"]]
    mean, error = groups.mean(), groups.sem()
    for name in mean.columns:
        print(f"\n{name}")
        for method in mean.index:
            print(f"  {method:36s} {mean.loc[method, name]:7.3f} ± {error.loc[method, name]:.3f}")
    paired = table.pivot(index=["split", "patient"], columns="method", values="both")
    ours = paired["LRP gamma 0.1, against the mean"]
    print("\nboth: LRP gamma 0.1 against the mean, less another method")
    for method in paired.columns.drop(ours.name):
        less = ours - paired[method]
        print(f"  {method:36s} {less.mean():7.3f} ± {less.sem():.3f}")
    if given.out:
        table.to_csv(given.out, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
