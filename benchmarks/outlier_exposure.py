"""How few outliers suffice: HSC, BCE and focal loss on Fashion-MNIST, by size, image and frequency.

Normal rows and test are the subset that ships with the package, one class against the rest.
Outliers are read from a folder with ``cifar10_test2000`` (photographs: grey, the middle 28 pixels)
and ``mnist_test`` (a narrow source: the ones), see the README there.

    python benchmarks/outlier_exposure.py DATA [--study sizes|search|frequencies] [--out FILE]

Writes a line per class and setting, and prints means over the classes. Nothing is tuned per method.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch

from neuralize.deep import BinaryClassifier, HypersphereClassifier, Training
from xai.datasets import fashion_mnist
from xai.evaluate import (
    Evolution,
    evolve_outlier,
    few_outliers,
    low_pass_ablation,
    random_search,
    single_outlier_fitness,
)
from xai.evaluate.outlier_exposure import exposed_auroc

Array = np.ndarray
Line = tuple[str, str, str, str, str, float, float, int]
FIELDS = ("study", "source", "method", "normal", "setting", "mean", "sem", "trainings")
NORMAL = ("T-shirt/top", "Trouser", "Sandal", "Bag")
TRAINING = Training(epochs=12, batch_size=128, milestones=(9,), progress=False)
SHORT = Training(epochs=4, batch_size=128, milestones=(3,), progress=False)


def methods(training: Training) -> dict[str, Any]:
    common: dict[str, Any] = {"network": "mnist_lenet", "training": training}
    return {
        "HSC": HypersphereClassifier(**common),
        "BCE": BinaryClassifier(**common),
        "focal": BinaryClassifier(objective="focal", **common),
    }


def sources(folder: Path) -> dict[str, Array]:
    with np.load(folder / "cifar10_test2000" / "cifar10_test2000.npz") as z:
        photographs = z["x"][:, 2:30, 2:30].mean(3)
    with np.load(folder / "mnist_test" / "mnist_test.npz") as z:
        ones = z["x"][z["y"] == 1]
    return {
        name: np.random.default_rng(0).permutation(x)[:1024] / np.float32(255)
        for name, x in (("photographs", photographs), ("ones", ones))
    }


class Problem:
    """One class against the rest; half of the test set is for searches to look at."""

    def __init__(self, normal: str) -> None:
        self.name = normal
        train, test = fashion_mnist(), fashion_mnist("test")
        self.normals = train.images[train.names == normal].astype(np.float32)
        self.x, self.y = test.images.astype(np.float32), test.names != normal


def sizes(problem: Problem, outliers: dict[str, Array], repeats: int) -> Iterator[Line]:
    for source, x in outliers.items():
        for method, detector in methods(TRAINING).items():
            table = few_outliers(
                detector, problem.normals, x, problem.x, problem.y,
                sizes=[1, 8, 64, 1024], repeats=repeats,
            )  # fmt: skip
            for size, row in table.iterrows():
                yield ("sizes", source, method, problem.name, str(size), row["mean"], row["sem"],
                       repeats)  # fmt: skip


def frequencies(problem: Problem, outliers: dict[str, Array], repeats: int) -> Iterator[Line]:
    for method, detector in methods(TRAINING).items():
        table = low_pass_ablation(
            detector, problem.normals, outliers["photographs"], problem.x, problem.y,
            cutoffs=(0.02, 0.06, 0.2, math.inf), repeats=repeats,
        )  # fmt: skip
        for cutoff, row in table.iterrows():
            yield ("frequencies", "photographs", method, problem.name, f"{cutoff:g}", row["mean"],
                   row["sem"], repeats)  # fmt: skip


def search(problem: Problem, outliers: dict[str, Array], repeats: int) -> Iterator[Line]:
    """The winners of both searches, trained again in full, on the half of the test not searched."""
    images = outliers["photographs"]
    detector = methods(SHORT)["HSC"]
    fitness = single_outlier_fitness(
        detector, problem.normals, images, problem.x[::2], problem.y[::2]
    )
    settings = Evolution(generations=4, pool=8)
    found = {"evolution": evolve_outlier(fitness, images, settings)}
    trained = len(found["evolution"].fitness)
    found["random search"] = random_search(fitness, len(images), trained)
    for how, result in found.items():
        first = result.history.best.iloc[0] if how == "evolution" else np.nan
        best = result.fitness[result.best]
        yield ("search", "photographs", "HSC", problem.name, f"{how}: seen", best, np.nan, trained)
        if how == "evolution":
            yield ("search", "photographs", "HSC", problem.name, "first generation: seen", first,
                   np.nan, settings.pool)  # fmt: skip
        again = [
            exposed_auroc(methods(TRAINING)["HSC"], problem.normals, images[[result.best]],
                          problem.x[1::2], problem.y[1::2], repeat=1 + r)
            for r in range(repeats)
        ]  # fmt: skip
        yield ("search", "photographs", "HSC", problem.name, f"{how}: unseen", np.mean(again),
               pd.Series(again).sem(), repeats)  # fmt: skip


STUDIES = {"sizes": sizes, "frequencies": frequencies, "search": search}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--study", action="append", choices=STUDIES)
    parser.add_argument("--normal", action="append")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outliers = sources(given.data)
    if not given.out.exists():
        given.out.write_text(",".join(FIELDS) + "\n")
    for normal in given.normal or NORMAL:
        for study in given.study or STUDIES:
            begin = time.process_time()
            for line in STUDIES[study](Problem(normal), outliers, given.repeats):
                with given.out.open("a", newline="") as file:
                    csv.writer(file).writerow(
                        [*line[:5], f"{line[5]:.4f}", f"{line[6]:.4f}", line[7]]
                    )
            print(f"{study}, {normal}: {time.process_time() - begin:.0f} s", flush=True)
    rows = pd.read_csv(given.out)
    for study, part in rows.groupby("study"):
        order = list(dict.fromkeys(part.setting))
        table = part.pivot_table(
            index=["source", "method"], columns="setting", values="mean", sort=False
        )
        print(f"\n{study}\n{table[order].round(3).to_string()}")


if __name__ == "__main__":
    main()
