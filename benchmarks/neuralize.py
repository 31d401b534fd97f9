"""Cost of relevance beside the cost of the decision it explains, in one run.

    python benchmarks/neuralize.py [--threads 2] [--repeats 5] [--case NAME] [--no-shap]

Every case runs in a process of its own, so that its peak memory is its own. Ratios are to the score
(or the distances) computed by the same network on the same rows in the same process, the fastest of
several repeats each. SHAP's KernelExplainer explains the same network's score, a few rows only,
with its default number of samples and ten background points.
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

# This file has the name of the package it measures, and its folder comes first on the path.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import torch
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from neuralize import Neuralized, neuralize

CASES = {
    f"{name} {bits}": (name, bits)
    for name in ("kde", "one-class svm", "k-means")
    for bits in (32, 64)
}


def fastest(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of ``repeats`` calls, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def seconds_per_row(score: Callable[[np.ndarray], Any], rows: np.ndarray) -> float:
    return fastest(lambda: score(rows), 1) / len(rows)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def shap_seconds_per_row(net: Neuralized, background: torch.Tensor, rows: torch.Tensor) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap

        def score(values: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                out = net(torch.from_numpy(values).to(net.dtype))
            return (out.amax(1) if out.ndim == 2 else out).numpy()

        explainer = shap.KernelExplainer(score, background.numpy(), silent=True)
        start = time.perf_counter()
        explainer.shap_values(rows.numpy(), silent=True)
        return (time.perf_counter() - start) / len(rows)


def outlier_case(name: str, dtype: torch.dtype, repeats: int, shap: bool) -> dict[str, float]:
    """2,000 queries, 20,000 support points, 784 features."""
    random = np.random.default_rng(0)
    support = random.random((20_020 if name == "one-class svm" else 20_000, 784))
    if name == "kde":
        model: Any = KernelDensity(bandwidth=3.0).fit(support)
        own = "score_samples"
    else:
        # nu close to one makes (nearly) every training point a support vector.
        model = OneClassSVM(nu=0.9995, gamma=0.02).fit(support)
        own = "decision_function"
    del support
    net = neuralize(model, dtype=dtype)
    own_seconds = seconds_per_row(getattr(model, own), random.random((20, 784)))
    points = net.width
    del model  # its copy of the support points is not ours to count
    x = torch.from_numpy(random.random((2000, 784))).to(dtype)
    with torch.no_grad():
        score = fastest(lambda: net(x), repeats)
    relevance = fastest(lambda: net.relevance(x), repeats)
    found = {
        "support points": points,
        "score s": score,
        "relevance s": relevance,
        "ratio": relevance / score,
        "peak MB": peak_megabytes(),
        "model's own score, relevances": own_seconds * len(x) / relevance,
    }
    if shap:
        seconds = shap_seconds_per_row(net, x[:10], x[10:11])
        found["SHAP, relevances"] = seconds * len(x) / relevance
    return found


def cluster_case(dtype: torch.dtype, repeats: int, shap: bool) -> dict[str, float]:
    """100,000 points, 50 clusters, 100 features."""
    random = np.random.default_rng(0)
    net = neuralize(random.normal(size=(50, 100)), dtype=dtype)
    x = torch.from_numpy(random.normal(size=(100_000, 100))).to(dtype)
    distances = net.distances

    def all_distances() -> torch.Tensor:
        """The squared distances as one array, in the chunks and the way relevance is kept."""
        kept = x.new_empty(len(x), len(distances.support))
        with torch.no_grad():
            for start in range(0, len(x), net.rows_at_once):
                rows = slice(start, start + net.rows_at_once)
                kept[rows] = distances(x[rows])
        return kept

    score = fastest(all_distances, repeats)
    relevance = fastest(lambda: net.relevance(x), repeats)
    centroids = distances.support + distances.center
    array, centers = x.numpy(), centroids.numpy()
    found = {
        "support points": 50,
        "score s": score,
        "relevance s": relevance,
        "ratio": relevance / score,
        "peak MB": peak_megabytes(),
        "ratio to sklearn distances": relevance
        / fastest(lambda: euclidean_distances(array, centers, squared=True), repeats),
        "ratio to torch.cdist": relevance / fastest(lambda: torch.cdist(x, centroids), repeats),
    }
    if shap:
        seconds = shap_seconds_per_row(net, x[:10], x[10:20])
        found["SHAP, relevances"] = seconds * len(x) / relevance
    return found


def run_case(case: str, repeats: int, shap: bool) -> dict[str, float]:
    name, bits = CASES[case]
    dtype = torch.float32 if bits == 32 else torch.float64
    if name == "k-means":
        return cluster_case(dtype, repeats, shap)
    return outlier_case(name, dtype, repeats, shap)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--no-shap", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        print(json.dumps(run_case(arguments.case, arguments.repeats, not arguments.no_shap)))
        return
    print(f"{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}\n")
    for case in CASES:
        command = [sys.executable, str(Path(__file__)), "--case", case]
        command += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
        command += ["--no-shap"] if arguments.no_shap else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{case} failed:\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{case}: " + ", ".join(f"{key} {value:.3g}" for key, value in found.items()))


if __name__ == "__main__":
    main()
