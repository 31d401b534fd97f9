"""Relevance over cell graphs: one pass against masks and walks, and up to a million cells.

Every ratio is of two things timed in this run. Sizes run in a process each, so that peak memory is
their own; it includes the interpreter and the libraries.

    python benchmarks/graphs.py [--sizes 10000 100000 1000000] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

# A file beside this one is called graphs, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import torch

from graphs import CellGraph, CellGraphNet, explain, graph_input, grid_partition
from graphs.build import knn_graph
from graphs.walks import all_walks, walk_relevance, walker

Array = np.ndarray


def tissue(n: int, seed: int = 0, k: int = 3) -> CellGraph:
    """Cells thrown into a square at one per 100 um^2, of 16 phenotypes in patches of 100 um."""
    rng = np.random.default_rng(seed)
    side = np.sqrt(n * 100)
    positions = rng.random((n, 2)) * side
    patch = (positions // 100).astype(np.int64)
    phenotypes = (patch.sum(1) * 5 + rng.integers(0, 6, n)) % 16
    cells = CellGraph(
        positions, phenotypes, tuple(f"type {p}" for p in range(16)), np.zeros(n, np.int64),
        ("image",), ("patient",),
    )  # fmt: skip
    return knn_graph(cells, k=k)


def network(hidden: int = 64) -> CellGraphNet:
    torch.manual_seed(0)
    return CellGraphNet(in_features=16, hidden=hidden).eval()


def seconds(work, repeats: int = 3) -> float:
    """The least of some runs, after one that warms up."""
    work()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


def against_masks() -> None:
    """One pass for all parts against one masked pass per part."""
    net = network()
    print(f"{'cells':>7} {'parts':>6} {'one pass':>9} {'masks':>9} {'ratio':>7} "
          f"{'backward only':>14} {'ratio':>7} {'largest difference':>19}")  # fmt: skip
    for n, size in ((2000, 100), (10_000, 100), (10_000, 50)):
        graph = tissue(n)
        partition = grid_partition(graph, size)
        codes = torch.from_numpy(partition.codes)
        one = seconds(lambda g=graph, p=partition: explain(net, g, partition=p, progress=False))
        sums = partition.sums(explain(net, graph, partition=partition, progress=False).cells)
        some = np.linspace(0, len(partition) - 1, 12).astype(int).tolist()

        def masked(part: int, walk, codes=codes) -> float:
            mask = (codes == part).to(walk.free)
            found = walk.through({("layer", k): mask for k in range(walk.layers + 1)})
            return float(found.sum())

        def alone(part: int, graph=graph) -> float:
            with walker(net, graph) as walk:
                return masked(part, walk)

        each = seconds(lambda f=alone, p=some: [f(part) for part in p], 1) / len(some)
        with walker(net, graph) as walk:
            back = seconds(lambda w=walk, p=some, f=masked: [f(part, w) for part in p], 1)
            found = np.array([masked(part, walk) for part in some])
        back /= len(some)
        worst = np.abs(found - sums[some]).max() / np.abs(sums).max()
        g = len(partition)
        print(f"{n:7} {g:6} {one:8.3f}s {each * g:8.1f}s {each * g / one:6.0f}x "
              f"{back * g:13.1f}s {back * g / one:6.0f}x {worst:19.1e}")  # fmt: skip


def against_walks() -> None:
    """One pass against enumerating walks, which sum to the same."""
    net = network(16).double()
    graph = tissue(40)
    walks = all_walks(graph, 3)
    one = seconds(lambda: explain(net, graph, progress=False))
    some = walks[:512]
    many = seconds(lambda: walk_relevance(net, graph, some, chunk=128), 1) / len(some) * len(walks)
    print(f"\n{len(graph)} cells, {len(walks)} walks of 3 steps: one pass {one * 1e3:.0f} ms, "
          f"walks {many:.1f} s, {many / one:.0f}x (from {len(some)} of them)")  # fmt: skip


def one_size(n: int, device: str) -> dict[str, float]:
    """Seconds of each step and peak memory, in this process."""
    begin = time.perf_counter()
    graph = tissue(n)
    built = time.perf_counter()
    partition = grid_partition(graph, 100)
    net = network().to(device)
    found = explain(net, graph, partition=partition, device=device, progress=False)
    done = time.perf_counter()
    data = graph_input(graph).to(device)
    with torch.no_grad():
        start = time.perf_counter()
        net(data)
        forward = time.perf_counter() - start
    return {
        "cells": n,
        "edges": graph.edges.shape[1],
        "parts": len(partition),
        "build_s": built - begin,
        "explain_s": done - built,
        "forward_s": forward,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0,
        "error": float(found.relative_conservation_error[0]),
    }


def sizes(numbers: list[int], device: str) -> None:
    print(f"\n{'cells':>8} {'edges':>9} {'parts':>6} {'build':>7} {'explain':>8} {'us/cell':>8} "
          f"{'forward':>8} {'ratio':>6} {'peak':>8} {'error':>8}")  # fmt: skip
    for n in numbers:
        command = [sys.executable, __file__, "--one", str(n), "--device", device]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        r = json.loads(out.splitlines()[-1])
        total = r["build_s"] + r["explain_s"]
        gpu = f", {r['gpu_gb']:.1f} GB on the GPU" if r["gpu_gb"] else ""
        ratio = r["explain_s"] / r["forward_s"]
        print(f"{n:8} {r['edges']:9} {r['parts']:6} {r['build_s']:6.1f}s {r['explain_s']:7.1f}s "
              f"{total / n * 1e6:8.1f} {r['forward_s']:7.2f}s {ratio:5.1f}x "
              f"{r['peak_gb']:5.2f} GB {r['error']:8.1e}{gpu}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one_size(given.one, given.device)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.device}")
    against_masks()
    against_walks()
    sizes(given.sizes, given.device)


if __name__ == "__main__":
    main()
