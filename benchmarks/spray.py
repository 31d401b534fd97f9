"""Spectral clusters of many maps: time and peak memory, beside the plain dense way.

    python benchmarks/spray.py [--maps 4000 10000 100000] [--features 64 256]

Maps are made like those of models with a few strategies: ten groups of directions with noise, the
smallest in 2 % of the rows. Up to 4,000 maps the dense way is timed beside ours in one run: all
distances, a dense symmetric kNN graph, all eigenvalues (``numpy.linalg.eigh``), k-means. Every line
is measured in a process of its own; memory is the peak beyond the imports and the maps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from xai.spray import spectral_clusters

Array = NDArray[Any]
GROUPS, NEIGHBOURS, PAIRS = 10, 10, 32
DENSE = 4000
"""Most maps the dense way is timed on: it takes n^2 memory and n^3 time."""


def planted(n: int, p: int, seed: int = 0) -> tuple[Array, Array]:
    """Maps ``(n, p)`` in ten groups of 2 to 20 % of the rows, and their groups."""
    rng = np.random.default_rng(seed)
    shares = np.linspace(1, 10, GROUPS)
    groups = rng.choice(GROUPS, n, p=shares / shares.sum())
    centres = 2 * rng.normal(size=(GROUPS, p)).astype(np.float32)
    return centres[groups] + rng.normal(size=(n, p)).astype(np.float32), groups


def dense(maps: Array) -> Array:
    """Labels by the textbook: nothing sparse, nothing left out."""
    x = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    far = cdist(x, x)
    np.fill_diagonal(far, np.inf)
    joined = np.zeros_like(far)
    np.put_along_axis(joined, np.argsort(far, axis=1)[:, :NEIGHBOURS], 1.0, axis=1)
    joined = np.maximum(joined, joined.T)
    d = joined.sum(1)
    values, vectors = np.linalg.eigh(joined / np.sqrt(d[:, None] * d))
    values, vectors = values[::-1][:PAIRS], vectors[:, ::-1][:, :PAIRS]
    count = int(np.argmax(values[:-1] - values[1:])) + 1
    rows = vectors[:, :count]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return KMeans(count, n_init=10, random_state=0).fit_predict(rows)


def measure(way: str, n: int, p: int) -> dict[str, float]:
    maps, groups = planted(n, p)
    spectral_clusters(maps[:200])  # libraries load what they load late
    before = _peak()
    start = time.perf_counter()
    labels = dense(maps) if way == "dense" else spectral_clusters(maps).labels
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "megabytes": _peak() - before,
        "clusters": int(labels.max()) + 1,
        "rand": adjusted_rand_score(groups, labels),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _apart(way: str, n: int, p: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--one", way, str(n), str(p)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(told)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, nargs="+", default=[DENSE, 10_000, 100_000])
    parser.add_argument("--features", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        way, n, p = given.one
        print(json.dumps(measure(way, int(n), int(p))))
        return
    print("| maps | features | way | seconds | MB | clusters | adjusted Rand | time / dense |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for n in given.maps:
        for p in given.features:
            found = {w: _apart(w, n, p) for w in (["dense", "ours"] if n <= DENSE else ["ours"])}
            for way, m in found.items():
                ratio = m["seconds"] / found["dense"]["seconds"] if "dense" in found else np.nan
                print(
                    f"| {n:,} | {p} | {way} | {m['seconds']:.1f} | {m['megabytes']:.0f} | "
                    f"{m['clusters']} | {m['rand']:.3f} | "
                    f"{'' if np.isnan(ratio) else f'{ratio:.3f}'} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
