"""Collapse of Deep SVDD with and without regularisers: latent variance, response, AUROC.

python benchmarks/collapse.py [--lenets] [--out FILE]

Tables: one class against the others, an MLP without normalisation. LeNets: Fashion-MNIST.
``invited`` has biases, a zero centre and strong weight decay; ``bias-free`` none of them. Runs that
are in the output already are skipped.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

from neuralize.deep import DeepSVDD, Training
from xai.datasets import fashion_mnist

SEEDS = (0, 1, 2)
TABLES = {
    "wine": (load_wine, 1),
    "breast_cancer": (load_breast_cancer, 1),
    "digits": (load_digits, 0),
}
LENETS = ("T-shirt/top", "Trouser")
IMAGES = 300
AGAINST: dict[str, dict[str, Any]] = {
    "none": {},
    "noise, adaptive": {"regularizer": "noise"},
    "noise, weight 0.1": {"regularizer": "noise", "regularizer_weight": 0.1},
    "variance, adaptive": {"regularizer": "variance"},
    "variance, weight 1": {"regularizer": "variance", "regularizer_weight": 1.0},
    "variance, weight 1, margin kept": {"regularizer": "variance", "regularizer_weight": 1.0},
}
COLUMNS = ("data", "network", "setting", "regularizer", "seed", "latent_variance", "variance_share",
           "response_share", "contrast", "collapsed", "auroc")  # fmt: skip

Array = np.ndarray


def table(name: str) -> tuple[Array, Array, Array]:
    """Training rows of one class, held-out rows, and which of these are of another class."""
    load, label = TABLES[name]
    bunch = load()
    x, y = bunch.data.astype(np.float32), bunch.target
    own = np.random.default_rng(0).permutation(np.flatnonzero(y == label))
    train, rest = np.split(own, [3 * len(own) // 5])
    held = np.concatenate([rest, np.flatnonzero(y != label)])
    return x[train], x[held], y[held] != label


def clothes(name: str) -> tuple[Array, Array, Array]:
    test = fashion_mnist("test")
    return fashion_mnist(classes=[name]).images[:IMAGES], test.images, test.names != name


def dense(d: int, bias: bool, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(d, 32, bias=bias), nn.LeakyReLU(), nn.Linear(32, 16, bias=bias), nn.LeakyReLU(),
        nn.Linear(16, 8, bias=bias),
    )  # fmt: skip


class MarginKept(DeepSVDD):
    """The variance hinge without annealing."""

    def _objective(self, module: Any, y: Any) -> Any:
        objective = super()._objective(module, y)
        objective.against.every = 10**9
        return objective


def detectors(d: int | None, seed: int) -> Iterator[tuple[str, str, DeepSVDD]]:
    """Setting, regulariser and detector; with ``d`` columns, or for pictures."""
    for setting, invited in (("invited", True), ("bias-free", False)):
        decay = 1e-2 if invited else 5e-7
        plan = Training(100, 64, 1e-2, weight_decay=decay, seed=seed, progress=False)
        if d is None:
            plan = Training(12, 64, 1e-2, weight_decay=decay, seed=seed, progress=False)
        for name, against in AGAINST.items():
            network = "auto" if d is None else dense(d, invited, seed)
            cls = MarginKept if name.endswith("margin kept") else DeepSVDD
            yield setting, name, cls(
                network=network, bias=invited, center="zero" if invited else "mean", training=plan,
                **against,
            )  # fmt: skip


def measured(model: DeepSVDD, x: Array, held: Array, abnormal: Array) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x)
    with torch.no_grad():
        phi = model.module_.represent(torch.from_numpy(np.asarray(x[:512], dtype=np.float32)))
    found = model.response_
    return {
        "latent_variance": f"{float(phi.double().var(0).sum()):.3g}",
        "variance_share": f"{found.variance_share:.3g}",
        "response_share": f"{found.share:.3g}",
        "contrast": f"{found.contrast:.3g}",
        "collapsed": int(found.collapsed),
        "auroc": f"{roc_auc_score(abnormal, model.decision_function(held)):.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lenets", action="store_true", help="LeNets as well (minutes)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [(name, "mlp") for name in TABLES] + [(n, "lenet") for n in LENETS if options.lenets]
    done = set()
    if options.out.exists():
        with options.out.open(newline="") as file:
            done = {tuple(row[c] for c in COLUMNS[:5]) for row in csv.DictReader(file)}
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not done:
            writer.writeheader()
        for name, network in tqdm(jobs):
            data = table(name) if network == "mlp" else clothes(name)
            for seed in SEEDS:
                width = data[0].shape[1] if network == "mlp" else None
                for setting, against, model in detectors(width, seed):
                    run = (name, network, setting, against, str(seed))
                    if run not in done:
                        found = measured(model, *data)
                        writer.writerow(dict(zip(COLUMNS, run, strict=False)) | found)
                        file.flush()


if __name__ == "__main__":
    main()
