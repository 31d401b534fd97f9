"""Tables of docs/evaluation_strategies.md, from what strategies.py and adbench.py wrote.

python benchmarks/strategies_page.py
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

# A file beside this one is called neuralize, like the package, and this folder comes first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np
import pandas as pd

from xai.evaluate import paired_verdict

HERE = Path(__file__).parent
RIVALS = {
    "gradient": "gradient²",
    "gradient_x_input": "gradient × input",
    "AE residual": "AE residual",
    "nearest normal": "nearest normal",
    "PatchCore map": "PatchCore map",
}
SIGNS = {"LRP better": "", "LRP worse": " ▼", "undecided": " ="}
SHOWN = ("KDE", "Deep SVDD, whole, z+", "PatchCore, sum of patches, z+")


def base(detector: str) -> str:
    """Whose gradient it is: the decision is the same whatever the rules."""
    return detector.removesuffix(", z+").removesuffix(", whole")


def overall(frame: pd.DataFrame, measure: str) -> str:
    """Detectors by relevance and its rivals; mean and standard error over 15 corruptions."""
    cells = frame.pivot_table(index=["detector", "method"], columns="corruption", values=measure)
    areas = frame.groupby("detector")["auroc"].mean()
    text = ["| detector | AUROC | relevance | " + " | ".join(RIVALS.values()) + " |"]
    text.append("|---|---:|" + "---:|" * (len(RIVALS) + 1))
    for detector in ordered(frame["detector"]):
        own = cells.loc[(detector, "LRP")].to_numpy()
        keys = [(base(detector), m) if m in ("gradient", "gradient_x_input") else ("given", m)
                for m in RIVALS]  # fmt: skip
        line = [detector, f"{areas[detector]:.3f}", number(own)]
        for key in keys:
            if key not in cells.index:
                line.append("–")
                continue
            other = cells.loc[key].to_numpy()
            known = ~np.isnan(own) & ~np.isnan(other)
            # more is better here, and less is better there
            verdict = paired_verdict(-own[known], -other[known], n_comparisons=len(RIVALS))
            line.append(number(other) + SIGNS[verdict["verdict"]])
        text.append("| " + " | ".join(line) + " |")
    return "\n".join(text)


def ordered(detectors: pd.Series) -> list[str]:
    """Every detector, and behind it the same one under z+."""
    names = [name for name in dict.fromkeys(detectors) if name != "given"]
    first = [name for name in names if not name.endswith(", z+") and name != "Deep SVDD, whole"]
    return [name for f in first for name in (f, f"{f}, z+", f"{f}, whole, z+") if name in names]


def number(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.2f} ± {known.std(ddof=1) / math.sqrt(len(known)):.2f}"


def by_corruption(frame: pd.DataFrame) -> str:
    """Cosine of three detectors, their gradients and the residual maps, per corruption."""
    columns = [(d, m) for d in SHOWN for m in ("LRP", "gradient")]
    columns += [("given", m) for m in ("AE residual", "nearest normal")]
    heads = [f"{d}: {RIVALS.get(m, 'relevance')}" if d != "given" else m for d, m in columns]
    text = ["| corruption | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(columns)]
    for name, part in frame.groupby("corruption", sort=False):
        line = [str(name).replace("_", " ")]
        for detector, method in columns:
            owner = base(detector) if method == "gradient" else detector
            cells = part[(part["detector"] == owner) & (part["method"] == method)]
            error = math.sqrt((cells["cosine_error"] ** 2).sum()) / len(cells)
            line.append(f"{cells['cosine'].mean():.2f} ± {error:.2f}")
        text.append("| " + " | ".join(line) + " |")
    return "\n".join(text)


def hans(frame: pd.DataFrame) -> str:
    """How often a detector is a Clever Hans: one fitted class under one corruption at a time."""
    own = frame[frame["method"] == "LRP"]
    good = own[own["auroc"] > 0.9]
    cases = good[good["cosine"] < 0.3].groupby("detector").size()
    return ", ".join(
        f"{d} {cases.get(d, 0)} of {n}" for d, n in good.groupby("detector").size().items()
    )


def tiles(frame: pd.DataFrame) -> str:
    part = frame[frame["defect"] == "all"]
    text = ["| detector | map | AUROC | cosine | average precision | mass inside |",
            "|---|---|---:|---:|---:|---:|"]  # fmt: skip
    for line in part.to_dict("records"):
        cells = [line["detector"], {"LRP": "relevance"}.get(line["method"], line["method"])]
        cells.append("–" if math.isnan(line["auroc"]) else f"{line['auroc']:.2f}")
        cells += [f"{line[m]:.2f} ± {line[f'{m}_error']:.2f}"
                  for m in ("cosine", "average_precision", "mass_inside")]  # fmt: skip
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def rules(frame: pd.DataFrame) -> str:
    """Area under the flipping curve, mean and standard error over classes."""
    cells = frame.pivot_table(index="explanation", columns="detector", values=["mean"], sort=False)
    names = list(dict.fromkeys(frame["detector"]))
    text = ["| explanation | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for way in cells.index:
        line = [str(way).replace("_", " ")]
        for name in names:
            own = frame[(frame["detector"] == name) & (frame["explanation"] == way)]["mean"]
            line.append(number(own.to_numpy()) if len(own) else "–")
        text.append("| " + " | ".join(line) + " |")
    return "\n".join(text)


def tables(frame: pd.DataFrame) -> str:
    areas = frame.pivot(index="table", columns="detector", values="auroc")
    ranks = areas.rank(axis=1, ascending=False).mean()
    text = ["| detector | mean AUROC | median | mean rank |", "|---|---:|---:|---:|"]
    for name in ranks.sort_values().index:
        column = areas[name]
        text.append(f"| {name} | {column.mean():.3f} | {column.median():.3f} | {ranks[name]:.1f} |")
    return "\n".join(text)


def main() -> None:
    frame = pd.read_csv(HERE / "strategies_corruptions.csv")
    for data, part in frame.groupby("data", sort=False):
        counts = part.groupby("normal").corruption.nunique().to_dict()
        print(f"\n## {data} {counts}\n\ncosine\n\n{overall(part, 'cosine')}")
        print(f"\naverage precision\n\n{overall(part, 'average_precision')}")
        print(f"\n{by_corruption(part)}\n\nClever Hans: {hans(part)}")
    print(f"\n## rules\n\n{rules(pd.read_csv(HERE / 'strategies_rules.csv'))}")
    print(f"\n## tiles\n\n{tiles(pd.read_csv(HERE / 'strategies_tiles.csv'))}")
    print(f"\n## tables\n\n{tables(pd.read_csv(HERE / 'adbench.csv'))}")


if __name__ == "__main__":
    main()
