"""Draw docs/pictures/detector_autoencoder.png: an autoencoder of sneakers, and planted corruptions.

The residual map and relevance of the score, beside the truth. Printed: cosines of both with it, on
100 sneakers under 15 corruptions and with a hole in them.

python benchmarks/pictures/autoencoder.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from drawing import colour_bar
from sklearn.metrics import roc_auc_score

import xai
from neuralize import neuralize
from neuralize.deep import Autoencoder, Training
from xai.corruptions import CORRUPTIONS, corrupt, difference
from xai.datasets import fashion_mnist
from xai.evaluate.localisation import cosines
from xai.plot.figure import NotebookFigure
from xai.plot.scales import SIGNED, symmetric_limit

ROOT = Path(__file__).parents[2]
PLAN = Training(epochs=40, lr=2e-3, milestones=(30,), progress=False)
SHOWN = ("clean", "stripe", "spatter", "hole")


def with_hole(clean: np.ndarray, size: int = 6) -> np.ndarray:
    """A black square where the picture is brightest: something is missing."""
    torn = clean.copy()
    for picture in torn:
        around = np.lib.stride_tricks.sliding_window_view(picture, (size, size)).sum((2, 3))
        top, left = np.unravel_index(around.argmax(), around.shape)
        picture[top : top + size, left : left + size] = 0
    return torn


def versions(clean: np.ndarray) -> dict[str, np.ndarray]:
    """The pictures under every corruption."""
    found = {"clean": clean, "hole": with_hole(clean)}
    return found | {name: corrupt(clean, name) for name in CORRUPTIONS}


def table(detector: Autoencoder, pictures: dict[str, np.ndarray]) -> None:
    """Print AUROC against clean pictures, and cosines with the truth."""
    clean = pictures["clean"]
    usual = detector.decision_function(clean)
    print(f"{'':16}  AUROC  residual    LRP  |relevance| / score")
    rows = []
    for name, changed in pictures.items():
        if name == "clean":
            continue
        truth = difference(clean, changed).reshape(len(clean), -1)
        scores = detector.decision_function(changed)
        relevance = xai.explain(detector, changed, progress=False).values.reshape(truth.shape)
        amplified = float(np.median(np.abs(relevance).sum(1) / scores))
        auroc = roc_auc_score(np.repeat([0, 1], len(clean)), np.concatenate([usual, scores]))
        residual = detector.residual_map(changed).reshape(truth.shape)
        cosine = [float(cosines(r.astype(float), truth).mean()) for r in (residual, relevance)]
        rows.append((auroc, *cosine, amplified))
        print(f"{name:16}  {auroc:5.3f}  {cosine[0]:8.3f}  {cosine[1]:5.3f}  {amplified:6.2f}")
    print(f"{'mean':16}  " + "  ".join(f"{value:5.3f}" for value in np.mean(rows, 0)))


def draw(detector: Autoencoder, pictures: dict[str, np.ndarray], path: Path) -> None:
    """Input, reconstruction, truth, residual map and relevance of one picture, four times."""
    usual = detector.decision_function(pictures["clean"])
    typical = int(np.argsort(usual)[len(usual) // 2])
    chosen = np.stack([pictures[name][typical] for name in SHOWN])
    truth = difference(pictures["clean"][[typical] * len(SHOWN)], chosen)
    found = xai.explain(detector, chosen, progress=False)
    residual = detector.residual_map(chosen)
    module = neuralize(detector).network
    x = torch.from_numpy(chosen.astype(np.float32))
    with torch.no_grad():
        scale = module.preprocessing[1]
        rebuilt = chosen - (module.residual(x) * scale.std)[:, 0].numpy()
    figure = NotebookFigure(figsize=(7.6, 6.3), layout="constrained")
    axes = figure.subplots(len(SHOWN), 5)
    ends = (
        symmetric_limit(residual, quantile=0.998),
        symmetric_limit(found.values, quantile=0.998),
    )
    for i, (name, row) in enumerate(zip(SHOWN, axes, strict=True)):
        for panel, image in zip(row[:2], (chosen[i], rebuilt[i]), strict=True):
            panel.imshow(image, cmap="gray", vmin=0, vmax=1)
        row[2].imshow(truth[i], cmap="gray_r", vmin=0, vmax=1)
        for panel, image, end in zip(row[3:], (residual[i], found.values[i]), ends, strict=True):
            panel.imshow(image, cmap=SIGNED, vmin=-end, vmax=end)
            if name != "clean":
                cosine = cosines(image.reshape(1, -1).astype(float), truth[i].reshape(1, -1))[0]
                panel.set_xlabel(f"cosine with truth {cosine:.2f}", fontsize=7.5)
        row[0].set_ylabel(f"{name}\nscore {found.evidence[i]:.0f}", fontsize=9)
    titles = ("input $x$", "reconstruction $r$", "truth", "residual map", "relevance (LRP)")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title, fontsize=9)
    for column, end in zip(axes.T[3:], ends, strict=True):
        colour_bar(figure, column, end, "bottom")
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    figure.supxlabel(
        f"Threshold {detector.threshold_:.0f}. Red speaks for an anomaly, blue against it.",
        fontsize=8.5,
    )
    figure.savefig(path, dpi=95)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    detector = Autoencoder(training=PLAN).fit(fashion_mnist(classes=["Sneaker"]).images)
    pictures = versions(fashion_mnist("test", classes=["Sneaker"]).images)
    table(detector, pictures)
    draw(detector, pictures, path)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_autoencoder.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
