"""Graph networks that rest on an artefact, or do not: for the benchmark of audits.

``graph_case(kind, strength, seed)`` trains a small survival network on 140 patients with a planted
motif (T cells that touch tumour cells raise the risk) and gives it with 100 other patients, of whom
half come from another batch. Cells have two features, ``size`` and ``stain``, that say nothing of
the risk.

``clean``
    Nothing is planted; the batch is a name.
``batch_offset``
    The stain of one batch is shifted by ``strength`` standard deviations. Among the training
    patients, and only there, the batch goes with the outcome.
``shortcut cells``
    In one batch, ``6 * strength`` in a hundred cells are stroma that is called granulocytes, which
    no other image has; among the training patients the batch goes with the outcome.
``ignored offset``, ``ignored cells``; ``ignored`` (one of the two, by the seed)
    The artefact is there, and the network cannot see it: it was trained without, and its first
    layer is blind to the stain, or takes granulocytes for stroma.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from graphs import CellGraph, CellGraphNet, predict
from graphs.datasets import GRANULOCYTE, STROMA, PlantedCohort, _survival, planted_motif
from graphs.training import GraphTraining, train

Array = np.ndarray
Kind = Literal[
    "clean", "batch_offset", "shortcut cells", "ignored", "ignored offset", "ignored cells"
]
PATIENTS, TRAINED = 240, 140
CELLS = (100, 180)
AGREEMENT = 0.95
"""Share of the training patients whose batch goes with the outcome."""

BATCH_EFFECT = 1.5
"""Half the difference of the log hazard between sites."""

STRAY = 0.06
FEATURES = ("size", "stain")
TRAINING = GraphTraining(epochs=12, batch_size=32, lr=5e-3, weight_decay=0.1, progress=False)


@dataclass(frozen=True, eq=False)
class Truth:
    """What was planted.

    Attributes
    ----------
    kind
        As asked for; ``ignored`` is resolved.
    inputs
        Names of the inputs that carry the artefact.
    patients
        Which patients have it ``(p,)``.
    cells
        Which cells belong to it ``(n,)``.
    without
        The same cells without it.
    effect
        Share of the patients whose risk group (above or below the median risk) is another one
        without it.
    moved
        Median change of the log hazards of patients who have it, in sd between patients.
    """

    kind: str
    inputs: tuple[str, ...]
    patients: Array
    cells: Array
    without: CellGraph
    effect: float
    moved: float


class GraphCase(NamedTuple):
    """A network, the cells of patients it was not trained on, and the truth about both."""

    model: CellGraphNet
    graphs: CellGraph
    labels: Array
    groups: Array
    truth: Truth


def graph_case(kind: Kind, strength: float = 1.0, seed: int = 0) -> GraphCase:
    """Train a network with, or without, the artefact; seconds on one core."""
    if kind not in get_args(Kind):
        raise ValueError(f"Expected a kind of {', '.join(get_args(Kind))}, got {kind!r}.")
    if kind == "ignored":
        kind = "ignored cells" if seed % 2 else "ignored offset"
    rng = np.random.default_rng([seed, 7])
    cohort = planted_motif(seed, PATIENTS, 1, CELLS, effect=1.0)
    features = rng.normal(size=(len(cohort.graph), 2))
    features += rng.normal(0, 0.15, (PATIENTS, 2))[cohort.graph.patient_of_cell]
    clean = replace(cohort.graph, features=features, feature_names=FEATURES)
    training = np.arange(PATIENTS) < TRAINED
    site = rng.permutation(np.arange(PATIENTS) % 2)
    agrees = rng.random(PATIENTS) < np.where(training, AGREEMENT, 0.5)
    batch = np.where(agrees, site, 1 - site)
    table = cohort.patients.copy()
    planted, cells = _with_artefact(kind, strength, clean, batch.astype(bool), rng)
    if kind in ("batch_offset", "shortcut cells"):
        table["log_hazard"] += BATCH_EFFECT * (2 * site - 1)
    outcome = _survival(rng, table, 0.3)
    learned = clean if kind.startswith("ignored") else planted
    net = _trained(learned, replace(cohort, outcome=outcome), training, seed)
    if kind.startswith("ignored"):
        _blind(net, kind)
    held_out = ~training[clean.patient_of_cell]
    graphs, without = planted.subset(held_out), clean.subset(held_out)
    groups = np.where(batch == 1, "batch 1", "batch 0")[~training]
    risk = table["log_hazard"].to_numpy()[~training]
    labels = np.where(risk > np.median(risk), "high", "low")
    before, after = (predict(net, g, progress=False).to_numpy() for g in (graphs, without))
    carried = np.bincount(graphs.patient_of_cell, cells[held_out]) > 0
    moved = np.median(np.abs(after - before)[carried]) / before.std() if carried.any() else 0.0
    changed = (before > np.median(before)) != (after > np.median(after))
    inputs = ("stain",) if "offset" in kind else ("granulocyte",) if "cells" in kind else ()
    truth = Truth(kind, inputs, carried, cells[held_out], without, float(changed.mean()),
                  float(moved))  # fmt: skip
    return GraphCase(net, graphs, labels, groups, truth)


def _with_artefact(
    kind: Kind, strength: float, clean: CellGraph, has: Array, rng: np.random.Generator
) -> tuple[CellGraph, Array]:
    """The cells with the artefact in the patients who have it, and which cells belong to it."""
    there = has[clean.patient_of_cell]
    if "offset" in kind:
        assert clean.features is not None
        features = clean.features.copy()
        features[there, FEATURES.index("stain")] += strength
        return replace(clean, features=features), there
    flags = np.zeros(len(clean), bool)
    if "cells" in kind:
        free = there & (clean.phenotypes == STROMA)
        for image in np.unique(clean.images[free]):
            stroma = np.flatnonzero(free & (clean.images == image))
            count = max(3, round(STRAY * strength * (clean.images == image).sum()))
            flags[rng.permutation(stroma)[:count]] = True
    return replace(clean, phenotypes=np.where(flags, GRANULOCYTE, clean.phenotypes)), flags


def _trained(graph: CellGraph, cohort: PlantedCohort, rows: Array, seed: int) -> CellGraphNet:
    torch.manual_seed(seed)
    net = CellGraphNet(in_features=len(graph.input_names), hidden=16, blocks=2, dropout=0.0)
    train(
        net, graph.subset(rows[graph.patient_of_cell]), cohort.outcome[rows],
        training=replace(TRAINING, seed=seed),
    )  # fmt: skip
    return net.eval()


def _blind(net: CellGraphNet, kind: Kind) -> None:
    with torch.no_grad():
        weight = net.encoder.weight
        if "offset" in kind:
            weight[:, -1] = 0
        else:
            weight[:, GRANULOCYTE] = weight[:, STROMA]
