"""Draw docs/pictures/detector_flow.png: a flow on two columns of wine, and what adds up to a score.

python benchmarks/pictures/flow.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from sklearn.datasets import load_wine

import xai
from neuralize.deep import RealNVP, Training
from xai.plot.figure import NotebookFigure
from xai.plot.scales import NEGATIVE, POSITIVE

ROOT = Path(__file__).parents[2]
COLUMNS = ["flavanoids", "color_intensity"]
PLAN = Training(epochs=300, batch_size=64, lr=2e-3, decay=0.99, progress=False)
POINTS = np.array([[3.0, 5.5], [3.0, 11.0], [2.0, 8.5], [5.0, 5.5]])


def density(detector: RealNVP, x: np.ndarray, ax: Axes) -> None:
    """Contours of the score, the rows, and the points that are explained."""
    low, high = x.min(0) - 0.8 * x.std(0), x.max(0) + 0.8 * x.std(0)
    grid = np.meshgrid(*np.linspace(low, high, 150).T)
    score = detector.decision_function(np.stack(grid, -1).reshape(-1, 2)).reshape(150, 150)
    levels = np.append(np.arange(1.5, 9, 0.75), score.max())
    ax.contourf(*grid, np.minimum(score, 9), levels=levels[:-1], cmap="Blues_r", extend="both")
    ax.contour(*grid, score, levels=[detector.threshold_], colors="k", linewidths=1)
    ax.scatter(*x.T, s=6, color="0.25", linewidths=0)
    ax.scatter(*POINTS.T, s=45, color=POSITIVE, edgecolor="w", zorder=3)
    for letter, point in zip("ABCD", POINTS, strict=True):
        ax.annotate(
            letter, point, (6, 4), textcoords="offset points", color=POSITIVE, weight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="w")],
        )  # fmt: skip
    ax.set_xlabel(COLUMNS[0])
    ax.set_ylabel(COLUMNS[1].replace("_", " "))
    ax.set_title("negative log likelihood (nats), threshold in black", fontsize=9)


def accounts(detector: RealNVP, ax: Axes) -> None:
    """Bars: the columns' relevance, and what is absorbed; they add up to the score."""
    found = xai.explain(detector, POINTS, progress=False)
    offsets = ("normalization", "log-determinant")
    parts = {name.replace("_", " "): found.values[:, i] for i, name in enumerate(COLUMNS)}
    parts |= {name: found.absorbed[name] for name in offsets}
    parts["biases and shifts"] = sum(s for n, s in found.absorbed.items() if n not in offsets)
    shades = ["#67001f", POSITIVE, "0.45", NEGATIVE, "0.75"]
    width = 0.16
    places = np.arange(len(POINTS))
    for k, ((name, share), shade) in enumerate(zip(parts.items(), shades, strict=True)):
        ax.bar(places + (k - 2) * width, share, width, color=shade, label=name)
    scores = [
        f"{letter}\n{score:.1f} nats" for letter, score in zip("ABCD", found.evidence, strict=True)
    ]
    ax.set_xticks(places, scores)
    ax.axhline(0, color="k", linewidth=0.6)
    ax.legend(fontsize=7.5, frameon=False)
    ax.set_title("relevance, and what is absorbed by name (nats)", fontsize=9)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    x = load_wine(as_frame=True).data[COLUMNS].to_numpy()
    detector = RealNVP(training=PLAN, hidden=(32, 32), noise=0.2).fit(x)
    figure = NotebookFigure(figsize=(9.2, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    density(detector, x, left)
    accounts(detector, right)
    figure.savefig(path, dpi=95)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_flow.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
