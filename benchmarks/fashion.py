"""Fashion-MNIST, one class against the rest: AUROC on the full test set, every class, three seeds.

Needs the full data set as Debian's package ``dataset-fashion-mnist`` lays it out, and for outlier
exposure a folder with ``cifar10_test2000`` and ``mnist_test``. Runs that are in the output already
are skipped, so it can be stopped and started.

    python benchmarks/fashion.py [--fashion DIR] [--outliers DIR] [--method NAME] [--out FILE]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from neuralize import neuralize
from neuralize.deep import (
    FCDD,
    BinaryClassifier,
    DeepSAD,
    DeepSVDD,
    HypersphereClassifier,
    Training,
)
from neuralize.deep.networks import Architecture

Array = np.ndarray
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
Method = Callable[["Data", int, int], tuple[Array, str]]
FIELDS = ("method", "normal", "seed", "auroc", "seconds", "setting")


def read_idx(path: Path) -> Array:
    """The array in one of the data set's files."""
    content = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


class Data:
    """Full Fashion-MNIST in 0 to 1, and pictures of other things."""

    def __init__(self, fashion: Path, outliers: Path | None) -> None:
        self.x = read_idx(fashion / "train-images-idx3-ubyte.gz") / np.float32(255)
        self.y = read_idx(fashion / "train-labels-idx1-ubyte.gz")
        self.x_test = read_idx(fashion / "t10k-images-idx3-ubyte.gz") / np.float32(255)
        self.y_test = read_idx(fashion / "t10k-labels-idx1-ubyte.gz")
        self.outliers = outliers

    def narrow(self) -> Array:
        """A single narrow source: the ones of MNIST."""
        assert self.outliers is not None
        with np.load(self.outliers / "mnist_test" / "mnist_test.npz") as z:
            return z["x"][z["y"] == 1].reshape(-1, 28, 28) / np.float32(255)

    def natural(self) -> Array:
        """Photographs: CIFAR-10 in grey, at 28 pixels."""
        assert self.outliers is not None
        with np.load(self.outliers / "cifar10_test2000" / "cifar10_test2000.npz") as z:
            x = torch.from_numpy(z["x"]).float()
        if x.shape[-1] == 3:
            x = x.permute(0, 3, 1, 2)
        grey = x.mean(1, keepdim=True) / 255
        small = torch.nn.functional.interpolate(grey, 28, mode="bilinear", antialias=True)
        return small[:, 0].numpy()


def settings(epochs: int, seed: int, **options: Any) -> Training:
    return Training(
        **{"epochs": epochs, "batch_size": 200, "seed": seed, "progress": False, **options}
    )


def one_class_svm(data: Data, normal: int, seed: int) -> tuple[Array, str]:
    x = data.x[data.y == normal].reshape(-1, 784)
    model = OneClassSVM(nu=0.1, gamma="scale").fit(x)
    return -model.score_samples(data.x_test.reshape(-1, 784)), "nu .1, gamma scale"


def kernel_density(data: Data, normal: int, seed: int) -> tuple[Array, str]:
    x = data.x[data.y == normal].reshape(-1, 784).astype(np.float64)
    width = float(np.sqrt(x.var() * 784) / 4)
    net = neuralize(KernelDensity(bandwidth=width).fit(x), dtype=torch.float32)
    return net(torch.from_numpy(data.x_test.reshape(-1, 784))).numpy(), "a quarter of the spread"


def svdd_options(seed: int) -> dict[str, Any]:
    return {
        "network": Architecture(
            kind="lenet", input_shape=(1, 28, 28), channels=(16, 32), rep_dim=256
        ),
        "preprocessing": None,
        "pretraining": settings(5, seed),
        "training": settings(6, seed, lr=1e-4),
    }


def deep_svdd(data: Data, normal: int, seed: int) -> tuple[Array, str]:
    model = DeepSVDD(**svdd_options(seed)).fit(data.x[data.y == normal])
    return model.decision_function(data.x_test), f"variance share {model.variance_share_:.1e}"


def deep_sad(data: Data, normal: int, seed: int) -> tuple[Array, str]:
    """1 % of the training rows labelled, all of one other class."""
    other = (normal + 1 + seed) % 10
    x = data.x[data.y == normal]
    rng = np.random.default_rng(seed)
    known = rng.permutation(np.flatnonzero(data.y == other))[: round(len(x) / 99)]
    rows = np.concatenate([x, data.x[known]])
    labels = np.repeat([0, -1], [len(x), len(known)])
    model = DeepSAD(**svdd_options(seed)).fit(rows, labels)
    return model.decision_function(data.x_test), f"{len(known)} of class {other}"


def exposed(cls: type[HypersphereClassifier] | type[BinaryClassifier]) -> Method:
    """A classifier exposed to the ones of MNIST; the network is the one it picks by itself."""

    def run(data: Data, normal: int, seed: int) -> tuple[Array, str]:
        training = settings(3, seed, batch_size=256, milestones=(2,))
        x, y = against(data.x[data.y == normal], data.narrow())
        model = cls(training=training).fit(x, y)
        return model.decision_function(data.x_test), f"{int(y.sum())} ones"

    return run


def fcdd(data: Data, normal: int, seed: int) -> tuple[Array, str]:
    training = settings(4, seed, batch_size=128, lr=1e-3, milestones=(3,))
    x, y = against(data.x[data.y == normal], data.natural())
    model = FCDD(preprocessing="contrast", training=training).fit(x, y)
    return model.decision_function(data.x_test), f"{int(y.sum())} photographs"


def against(normals: Array, outliers: Array) -> tuple[Array, Array]:
    """Normal rows and outliers under one another, labelled 0 and 1."""
    labels = np.repeat([0, 1], [len(normals), len(outliers)])
    return np.concatenate([normals, outliers]), labels


METHODS: dict[str, Method] = {
    "OC-SVM": one_class_svm,
    "KDE": kernel_density,
    "Deep SVDD": deep_svdd,
    "Deep SAD 1%": deep_sad,
    "HSC, narrow": exposed(HypersphereClassifier),
    "BCE, narrow": exposed(BinaryClassifier),
    "FCDD, natural": fcdd,
}
FIXED = ("OC-SVM", "KDE")
"""Methods without chance: one seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fashion", type=Path, default=DEBIAN)
    parser.add_argument("--outliers", type=Path)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--normal", type=int, action="append")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    given = parser.parse_args()
    if not given.fashion.is_dir():
        print(f"Not run: no {given.fashion}. Install dataset-fashion-mnist, or pass --fashion DIR.")
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = Data(given.fashion, given.outliers)
    done = set()
    if given.out.exists():
        rows = pd.read_csv(given.out)
        done = set(zip(rows.method, rows.normal, rows.seed, strict=True))
    else:
        given.out.write_text(",".join(FIELDS) + "\n")
    for seed in range(given.seeds):
        for method in given.method or METHODS:
            for normal in given.normal or range(10):
                if (method, normal, seed) in done or (method in FIXED and seed > 0):
                    continue
                begin = time.perf_counter()
                scores, setting = METHODS[method](data, normal, seed)
                auroc = roc_auc_score(data.y_test != normal, scores)
                row = (method, normal, seed, f"{auroc:.4f}", f"{time.perf_counter() - begin:.0f}")
                with given.out.open("a", newline="") as file:
                    csv.writer(file).writerow([*row, setting])
                print(*row, setting, flush=True)
    print(summary(pd.read_csv(given.out)).to_string())


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over classes of every seed; over the seeds, mean and standard error."""
    by_seed = rows.groupby(["method", "seed"]).auroc.mean()
    table = by_seed.groupby("method").agg(["mean", "sem", "count"])
    table["classes"] = rows.groupby("method").normal.nunique()
    return table.round(4)


if __name__ == "__main__":
    main()
