"""Small cell graphs and networks for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree
from torch import nn

from graphs import CellGraph, CellGraphNet

Array = np.ndarray


def neighbours(positions: Array, images: Array, k: int) -> Array:
    """Undirected edges to the ``k`` nearest cells of the same image."""
    found: list[Array] = []
    for image in np.unique(images):
        mine = np.flatnonzero(images == image)
        if len(mine) < 2:
            continue
        near = cKDTree(positions[mine]).query(positions[mine], min(k + 1, len(mine)))[1]
        pairs = [(mine[i], mine[j]) for i, row in enumerate(near) for j in row if i != j]
        found.append(np.array(pairs).T)
    edges = np.concatenate(found, 1)
    return np.unique(np.concatenate([edges, edges[::-1]], 1), axis=1)


def cohort(
    sizes: Sequence[Sequence[int]] = ((60, 40), (50,)), phenotypes: int = 4, k: int = 3,
    seed: int = 0, side: float = 100.0,
) -> CellGraph:  # fmt: skip
    """Patients with images of the given sizes, cells thrown into a square."""
    rng = np.random.default_rng(seed)
    flat = [n for images in sizes for n in images]
    images = np.repeat(np.arange(len(flat)), flat)
    positions = rng.random((len(images), 2)) * side
    return CellGraph(
        positions=positions,
        phenotypes=rng.integers(-1, phenotypes, len(images)),
        phenotype_names=tuple(f"type {p}" for p in range(phenotypes)),
        images=images,
        image_names=tuple(f"image {i}" for i in range(len(flat))),
        patients=tuple(f"{p}" for p, some in enumerate(sizes) for _ in some),
        edges=neighbours(positions, images, k),
        features=rng.normal(size=(len(images), 2)),
        feature_names=("size", "stain"),
        regions=rng.integers(0, 2, len(images)),
        region_names=("tumour", "stroma"),
    )


def table(graph: CellGraph, seed: int = 0) -> pd.DataFrame:
    """Stage and age of the patients."""
    rng = np.random.default_rng(seed)
    n = len(graph.patient_names)
    return pd.DataFrame(
        {"stage": rng.integers(1, 5, n), "age": rng.normal(65, 8, n)},
        index=pd.Index(graph.patient_names),
    )


def network(graph: CellGraph, seed: int = 0, hidden: int = 8, **fields: object) -> CellGraphNet:
    """A network with random weights, biases and normalisations, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = CellGraphNet(in_features=len(graph.input_names), hidden=hidden, **fields).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.uniform_(0.5, 2, generator=generator)
            for t in (module.running_mean, module.weight.data, module.bias.data):
                t.uniform_(-1, 1, generator=generator)
    if net.config.covariates:
        net.covariate_center[0], net.covariate_scale[0] = 2.0, 1.5
    return net.eval()
