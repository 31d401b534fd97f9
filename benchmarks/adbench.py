"""Detectors on the tables of ADBench: this package's beside scikit-learn's and PyOD's.

    python benchmarks/adbench.py FOLDER

FOLDER holds ``adbench/classical/*.npz`` (Han et al., NeurIPS 2022), which are for evaluation only.
One stratified split of 60 to 40 per table, fitted on the normal rows of the larger part, at most
2,000 of them; tested on at most 2,000 normal and 2,000 anomalous rows of the other. Nothing is
tuned. Writes ``adbench.csv`` beside this file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.hbos import HBOS
from pyod.models.knn import KNN
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM
from tqdm.auto import tqdm

from neuralize.deep import Autoencoder, D2Neighbors, DeepSVDD, RandomPolytope, Training
from xai.evaluate import auroc

Array = NDArray[Any]


def detectors(seed: int) -> dict[str, Callable[[], Any]]:
    quick = Training(epochs=30, seed=seed, progress=False)
    return {
        "ours: Deep SVDD": lambda: DeepSVDD(training=quick),
        "ours: AE": lambda: Autoencoder(training=quick),
        "ours: random polytope": lambda: RandomPolytope(seed=seed),
        "ours: D2Neighbors": lambda: D2Neighbors(),
        "sklearn: OC-SVM": lambda: OneClassSVM(nu=0.1),
        "sklearn: forest": lambda: IsolationForest(random_state=seed),
        "sklearn: LOF": lambda: LocalOutlierFactor(novelty=True),
        "PyOD: ECOD": lambda: ECOD(),
        "PyOD: COPOD": lambda: COPOD(),
        "PyOD: HBOS": lambda: HBOS(),
        "PyOD: KNN": lambda: KNN(),
    }


def measured(folder: Path) -> Iterator[pd.DataFrame]:
    paths = sorted((folder / "adbench" / "classical").glob("*.npz"))
    for path in tqdm(paths, desc="tables"):
        with np.load(path) as arrays:
            x, y = arrays["X"].astype(np.float64), arrays["y"].astype(bool)
        fit, x_test, y_test = split(x, y)
        for name, make in detectors(0).items():
            started = time.process_time()
            problem = ""
            try:
                model = make().fit(fit)
                raw = model.decision_function(x_test)
                # scikit-learn's count the other way round
                scores = -raw if name.startswith("sklearn") else raw
                area = auroc(y_test, scores)
                (low,), (high,) = area.interval()
                found = {"auroc": area.area[0], "auroc_low": low, "auroc_high": high}
            except (ValueError, RuntimeError) as error:
                found, problem = {"auroc": np.nan}, f"{type(error).__name__}: {error}"[:120]
            yield pd.DataFrame([{
                "table": path.stem, "detector": name, **found, "train": len(fit),
                "test": len(x_test), "anomalies": int(y_test.sum()),
                "seconds": time.process_time() - started, "problem": problem,
            }])  # fmt: skip


def split(x: Array, y: Array, most: int = 2000) -> tuple[Array, Array, Array]:
    """Normal rows of 60 %, and the other 40 %, standardised by the former; at most ``most`` of
    either kind."""
    dice = np.random.default_rng(0)
    normal, wrong = (dice.permutation(np.flatnonzero(y == kind)) for kind in (False, True))
    n, m = int(0.6 * len(normal)), int(0.6 * len(wrong))
    fit, test = normal[:n][:most], np.concatenate([normal[n:][:most], wrong[m:][:most]])
    mean, std = x[fit].mean(0), x[fit].std(0)
    scaled = (x - mean) / np.where(std > 0, std, 1.0)
    return scaled[fit], scaled[test], y[test]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where adbench/classical lies")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    frame = pd.concat(measured(options.folder), ignore_index=True)
    part = options.out.with_name(options.out.name + ".part")
    frame.to_csv(part, index=False, float_format="%.4g")
    part.replace(options.out)
    areas = frame.pivot(index="table", columns="detector", values="auroc")
    print(areas.agg(["mean", "median", "count"]).T.round(3).to_string())


if __name__ == "__main__":
    main()
