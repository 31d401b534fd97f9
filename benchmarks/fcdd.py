"""FCDD: which map lies on the anomaly, and does it see a planted mark?

    python benchmarks/fcdd.py [--part surfaces|mark] [--seeds N] [--out CSV]

``surfaces``: ground surfaces of 64 pixels drawn by code, 400 clean ones for training; tested on 200
clean and 200 with a defect. Trained on confetti, and with 5 ground truth maps beside it. Maps:
``A`` brought to the size of the picture by Gaussians, by the nearest unit and bilinearly; relevance
of the score; the blurred ``|gradient|`` of the score, which is what one does with detectors that
have no map (HSC).

``mark``: Fashion-MNIST (the subset that ships), one class normal, another the anomaly to train
against, all of whose pictures carry a white square in a corner. A Clever Hans: the heat should be
in the square, and AUROC on pictures without it should fall. Compared with the same training without
the mark. A' cannot be narrower than what a unit sees: the heat within half a receptive field of the
square is given too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation, gaussian_filter
from sklearn.metrics import roc_auc_score

import xai
from neuralize.deep import FCDD, Training
from neuralize.deep.receptive_field import receptive_field
from neuralize.deep.upsampling import default_sigma
from xai.datasets import fashion_mnist, plant_mark
from xai.evaluate import per_region_overlap
from xai.textures import ground_surfaces

Array = np.ndarray


def settings(epochs: int, seed: int, **options: Any) -> Training:
    given = {"batch_size": 64, "lr": 3e-3, "milestones": (int(0.7 * epochs),), "progress": False}
    return Training(epochs=epochs, seed=seed, **{**given, **options})


def resized(detector: FCDD, x: Array, mode: str) -> Array:
    maps = torch.from_numpy(detector.native_map(x))[:, None]
    options = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(maps, size=x.shape[-2:], mode=mode, **options)[:, 0].numpy()


def blurred(values: Array) -> Array:
    sigma = default_sigma(values.shape[-2:])
    return np.stack([gaussian_filter(v, sigma) for v in values.astype(np.float64)])


MAPS: dict[str, Callable[[FCDD, Array], Array]] = {
    "A', Gaussian": lambda d, x: d.anomaly_map(x),
    "A', nearest": lambda d, x: resized(d, x, "nearest"),
    "A', bilinear": lambda d, x: resized(d, x, "bilinear"),
    "relevance": lambda d, x: xai.explain(d, x, progress=False).values,
    "relevance, blurred": lambda d, x: blurred(xai.explain(d, x, progress=False).values),
    "|gradient|, blurred": lambda d, x: blurred(
        np.sqrt(xai.explain(d, x, method="gradient", progress=False).values)
    ),
}
"""Maps ``(n, h, w)`` of grey pictures."""


def surfaces(seed: int) -> list[dict[str, Any]]:
    data = ground_surfaces(600, 205, size=64, seed=seed)
    test = data.select(np.r_[400:600, 605:805])
    few = np.r_[:400, 600:605]
    ways: dict[str, Callable[[], FCDD]] = {
        "confetti": lambda: FCDD(training=settings(12, seed)).fit(data.images[:400]),
        "5 maps": lambda: FCDD(training=settings(12, seed)).fit(
            data.images[few], data.labels[few], masks=data.masks[few]
        ),
        "5 maps and confetti": lambda: FCDD(training=settings(12, seed), confetti=0.5).fit(
            data.images[few], data.labels[few], masks=data.masks[few]
        ),
    }
    rows = []
    for name, fit in ways.items():
        start = time.process_time()
        detector = fit()
        seconds = time.process_time() - start
        image = roc_auc_score(test.labels, detector.decision_function(test.images))
        for kind, make in MAPS.items():
            maps = make(detector, test.images)
            rows.append({
                "part": "surfaces", "trained on": name, "seed": seed, "map": kind,
                "image AUROC": image,
                "pixel AUROC": roc_auc_score(test.masks.ravel(), maps.ravel()),
                "PRO": per_region_overlap(maps, test.masks), "fit (CPU s)": seconds,
            })  # fmt: skip
    return rows


def share_inside(maps: Array, place: Array) -> float:
    """Mean share of a map's positive heat that lies in ``place``."""
    positive = np.maximum(maps, 0)
    return float(np.mean(positive[:, place].sum(1) / positive.sum((1, 2))))


def mark(seed: int, normal: str = "Dress", anomalous: str = "Coat") -> list[dict[str, Any]]:
    train, test = fashion_mnist(), fashion_mnist("test")
    x, x_test = train.images[train.names == normal], test.images[test.names == normal]
    other, clean = train.images[train.names == anomalous], test.images[test.names == anomalous]
    rows = []
    for planted in (False, True):
        everywhere = np.arange(len(other)) if planted else []
        seen, place = plant_mark(other, everywhere)
        marked, place = plant_mark(clean, np.arange(len(clean)))
        data = np.concatenate([x, seen])
        labels = np.repeat([0, 1], [len(x), len(other)])
        detector = FCDD(training=settings(10, seed), preprocessing="contrast").fit(data, labels)
        inside = np.repeat([0, 1], [len(x_test), len(clean)])
        r = receptive_field(detector.module_.network, (1, 28, 28)).r[0]
        near = binary_dilation(place, np.ones((3, 3)), iterations=r // 2)
        auroc = {
            name: roc_auc_score(
                inside, detector.decision_function(np.concatenate([x_test, anomalies]))
            )
            for name, anomalies in (("with mark", marked), ("without", clean))
        }
        for kind, make in MAPS.items():
            rows.append({
                "part": "mark", "trained on": "marked" if planted else "unmarked", "seed": seed,
                "map": kind, "AUROC with mark": auroc["with mark"],
                "AUROC without": auroc["without"],
                "heat inside": share_inside(make(detector, marked), place),
                "heat within half a field": share_inside(make(detector, marked), near),
                "area": float(place.mean()), "area within half a field": float(near.mean()),
            })  # fmt: skip
    return rows


PARTS = {"surfaces": surfaces, "mark": mark}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for part in given.part or PARTS:
        for seed in range(given.seeds):
            rows += PARTS[part](seed)
            table = pd.DataFrame(rows)
            table.to_csv(given.out, index=False, float_format="%.4f")
        shown = table[table.part == part].dropna(axis=1, how="all")
        print(shown.groupby(["trained on", "map"], sort=False).mean(numeric_only=True)
              .drop(columns="seed").round(3).to_string())  # fmt: skip


if __name__ == "__main__":
    main()
