"""Pixel-flipping of LRP against every baseline: k-means clusters and one-vs-rest outlier scores.

    python benchmarks/flipping.py [--out flipping.csv] [--seeds 5] [--only wine]

Prints a Markdown table and writes every number as CSV. Each seed draws its own training rows, its
own rows to explain and, for outliers, its own normal class; models are fitted anew. Nothing is
tuned: kernels take the median heuristic, the rest scikit-learn's defaults or what `fit` says.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from tqdm.auto import tqdm

from xai.datasets import fashion_mnist
from xai.evaluate import compare, paired_verdict

Array = NDArray[Any]

METHODS = {
    "lrp": "LRP",
    "gradient": "gradient²",
    "gradient_x_input": "gradient × input",
    "integrated_gradients": "integrated gradients",
    "nearest_neighbor_difference": "nearest neighbour",
    "random": "random",
}
SIGNS = {"LRP better": "", "LRP worse": " ▼", "undecided": " ="}


@dataclass(frozen=True)
class Dataset:
    """Rows with classes, and how features are removed from them."""

    name: str
    x: Array
    y: Array
    replace: str
    patch: int
    n_steps: int | None
    n_fit: int  # most training rows of a clustering; a detector takes at most half of them
    n_rows: int  # rows explained per seed
    models: tuple[str, ...]

    @property
    def flat(self) -> Array:
        return self.x.reshape(len(self.x), -1)


def datasets() -> Iterator[Dataset]:
    every = ("k-means", "KDE", "one-class SVM", "k-NN", "PCA", "Mahalanobis", "GMM", "forest")
    wine = load_wine()
    x = StandardScaler().fit_transform(wine.data)
    yield Dataset("wine", x, wine.target, "conditional", 1, None, 120, 50, every)
    digits = load_digits()
    x = digits.images / 16
    yield Dataset("digits", x, digits.target, "conditional", 1, None, 600, 200, every)
    parts = [fashion_mnist("train"), fashion_mnist("test")]
    x = np.concatenate([part.images for part in parts])
    y = np.concatenate([part.labels for part in parts])
    for replace in ("conditional", "inpaint"):
        yield Dataset("Fashion-MNIST", x, y, replace, 4, 25, 1000, 60, every[:5])


def fit(name: str, x: Array, n_classes: int, seed: int) -> Any:
    """The model called ``name`` on flat rows ``(n, d)``."""
    # Median heuristic: the kernel falls to 1/e over a typical squared distance.
    g = 1 / np.median(pdist(x[:500], "sqeuclidean"))
    models = {
        "k-means": KMeans(n_classes, n_init=3, random_state=seed),
        "KDE": KernelDensity(bandwidth=(1 / (2 * g)) ** 0.5),
        "one-class SVM": OneClassSVM(nu=0.1, gamma=g),
        "k-NN": NearestNeighbors(n_neighbors=5),
        "PCA": PCA(0.9),
        "Mahalanobis": LedoitWolf(),
        "GMM": GaussianMixture(3, covariance_type="diag", reg_covar=1e-2, random_state=seed),
        "forest": IsolationForest(random_state=seed),
    }
    return models[name].fit(x)


def draw(data: Dataset, seed: int, *, one_class: bool) -> tuple[Array, Array]:
    """Rows to fit on and rows to explain, as indices; of one class, and of the others."""
    order = np.random.default_rng(seed).permutation(len(data.x))
    train, test = np.array_split(order, [2 * len(order) // 3])
    n_fit = data.n_fit
    if one_class:
        classes = np.unique(data.y)
        normal = data.y == classes[seed % len(classes)]
        train, test, n_fit = train[normal[train]], test[~normal[test]], n_fit // 2
    return train[:n_fit], test[: data.n_rows]


def experiment(data: Dataset, name: str, seed: int) -> pd.Series:
    """Mean area of every method for one seed."""
    train, test = draw(data, seed, one_class=name != "k-means")
    table = compare(
        fit(name, data.flat[train], len(np.unique(data.y)), seed),
        data.x[test],
        reference=data.x[train],
        replace=data.replace,
        patch=data.patch,
        n_steps=data.n_steps,
        seeds=[seed],
        progress=False,
    )
    return table["auc"]


def judge(areas: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard error over seeds and paired verdict from areas (seeds x methods)."""
    others = [m for m in areas.columns if m != "lrp"]
    lines = []
    for method in areas.columns:
        line: dict[str, Any] = {
            "method": method,
            "auc": areas[method].mean(),
            "standard_error": areas[method].sem(),
        }
        if method != "lrp":
            line |= paired_verdict(
                areas["lrp"].to_numpy(), areas[method].to_numpy(), n_comparisons=len(others)
            )
        lines.append(line)
    return pd.DataFrame(lines)


def markdown(table: pd.DataFrame) -> str:
    """One line per data set and model, one column per method."""
    index = ["data", "replace", "model"]
    lines = ["| " + " | ".join([*index, *METHODS.values()]) + " |"]
    lines.append("|---" * (len(METHODS) + len(index)) + "|")
    for key, part in table.groupby(index, sort=False):
        cells = []
        for method in METHODS:
            found = part[part["method"] == method]
            if found.empty:
                cells.append("–")
                continue
            row = found.iloc[0]
            sign = SIGNS.get(row["verdict"], "")
            cells.append(f"{row['auc']:.3f} ± {row['standard_error']:.3f}{sign}")
        lines.append("| " + " | ".join([*map(str, key), *cells]) + " |")
    return "\n".join(lines)


def write(table: pd.DataFrame, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    table.to_csv(part, index=False, float_format="%.6g")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="name of one data set")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small: a second thread only waits
    parts, started = [], time.perf_counter()
    for data in datasets():
        if options.only not in (None, data.name):
            continue
        for model in tqdm(data.models, desc=data.name, delay=2):
            areas = pd.DataFrame([experiment(data, model, seed) for seed in range(options.seeds)])
            parts.append(judge(areas).assign(data=data.name, replace=data.replace, model=model))
    table = pd.concat(parts, ignore_index=True)
    write(table, options.out)
    print(markdown(table))
    print(f"\n{options.seeds} seeds, {time.perf_counter() - started:.0f} s; {options.out}")


if __name__ == "__main__":
    main()
