"""Draw docs/pictures/detector_polytope.png: a polytope around wines, and which facet decides.

python benchmarks/pictures/polytope.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_wine

import xai
from neuralize.deep import RandomPolytope
from xai.plot.figure import NotebookFigure
from xai.plot.scales import NEGATIVE, NEUTRAL, POSITIVE

ROOT = Path(__file__).parents[2]
COLUMNS = ["flavanoids", "color_intensity"]


def main(path: Path) -> None:
    wine = load_wine(as_frame=True)
    usual = wine.data[wine.target == 0]
    others = wine.data[wine.target == 2]
    figure = NotebookFigure(figsize=(9.4, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    two = RandomPolytope(n_facets=40, rank=1, threshold="boundary", seed=1).fit(usual[COLUMNS])
    draw_plane(left, two, usual[COLUMNS].to_numpy(), others[COLUMNS].to_numpy())
    every = RandomPolytope(rank=1, threshold="boundary").fit(usual)
    one = xai.explain(every, others.iloc[[0]], progress=False)
    one.plot("waterfall", ax=right, max_features=8)
    figure.savefig(path, dpi=90)


def draw_plane(ax, detector: RandomPolytope, usual: np.ndarray, others: np.ndarray) -> None:
    everything = np.concatenate([usual, others[:12]])
    low, high = everything.min(0) - [0.4, 1.3], everything.max(0) + 0.9
    across, up = np.meshgrid(np.linspace(low[0], high[0], 240), np.linspace(low[1], high[1], 240))
    scores = detector.decision_function(np.stack([across.ravel(), up.ravel()], 1))
    lines = ax.contour(
        across, up, scores.reshape(across.shape), levels=[0.5, 1, 1.5, 2, 3, 4],
        colors=[NEUTRAL], linewidths=[0.7, 2.2, 0.7, 0.7, 0.7, 0.7],
    )  # fmt: skip
    ax.clabel(lines, fontsize=7)
    ax.plot(*usual.T, ".", color="0.45", markersize=5, label="training wines")
    shown = others[:12]
    ax.plot(*shown.T, "x", color=POSITIVE, markersize=5, label="another kind")
    module = detector.module_
    steps = module.preprocessing[0]
    center = module.gauge.centers[0] * steps.std + steps.mean
    ax.plot(*center.numpy(), "+", color="black", markersize=9, label="centre c")
    row = shown[[int(detector.decision_function(shown).argmax())]]
    found = xai.explain(detector, row, progress=False)
    for i, value in enumerate(found.values[0]):
        step = np.zeros(2)
        step[i] = row[0, i] - center[i]
        begin = center.numpy() + (0 if i == 0 else 1) * np.array([row[0, 0] - center[0], 0])
        hue = POSITIVE if value > 0 else NEGATIVE
        ax.annotate(
            "", begin + step, begin,
            arrowprops={"arrowstyle": "->", "color": hue, "lw": 1.6},
        )  # fmt: skip
        ax.annotate(
            f"{value:+.2f}", begin + step * (0.5 if i == 0 else 0.55), fontsize=8,
            xytext=(0, -11) if i == 0 else (5, 0), textcoords="offset points",
        )  # fmt: skip
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_xlabel(COLUMNS[0])
    ax.set_ylabel(COLUMNS[1])
    ax.set_title(f"40 facets, two columns: score {found.evidence[0]:.2f}", fontsize=10)
    ax.legend(fontsize=7, loc="lower left", ncols=3, columnspacing=0.7, handletextpad=0.1)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_polytope.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
