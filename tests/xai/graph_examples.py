"""Relevance of cells with known numbers, for tests of pictures and exports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphs import CellGraph, GraphRelevance, Partition, grid_partition

NAMES = ("tumour", "T cell $x_1$", "<b>B</b> & more")


def some_cells(
    sizes: tuple[tuple[int, ...], ...] = ((50, 40), (30,), (45, 20)), seed: int = 0
) -> CellGraph:
    """Patients with images of the given sizes, thrown into rectangles; some phenotypes unknown."""
    rng = np.random.default_rng(seed)
    flat = [n for images in sizes for n in images]
    n = sum(flat)
    return CellGraph(
        positions=rng.random((n, 2)) * [200, 120] + [1000, 500],
        phenotypes=rng.integers(-1, 3, n),
        phenotype_names=NAMES,
        images=np.repeat(np.arange(len(flat)), flat),
        image_names=tuple(f"slide {i}/a" for i in range(len(flat))),
        patients=tuple(f"P{p}" for p, some in enumerate(sizes) for _ in some),
        edges=np.array([[0, 1], [1, 0]]) if flat[0] > 1 else None,
        features=rng.normal(size=(n, 2)),
        feature_names=("size", "stain"),
        regions=rng.integers(-1, 2, n),
        region_names=("tumour", "stroma"),
        cell_ids=np.array([f"cell {i}" for i in range(n)], object),
    )


def some_relevance(
    grid: float | None = None, seed: int = 0, graph: CellGraph | None = None
) -> GraphRelevance:
    """Random relevance that adds up exactly as relevance must."""
    graph = some_cells(seed=seed) if graph is None else graph
    rng = np.random.default_rng(seed + 1)
    p = len(graph.patient_names)
    values = rng.normal(size=(len(graph), 5))
    absorbed = {"covariate stage": rng.normal(size=p), "bias": rng.normal(size=p)}
    partition: Partition | None = None
    if grid is not None:
        partition = grid_partition(graph, grid, 5.0)
        absorbed["across parts"] = rng.normal(size=p)
    found = GraphRelevance(
        values, graph, np.zeros(p), absorbed, partition, "GraphGamma(0.25)", 0.125, {"gamma": 0.25}
    )
    return replace(found, log_hazard=found.patient_sums + sum(absorbed.values()))
