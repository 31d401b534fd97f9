"""Does relevance over cells find what was planted, and does the network use what it shows?

    python benchmarks/graph_motif.py [--seeds 0 1 ...] [--part motif|shortcut|means] [--tune]
                                     [--out CSV]

``motif``: the log hazard rises with the number of T cells that touch a tumour cell
(``graphs.datasets.planted_motif``). 320 patients train a CellGraphNet (3 GIN blocks of width 32),
80 are held out; 24 of these are explained. Reported: Harrell's C; AUROC of motif cells within
images, against all other cells, against the other T cells only, and of motif cells together with
the tumour cells they touch; areas of deletion curves (``graphs.evaluation``), half of the cells
at most, in standard deviations of the held-out log hazards; the area ``both`` also with cells that
stay but get the mean features of the training cells, or none.

``shortcut``: 240 patients train, for 20 epochs. Half of them come from a site with sicker patients
and an artefact (stray cells called granulocytes; or spots where cells are cut into fragments); 240
others have it at random. Explained are 24 of these with the artefact. Reported: AUROC of its cells
by relevance, the same without the motif's cells and the touched ones, which raise the risk by
right, and by the size of relevance; its share of what is positive; how often the square of 120 um
with the highest sum is the one with the most of its cells; how often the granulocytes are the
phenotype with the highest mean. ``effect`` is the log hazard less that without the artefact's
cells, in standard deviations. Squares are also judged by what deleting them does. The control was
trained on the same artefact without its going with the outcome. ``means``: the same with networks
that read means only, because a maximum is read off few cells however many say the same.

``--tune`` compares more composites and settings; meant for other seeds (100 to 102) than the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from torch import nn

from graphs import CellGraph, CellGraphNet, explain, graph_composite, grid_partition
from graphs.baselines import (
    degree,
    gnn_explainer,
    gradient_x_input,
    integrated_gradients,
    random_scores,
    squared_gradient,
)
from graphs.datasets import (
    GRANULOCYTE,
    T_CELL,
    PlantedCohort,
    planted_motif,
    planted_shortcut,
)
from graphs.evaluation import (
    cell_auroc,
    deletion_curves,
    log_hazards,
    part_effects,
    relevance_share,
)
from graphs.metrics import harrell
from graphs.network import Readout
from graphs.partition import Partition
from graphs.reference import against, mean_cell
from graphs.training import GraphTraining, train
from neuralize.composites import Composite
from neuralize.rules import Gamma, Pass

Array = np.ndarray
Scores = Callable[[nn.Module, CellGraph], Array]

TRAINING = GraphTraining(epochs=12, batch_size=32, lr=3e-3, weight_decay=0.1, progress=False)
TRAIN, HELD_OUT, EXPLAINED = 320, 80, 24
SITES = 480
SHARES = tuple(np.linspace(0, 0.5, 11))
MEAN = "integrated gradients from the mean"
CONTROLLED = (
    "LRP gamma 0",
    "LRP gamma 0.1",
    "LRP gamma 0.1, against the mean",
    "gradient x input",
    "GNNExplainer",
    MEAN,
    "random",
)
DELETED = "deletion of squares"
SHORTCUT = (
    "LRP gamma 0",
    "LRP gamma 0.1",
    "LRP gamma 0.1, against the mean",
    "LRP gamma 0.1, 1 in the head, against the mean",
    "gradient x input",
    MEAN,
    "random",
)


def lrp(net: nn.Module, graph: CellGraph, composite: Composite) -> Array:
    return explain(net, graph, composite=composite, progress=False).cells


def trained(
    cohort: PlantedCohort,
    seed: int,
    norm: bool = True,
    epochs: int = TRAINING.epochs,
    readouts: tuple[Readout, ...] = ("max", "mean"),
) -> CellGraphNet:
    torch.manual_seed(seed)
    features = len(cohort.graph.input_names)
    net = CellGraphNet(in_features=features, hidden=32, blocks=3, norm=norm, readouts=readouts)
    train(net, cohort.graph, cohort.outcome, training=replace(TRAINING, epochs=epochs))
    return net


def centred_random(net: nn.Module, graph: CellGraph) -> Array:
    return random_scores(net, graph) - 0.5


def in_head(gamma: float, head: float) -> Composite:
    """Gamma in the head as well, where what lowers the risk otherwise cancels what raises it."""
    return graph_composite(gamma).with_rules(name_map=[(["*head.*", "*log_hazard"], Gamma(head))])


def passing(gamma: float) -> Composite:
    return graph_composite(gamma).with_rules(layer_map=[(nn.BatchNorm2d, Pass())])


def methods(mean: Array, tune: bool) -> dict[str, Scores]:
    """Everything compared, by name."""
    gammas = (0, 0.1, 0.25) if tune else (0, 0.1, 0.25, 1)
    found: dict[str, Scores] = {
        f"LRP gamma {g:g}": partial(lrp, composite=graph_composite(g)) for g in gammas
    }
    for g in (0, 0.1):
        found[f"LRP gamma {g:g}, BatchNorm passed"] = partial(lrp, composite=passing(g))
    found["LRP gamma 0.1, 1 in the head"] = partial(lrp, composite=in_head(0.1, 1.0))
    for g in (0, 0.05, 0.1, 0.25, 1) if tune else (0, 0.1, 0.25):
        composite = against(graph_composite(g), mean)
        found[f"LRP gamma {g:g}, against the mean"] = partial(lrp, composite=composite)
    for head in (0.1, 1) if tune else (1,):
        composite = against(in_head(0.1, head), mean)
        found[f"LRP gamma 0.1, {head:g} in the head, against the mean"] = partial(
            lrp, composite=composite
        )
    if tune:
        return {
            **found,
            "gradient x input": gradient_x_input,
            MEAN: partial(integrated_gradients, baseline=mean),
        }
    return {
        **found,
        "gradient x input": gradient_x_input,
        "integrated gradients from 0": integrated_gradients,
        MEAN: partial(integrated_gradients, baseline=mean),
        "squared gradient": squared_gradient,
        "GNNExplainer": partial(gnn_explainer, progress=False),
        "number of neighbours": degree,
        "random": centred_random,
    }


def judged(
    net: nn.Module, held: PlantedCohort, name: str, scores_of: Scores, sd: float, mean: Array
) -> dict[str, float | str]:
    """One row of the table of the motif."""
    graph, motif = held.graph, held.motif
    start = time.perf_counter()
    scores = scores_of(net, graph)
    seconds = (time.perf_counter() - start) / len(graph.patient_names)
    of_t = graph.phenotypes == T_CELL
    removed = partial(deletion_curves, net, graph, scores, shares=SHARES, mean=mean, progress=False)
    areas = removed().areas().mean() / sd
    row: dict[str, float | str] = {
        "method": name,
        "auroc": cell_auroc(scores, motif, graph).mean(),
        "auroc among T cells": cell_auroc(scores[of_t], motif[of_t], graph.subset(of_t)).mean(),
        "auroc with touched": cell_auroc(scores, motif | held.touched, graph).mean(),
        "raising": areas["raising"],
        "lowering": areas["lowering"],
        "both": areas["both"],
    }
    if name in CONTROLLED:
        row["both, mean features"] = removed(removal="mean").areas()["both"].mean() / sd
        row["both, no features"] = removed(removal="unknown").areas()["both"].mean() / sd
    return {**row, "seconds": seconds}


def first(cohort: PlantedCohort, chosen: Array) -> PlantedCohort:
    """Some patients ``(p,)`` of a cohort."""
    cells = chosen[cohort.graph.patient_of_cell]
    return PlantedCohort(
        cohort.graph.subset(cells), cohort.outcome[chosen], cohort.patients[chosen],
        cohort.motif[cells], cohort.touched[cells], cohort.shortcut[cells],
    )  # fmt: skip


def motif(seed: int, tune: bool) -> pd.DataFrame:
    cohort = planted_motif(seed, TRAIN + HELD_OUT, images=1)
    number = np.arange(TRAIN + HELD_OUT)
    learnt, held = first(cohort, number < TRAIN), first(cohort, number >= TRAIN)
    shown = first(held, np.arange(HELD_OUT) < EXPLAINED)
    mean = mean_cell(learnt.graph)
    rows = []
    for norm in (True,) if tune else (True, False):
        net = trained(learnt, seed, norm)
        hazards = log_hazards(net, held.graph)
        c = harrell(hazards, held.outcome)
        best = harrell(held.patients["log_hazard"].to_numpy(), held.outcome)
        chosen = methods(mean, tune)
        if not norm:
            chosen = {
                key: chosen[key] for key in ("LRP gamma 0", "LRP gamma 0.1", "gradient x input")
            }
        for name, scores_of in chosen.items():
            row = judged(net, shown, name, scores_of, float(hazards.std()), mean)
            known = {"data": "motif", "seed": seed, "BatchNorm": norm, "c": c, "c of truth": best}
            rows.append({**known, **row})
    return pd.DataFrame(rows)


def shortcut(seed: int, means: bool = False) -> pd.DataFrame:
    """Networks with both readouts and their control; or, with ``means``, those that read means."""
    rows = []
    for kind in ("phenotype", "density"):
        cohort = planted_shortcut(seed, kind, SITES, images=1)
        control = planted_shortcut(seed, kind, SITES, images=1, agreement=0.5)
        held = cohort.split(train=False)
        with_it = np.flatnonzero(held.patients["batch"].to_numpy() == 1)[:EXPLAINED]
        shown = first(held, np.isin(np.arange(len(held.outcome)), with_it))
        graph = shown.graph
        innocent = shown.shortcut | ~(shown.motif | shown.touched)
        runs: list[tuple[str, PlantedCohort, tuple[Readout, ...]]] = [
            ("shortcut", cohort, ("max", "mean")),
            ("control", control, ("max", "mean")),
        ]
        if means:
            runs = [("shortcut, mean readout", cohort, ("mean",))]
        for trained_on, data, readouts in runs:
            learnt = data.split(train=True)
            mean = mean_cell(learnt.graph)
            net = trained(learnt, seed, epochs=20, readouts=readouts)
            hazards = log_hazards(net, held.graph)
            without = log_hazards(net, graph.subset(~shown.shortcut))
            effect = (log_hazards(net, graph) - without).mean() / hazards.std()
            chosen = methods(mean, False)
            squares = grid_partition(graph, 120)
            chosen[DELETED] = lambda net, graph, parts=squares: (
                part_effects(net, graph, parts, progress=False) / parts.cells
            )[parts.codes]
            for name in (*SHORTCUT, DELETED):
                scores = chosen[name](net, graph)
                rows.append(
                    {
                        "data": kind,
                        "seed": seed,
                        "trained on": trained_on,
                        "c": harrell(hazards, held.outcome),
                        "c in training": harrell(log_hazards(net, learnt.graph), learnt.outcome),
                        "effect": effect,
                        "method": name,
                        "auroc": cell_auroc(scores, shown.shortcut, graph).mean(),
                        "auroc beside causes": cell_auroc(
                            scores[innocent], shown.shortcut[innocent], graph.subset(innocent)
                        ).mean(),
                        "auroc of size": cell_auroc(np.abs(scores), shown.shortcut, graph).mean(),
                        "top square": pointed(scores, shown.shortcut, squares),
                        "top phenotype": commonest(scores, graph) if kind == "phenotype" else None,
                        "share": relevance_share(scores, shown.shortcut, graph).mean(),
                        "cells": shown.shortcut.mean(),
                    }
                )
    return pd.DataFrame(rows)


def pointed(scores: Array, truth: Array, parts: Partition) -> float:
    """Share of images whose part of highest score is the one with the most true cells."""
    sums, counts = parts.sums(scores), parts.sums(truth)
    hits = []
    for image in np.unique(parts.images):
        mine = parts.images == image
        hits.append(counts[mine][sums[mine].argmax()] == counts[mine].max())
    return float(np.mean(hits))


def commonest(scores: Array, graph: CellGraph) -> float:
    """Share of images in which granulocytes have the highest mean of all phenotypes."""
    hits = []
    for image in range(len(graph.image_names)):
        mine = graph.images == image
        kinds = graph.phenotypes[mine]
        means = {k: scores[mine][kinds == k].mean() for k in np.unique(kinds)}
        hits.append(max(means, key=means.__getitem__) == GRANULOCYTE)
    return float(np.mean(hits))


def summary(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean and standard error over seeds, as text."""
    values = [c for c in table.columns if c not in (*keys, "seed")]
    groups = table.groupby(keys, sort=False)[values]
    mean, error = groups.mean(), groups.sem()
    return pd.DataFrame(
        {c: [f"{m:.3f} ± {e:.3f}" for m, e in zip(mean[c], error[c], strict=True)] for c in values},
        index=mean.index,
    )


KEYS = {"motif": ["data", "BatchNorm", "method"], "shortcut": ["data", "trained on", "method"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--part", choices=["motif", "shortcut", "means"])
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for part in ("motif", "shortcut", "means"):
        if given.part in (None, part):
            tables = []
            for seed in given.seeds:
                start = time.perf_counter()
                if part == "motif":
                    tables.append(motif(seed, given.tune))
                else:
                    tables.append(shortcut(seed, part == "means"))
                print(f"{part}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
            table = pd.concat(tables)
            keys = KEYS["motif" if part == "motif" else "shortcut"]
            print(summary(table, keys).to_string(), flush=True)
            found.append(table)
    if given.out:
        pd.concat(found).to_csv(given.out, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
