"""Networks whose log hazard is a sum on a sheet of paper, and cohorts with or without a flaw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from graphs import CellGraph, CellGraphNet, radius_graph

PHENOTYPES = ("T cell", "stroma", "granulocyte")
T_CELL, STROMA, GRANULOCYTE = range(3)
SPACING, TOUCH = 10.0, 12.0
SIDE = 8


def join(cells: CellGraph) -> CellGraph:
    return radius_graph(cells, TOUCH)


def cohort(patients: int = 40, seed: int = 0, features: int = 2) -> CellGraph:
    """One image of 64 cells on a jittered lattice per patient: T cells and stroma, no others."""
    rng = np.random.default_rng(seed)
    n = SIDE * SIDE
    rows, columns = np.divmod(np.arange(n), SIDE)
    lattice = np.stack([columns, rows], 1) * SPACING
    share = rng.uniform(0.1, 0.9, patients)
    names = tuple(f"P{k}" for k in range(patients))
    total = patients * n
    cells = CellGraph(
        positions=np.tile(lattice, (patients, 1)) + rng.uniform(-0.5, 0.5, (total, 2)),
        phenotypes=np.where(rng.random(total) < np.repeat(share, n), T_CELL, STROMA),
        phenotype_names=PHENOTYPES,
        images=np.repeat(np.arange(patients), n),
        image_names=names,
        patients=names,
        features=rng.normal(size=(total, features)) if features else None,
        feature_names=("stain", "size")[:features],
    )
    return join(cells)


def net(
    weights: dict[str, float],
    degree: float = 0.0,
    names: tuple[str, ...] = (*PHENOTYPES, "stain", "size"),
) -> CellGraphNet:
    """``log hazard = mean over cells of (w . x + degree * number of neighbours) + 50``, one image.

    The convolution sees a constant 1 per cell, so it counts neighbours; 50 keeps ReLUs open.
    """
    made = CellGraphNet(in_features=len(names), hidden=2, blocks=1, norm=False, dropout=0.0,
                        readouts=("mean",)).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        for name, weight in weights.items():
            made.encoder.weight[0, names.index(name)] = weight
        made.encoder.bias[:] = torch.tensor([0.0, 1.0])
        mlp = made.blocks[0].conv.mlp
        mlp[0].weight[1, 1] = 1.0  # 1 + neighbours
        mlp[2].weight[0, 1] = degree
        if degree < 0:
            raise ValueError("the ReLU after the convolution would cut it off")
        made.head[0].weight[0, 0] = 1.0
        made.head[0].bias[0] = 50.0
        made.head[2].weight[0, 0] = 1.0
        made.log_hazard.weight[0, 0] = 1.0
    return made


def log_hazards(graph: CellGraph, weights: dict[str, float], degree: float = 0.0) -> np.ndarray:
    """The same, by hand and in float64."""
    x = graph.inputs().astype(np.float64)
    column = np.array([weights.get(name, 0.0) for name in graph.input_names])
    neighbours = np.bincount(graph.edges[1], minlength=len(graph))
    per_cell = x @ column + degree * (1 + neighbours)
    patient = graph.patient_of_cell
    return np.bincount(patient, per_cell) / np.bincount(patient) + 50


def with_offset(graph: CellGraph, has: np.ndarray, by: float) -> CellGraph:
    """The stain of some patients shifted."""
    features = graph.features.copy()
    features[has[graph.patient_of_cell], 0] += by
    return replace(graph, features=features)


def with_stray(graph: CellGraph, has: np.ndarray, share: float = 0.1) -> CellGraph:
    """Some stroma of some patients is called granulocytes."""
    rng = np.random.default_rng(9)
    stray = has[graph.patient_of_cell] & (graph.phenotypes == STROMA)
    stray &= rng.random(len(graph)) < share / 0.5
    return replace(graph, phenotypes=np.where(stray, GRANULOCYTE, graph.phenotypes))


def with_fragments(graph: CellGraph, has: np.ndarray) -> tuple[CellGraph, np.ndarray]:
    """In some patients, a spot of five cells comes out as four fragments each; which cells."""
    parts, flags = [], []
    for k, name in enumerate(graph.image_names):
        one = graph.image(name)
        spot = np.argsort(np.linalg.norm(one.positions - [35, 35], axis=1))[: 5 if has[k] else 0]
        more = np.repeat(spot, 3)
        step = np.tile([[2.0, 0], [0, 2.0], [2.0, 2.0]], (len(spot), 1))
        index = np.concatenate([np.arange(len(one)), more]).astype(int)
        positions = one.positions[index]
        positions[len(one) :] += step
        parts.append(replace(one, positions=positions, phenotypes=one.phenotypes[index],
                             features=one.features[index], images=np.zeros(len(index), int),
                             edges=None))  # fmt: skip
        flag = np.zeros(len(index), bool)
        flag[spot] = flag[len(one) :] = True
        flags.append(flag)
    from graphs import concatenated

    return join(concatenated(parts)), np.concatenate(flags)
