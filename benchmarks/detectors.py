"""What explaining costs, as a multiple of scoring, for every deep detector; and PatchCore's memory.

    python benchmarks/detectors.py [--threads 2] [--repeats 5] [--only NAME] [--out detectors.csv]

Scoring and explaining the same rows alternate in one run, and the fastest of each counts. The bar
is 3: an explanation is a forward and a backward pass, which alone cost about as much. Memory is
the peak of a process of its own that explains one picture of 224 pixels against a memory bank of
100,000 patches of 384 numbers; the bar is 2 GB.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The folder holds a file with the name of the package it measures, and comes first on the path.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KernelDensity
from torch import nn

from neuralize import Neuralized, neuralize
from neuralize.deep import (
    FCDD,
    Autoencoder,
    BinaryClassifier,
    D2Neighbors,
    DeepGMM,
    DeepSAD,
    DeepSVDD,
    Ensemble,
    HypersphereClassifier,
    PaDiM,
    PatchCore,
    RandomPolytope,
    RealNVP,
    Training,
    VariationalAutoencoder,
)
from xai.datasets import fashion_mnist
from xai.pretrained import cifar_resnet20

Array = np.ndarray
BAR, MEMORY_BAR = 3.0, 2.0
BANK, WIDTH, SIZE = 100_000, 384, 224
FIT = Training(epochs=1, progress=False)
LAYERS = ("layer2", "layer3")


def table(rows: int) -> Array:
    """Digits, repeated with a little noise, so that per-call costs do not count."""
    x = load_digits().data.astype(np.float32)
    again = np.resize(x, (rows, x.shape[1]))
    noise = np.random.default_rng(0).normal(0, 0.1, again.shape)
    return (again + noise).astype(np.float32)


def pictures(rows: int, *, colour: bool = False) -> Array:
    x = fashion_mnist("train").images[:rows].astype(np.float32)
    return np.repeat(np.pad(x, ((0, 0), (2, 2), (2, 2)))[:, None], 3, 1) if colour else x


def exposed(x: Array) -> tuple[Array, Array]:
    """Rows, and their negatives as outliers."""
    return np.concatenate([x, x.max() - x]), np.repeat([0, 1], len(x))


Case = Callable[[], tuple[Any, Array]]


def on_table(model: Any, labels: bool = False) -> Case:
    def make() -> tuple[Any, Array]:
        x = table(1200)
        return (model.fit(*exposed(x)) if labels else model.fit(x)), table(4096)

    return make


def on_pictures(model: Any, labels: bool = False, rows: int = 256) -> Case:
    def make() -> tuple[Any, Array]:
        x = pictures(600)
        return (model.fit(*exposed(x)) if labels else model.fit(x)), pictures(rows)

    return make


def on_colour(model: Callable[[], Any]) -> Case:
    def make() -> tuple[Any, Array]:
        x = pictures(200, colour=True)
        return model().fit(x), x[:32]

    return make


def semi_supervised() -> tuple[Any, Array]:
    x, y = exposed(pictures(300))
    return DeepSAD(training=FIT).fit(x, -y), pictures(256)


CASES: dict[str, Case] = {
    "KDE (reference)": on_table(KernelDensity(bandwidth=5.0)),
    "Deep SVDD, table": on_table(DeepSVDD(training=FIT)),
    "Deep SVDD, pictures": on_pictures(DeepSVDD(training=FIT)),
    "Deep SAD, pictures": semi_supervised,
    "HSC, table": on_table(HypersphereClassifier(training=FIT), True),
    "HSC, pictures": on_pictures(HypersphereClassifier(training=FIT), True),
    "BCE, pictures": on_pictures(BinaryClassifier(training=FIT), True),
    "FCDD, pictures": on_pictures(FCDD(training=FIT)),
    "autoencoder, table": on_table(Autoencoder(training=FIT)),
    "autoencoder, pictures": on_pictures(Autoencoder(training=FIT)),
    "VAE, pictures": on_pictures(VariationalAutoencoder(training=FIT)),
    "RealNVP, table": on_table(RealNVP(training=FIT)),
    "deep GMM, table": on_table(DeepGMM()),
    "random polytope, table": on_table(RandomPolytope()),
    "D2Neighbors, pictures": on_pictures(D2Neighbors()),
    "PatchCore, pictures": on_colour(lambda: PatchCore(cifar_resnet20(), layers=LAYERS)),
    "PaDiM, pictures": on_colour(lambda: PaDiM(cifar_resnet20(), layers=LAYERS)),
    "bag of KDE, autoencoder, Deep SVDD": on_table(
        Ensemble({
            "kde": KernelDensity(bandwidth=5.0), "ae": Autoencoder(training=FIT),
            "svdd": DeepSVDD(training=FIT),
        })
    ),
}  # fmt: skip


def measure(case: Case, repeats: int) -> dict[str, float]:
    """Fastest scoring and explaining of the same rows, alternating."""
    model, rows = case()
    net: Neuralized = neuralize(model, dtype=torch.float32)
    x = torch.from_numpy(rows)
    if net.n_features is not None:
        x = x.flatten(1)
    score, explain = [], []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        with torch.no_grad():
            net(x)
        middle = time.perf_counter()
        net.relevance(x)
        score.append(middle - begin)
        explain.append(time.perf_counter() - middle)
    best = min(score[1:]), min(explain[1:])
    return {
        "rows": len(x), "score_ms": 1e3 * best[0], "explain_ms": 1e3 * best[1],
        "ratio": best[1] / best[0],
    }  # fmt: skip


class Wide(nn.Module):
    """A random encoder to 384 maps at an eighth of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 4, 4)
        self.top = nn.Conv2d(64, WIDTH, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.top(torch.relu(self.stem(x))))


def memory() -> None:
    """In a process of its own: explain one large picture against a large bank."""
    torch.manual_seed(0)
    few = torch.rand(2, 3, SIZE, SIZE).numpy()
    model = PatchCore(Wide(), layers=("top",), coreset=1.0).fit(few)
    model.module_.bank = torch.rand(BANK, WIDTH)
    before = _peak()
    net = neuralize(model)
    net.relevance(torch.rand(1, 3, SIZE, SIZE))
    print(json.dumps({"before_gb": before, "peak_gb": _peak()}))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    if given.memory:
        memory()
        return
    print(f"torch {torch.__version__}, {platform.machine()}, {given.threads} threads\n")
    print("| detector | rows | scoring, ms | explaining, ms | ratio | bar 3 |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    found = []
    for name in given.only or CASES:
        line = measure(CASES[name], given.repeats)
        found.append({"detector": name, **line})
        verdict = "" if line["ratio"] <= BAR else "missed"
        print(
            f"| {name} | {line['rows']} | {line['score_ms']:.1f} | {line['explain_ms']:.1f} "
            f"| {line['ratio']:.2f} | {verdict} |",
            flush=True,
        )
    if given.out is not None:
        pd.DataFrame(found).to_csv(given.out, index=False, float_format="%.4g")
    child = subprocess.run(
        [sys.executable, __file__, "--memory", "--threads", str(given.threads)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = json.loads(child.stdout)
    print(
        f"\nPatchCore, bank {BANK} x {WIDTH}, one picture of {SIZE} pixels: peak "
        f"{peak['peak_gb']:.2f} GB ({peak['before_gb']:.2f} before the network was made), bar "
        f"{MEMORY_BAR:.0f} GB."
    )


if __name__ == "__main__":
    main()
