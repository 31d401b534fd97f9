"""Draw docs/pictures/detector_few_outliers.png from benchmarks/outlier_exposure.csv.

python benchmarks/pictures/few_outliers.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from xai.plot.figure import NotebookFigure

ROOT = Path(__file__).parents[2]
COLORS = {"HSC": "#b2182b", "BCE": "#2166ac", "focal": "#6b6b6b"}


def curves(ax: Axes, rows: pd.DataFrame, label: str) -> None:
    """Means over the classes, with one thin line for each."""
    for method, part in rows.groupby("method", sort=False):
        settings = list(dict.fromkeys(part.setting))
        table = part.pivot_table(index="setting", columns="normal", values="mean").loc[settings]
        at = np.arange(len(settings))
        ax.plot(at, table.to_numpy(), color=COLORS[str(method)], lw=0.6, alpha=0.4)
        ax.plot(at, table.mean(axis=1), "o-", color=COLORS[str(method)], ms=4, label=str(method))
        ax.set_xticks(at, [s.replace("inf", "all") for s in settings])
    ax.set_xlabel(label)
    ax.grid(alpha=0.3)


def main(path: Path) -> None:
    rows = pd.read_csv(ROOT / "benchmarks" / "outlier_exposure.csv")
    figure = NotebookFigure(figsize=(9.4, 3.0), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, source in zip(axes, ("photographs", "ones"), strict=False):
        chosen = rows[(rows.study == "sizes") & (rows.source == source)]
        curves(ax, chosen, "number of outliers")
        ax.set_title({"ones": "outliers: one digit, MNIST"}.get(source, f"outliers: {source}"))
    curves(axes[2], rows[rows.study == "frequencies"], "cut-off, cycles per pixel")
    axes[2].set_title("photographs, low-pass (DCT)")
    axes[0].set_ylabel("AUROC")
    axes[0].legend()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_few_outliers.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
