"""Draw docs/pictures/detector_ensemble.png: three detectors of corrupted clothes, and their bag.

python benchmarks/pictures/ensemble.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from sklearn.neighbors import KernelDensity

import xai
from neuralize import neuralize
from neuralize.deep import DeepSVDD, Ensemble, Training
from neuralize.deep.autoencoder import Autoencoder
from xai.corruptions import corrupt, difference
from xai.datasets import fashion_mnist
from xai.evaluate import strategies
from xai.plot.figure import NotebookFigure
from xai.plot.scales import SIGNED, symmetric_limit

ROOT = Path(__file__).parents[2]
CLASS = "Shirt"
KINDS = ("stripe", "impulse_noise", "motion_blur", "translate")
PLAN = Training(epochs=40, batch_size=64, lr=1e-3, milestones=(30,), progress=False)


def main(path: Path) -> None:
    train = fashion_mnist("train", classes=[CLASS]).images.astype(np.float32)
    test = fashion_mnist("test", classes=[CLASS]).images.astype(np.float32)
    fit, reference = train[:450], train[450:]
    bag = Ensemble(
        {
            "KDE": KernelDensity(bandwidth=1.5),
            "autoencoder": Autoencoder(training=PLAN),
            "Deep SVDD": DeepSVDD(training=PLAN, preprocessing="contrast"),
        }
    ).fit(fit, reference=reference)
    normal = test[:40]
    clean = test[40:]
    broken = [corrupt(clean, kind, severity=4).astype(np.float32) for kind in KINDS]
    masks = [difference(clean, one) for one in broken]
    report(bag, normal, broken, masks)
    draw(bag, [one[3] for one in broken], [one[3] for one in masks]).savefig(path, dpi=90)


def report(bag: Ensemble, normal: np.ndarray, broken: list, masks: list) -> None:
    """AUROC, and cosine of relevance with what was changed."""
    detectors = {**neuralize(bag).members, "bag": bag}
    for kind, one, mask in zip(KINDS, broken, masks, strict=True):
        rows = np.concatenate([normal, one])
        truth = np.concatenate([np.zeros_like(normal), mask])
        found = strategies(detectors, rows, truth, progress=False)
        print(kind, found.table[["auroc", "cosine"]].round(2).to_string(), sep="\n")


def draw(bag: Ensemble, pictures: list, masks: list) -> NotebookFigure:
    x = np.stack(pictures)
    net = neuralize(bag)
    figure = NotebookFigure(figsize=(9.4, 6.2), layout="constrained")
    axes = figure.subplots(len(x), 6)
    maps = {
        name: xai.explain(member, x.reshape(len(x), -1) if name == "KDE" else x, progress=False)
        for name, member in net.members.items()
    }
    factor = {name: net.weights[name] / net.scales[name] for name in maps}
    whole = xai.explain(bag, x, progress=False)
    contributions = {name: z / len(maps) for name, z in bag.member_scores(x).items()}
    for row in range(len(x)):
        axes[row, 0].imshow(x[row], cmap="gray", vmin=0, vmax=1)
        axes[row, 0].set_ylabel(KINDS[row].replace("_", " "), fontsize=8)
        axes[row, 1].imshow(np.sqrt(masks[row]), cmap="gray_r", vmin=0, vmax=1)
        shown = {
            name: factor[name] * found.values[row].reshape(28, 28) for name, found in maps.items()
        }
        shown["bag"] = whole.values[row]
        end = symmetric_limit(np.stack(list(shown.values())), quantile=0.998)
        for ax, (name, values) in zip(axes[row, 2:], shown.items(), strict=True):
            ax.imshow(values, cmap=SIGNED, vmin=-end, vmax=end)
            score = whole.evidence[row] if name == "bag" else contributions[name][row]
            ax.set_xlabel(f"{score:+.2f}", fontsize=8)
        bar = figure.colorbar(ScalarMappable(Normalize(-end, end), SIGNED), ax=axes[row], pad=0.01)
        bar.ax.tick_params(labelsize=6)
    for ax, title in zip(axes[0], ["input", "what was changed", *maps, "bag"], strict=True):
        ax.set_title(title, fontsize=8)
    for ax in axes.ravel():
        ax.set_xticks([])
        ax.set_yticks([])
    figure.supxlabel(
        "Below each map: what the member adds to the score, in standard deviations; the bag is "
        "their sum. One colour scale per row.", fontsize=8,
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_ensemble.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
