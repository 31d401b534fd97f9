"""Why LRP wins or loses at pixel-flipping: stiffness, replacement, and where integration starts.

    python benchmarks/flipping_ablation.py [--out flipping_ablation.csv] [--seeds 5]

The models of `flipping.py` on wine and digits, with one thing changed at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from flipping import Array, Dataset, datasets, draw, judge, write
from scipy.spatial.distance import pdist
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.neighbors import KernelDensity, NearestNeighbors
from tqdm.auto import tqdm

from neuralize import Neuralized, neuralize
from xai.evaluate import compare, pixel_flipping

Maker = Callable[[Array, int], Neuralized]

METHODS = ("gradient", "integrated_gradients")


def cases(n_classes: int) -> Iterator[tuple[str, bool, Maker]]:
    """Name, whether it is a one-class model, and how to make it from rows and a seed."""

    def kde(factor: float) -> Maker:
        def make(x: Array, seed: int) -> Neuralized:
            g = factor / np.median(pdist(x, "sqeuclidean"))
            return neuralize(KernelDensity(bandwidth=(1 / (2 * g)) ** 0.5).fit(x))

        return make

    def neighbors(aggregation: str) -> Maker:
        return lambda x, seed: neuralize(
            NearestNeighbors(n_neighbors=5).fit(x), aggregation=aggregation
        )

    def kmeans(stiffness: float | str) -> Maker:
        return lambda x, seed: neuralize(
            KMeans(n_classes, n_init=3, random_state=seed).fit(x), stiffness=stiffness, data=x
        )

    for factor in (1, 4, 16):
        yield f"KDE, g x {factor}", True, kde(factor)
    for aggregation in ("largest", "mean"):
        yield f"5-NN, {aggregation} distance", True, neighbors(aggregation)
    for stiffness in (0.0, "paper", np.inf):
        yield f"k-means, stiffness {stiffness}", False, kmeans(stiffness)


def experiment(
    data: Dataset, make: Maker, one_class: bool, replace: str, seed: int
) -> dict[str, float]:
    """Mean areas for one seed; integrated gradients from the mean and from one training row."""
    train, test = draw(data, seed, one_class=one_class)
    net, x, reference = make(data.flat[train], seed), data.x[test], data.x[train]
    areas = {}
    for label, background in (("the mean", reference), ("one row", reference[:1])):
        table = compare(
            net,
            x,
            METHODS,
            background=background,
            reference=reference,
            replace=replace,
            seeds=[seed],
            progress=False,
        )["auc"]
        areas["lrp"], areas["gradient"] = table["lrp"], table["gradient"]
        areas[f"integrated_gradients from {label}"] = table["integrated_gradients"]
    if net.model_name == "KernelDensity":
        squares = mean_squares(net, x.reshape(len(x), -1)).reshape(x.shape)
        result = pixel_flipping(
            net, x, squares, reference=reference, replace=replace, seed=seed, progress=False
        )
        areas["sum of p (x - u)^2"] = result.auc().mean()
    return areas


def mean_squares(net: Neuralized, x: Array) -> Array:
    """LRP of a kernel density without its factor ``o / h_j``: ``sum_j p_j (x_i - u_ij)^2``.

    That is ``(x_i - mean_p u_i)^2``, which ranks as the squared gradient, plus ``var_p u_i``.
    """
    distances = net.layers[0]
    u = (distances.support + distances.center).numpy()
    squares = (x[:, None] - u) ** 2
    p = softmax(net.score_map.scale * squares.sum(2), axis=1)
    return np.einsum("nm,nmd->nd", p, squares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = []
    sets = [data for data in datasets() if data.name in ("wine", "digits")]
    for data in sets:
        for name, one_class, make in tqdm(list(cases(len(np.unique(data.y)))), desc=data.name):
            for replace in ("conditional", "conditional_sample", "mean"):
                areas = pd.DataFrame(
                    [
                        experiment(data, make, one_class, replace, seed)
                        for seed in range(options.seeds)
                    ]
                )
                parts.append(judge(areas).assign(data=data.name, model=name, replace=replace))
    table = pd.concat(parts, ignore_index=True)
    write(table, options.out)
    sign = {"LRP better": "", "LRP worse": " ▼", "undecided": " ="}
    table["cell"] = table["auc"].map("{:.3f}".format) + table["verdict"].map(sign).fillna("")
    index = ["data", "model", "replace"]
    wide = table.pivot(index=index, columns="method", values="cell")
    order = table[index].drop_duplicates()
    wide = wide.fillna("–").loc[
        list(order.itertuples(index=False, name=None)), table["method"].unique()
    ]
    print("| " + " | ".join([*index, *wide.columns]) + " |")
    print("|---" * (len(index) + len(wide.columns)) + "|")
    for key, row in wide.iterrows():
        print("| " + " | ".join([*key, *row]) + " |")


if __name__ == "__main__":
    main()
