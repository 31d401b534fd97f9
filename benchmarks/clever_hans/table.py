"""The table of the documentation from ``clever_hans.csv`` and ``graph_audits.csv``.

python benchmarks/clever_hans/table.py [--cases FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
LEAST = 0.05
"""What has to be found changes the decision of more than this share of the rows."""

IGNORED = 0.005
"""A control ignores an artefact that changes at most this share of its decisions."""


def line(rows: pd.DataFrame) -> dict[str, object]:
    """Recall where it matters, localisation and rank of what was found."""
    matters, others = rows[rows.effect > LEAST], rows[rows.effect <= LEAST]
    found = rows[rows.found == 1]
    localised = found.localisation.dropna()
    return {
        "planted": len(rows),
        "effect above 5 %": len(matters),
        "found": int(matters.found.sum()),
        "without labels and groups": int(matters.found_blind.sum()),
        "found of the others": f"{int(others.found.sum())} of {len(others)}",
        "localisation": f"{localised.mean():.2f}" if len(localised) else "",
        "first finding": f"{int((found['rank'] == 1).sum())} of {len(found)}",
    }


def alarms(rows: pd.DataFrame, count: pd.Series) -> dict[str, object]:
    """Findings above a note where there should be none."""
    return {
        "audits": len(rows),
        "audits with a warning or worse": int((count > 0).sum()),
        "warnings or worse per audit": round(float(count.mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, default=HERE / "clever_hans.csv")
    rows = pd.read_csv(parser.parse_args().cases, keep_default_na=False)
    for name in ("localisation", "rank"):
        rows[name] = pd.to_numeric(rows[name])
    planted = rows[rows.control == ""]
    for by in ("artefact", "model", "strength"):
        table = {str(name): line(part) for name, part in planted.groupby(by, sort=False)}
        table["all"] = line(planted)
        print(pd.DataFrame(table).T.to_markdown(), end="\n\n")
    clean, ignored = rows[rows.control == "clean"], rows[rows.control == "ignored"]
    # A front that averages cannot see everything away: what still changes decisions is no alarm.
    blind, faint = ignored[ignored.effect <= IGNORED], ignored[ignored.effect > IGNORED]
    found = planted[planted.found == 1].localisation.dropna()
    print(f"Localisation {found.mean():.2f}; below 0.8 in {(found < 0.8).sum()} of {len(found)}.\n")
    table = {
        "clean": alarms(clean, clean.others),
        "present, and ignored": alarms(blind, blind.found + blind.others),
        "present, and hardly used": alarms(faint, faint.others),
        "planted: beside the artefact": alarms(planted, planted.others),
    }
    print(pd.DataFrame(table).T.to_markdown(), end="\n\n")
    wrong = pd.concat(
        (
            clean[clean.others > 0],
            blind[blind.found + blind.others > 0],
            faint[faint.others > 0],
            planted[planted.others > 0],
        )
    )
    for _, row in wrong.iterrows():
        named = row[["control", "data", "artefact", "strength", "model", "seed", "other_titles"]]
        print("alarm:", *named)
    for _, row in planted[(planted.effect > LEAST) & (planted.found == 0)].iterrows():
        print("missed:", *row[["data", "artefact", "strength", "share", "model", "seed", "effect"]])
    print(
        f"hidden in part: found in {int(faint.found.sum())} of {len(faint)}, "
        f"effects {faint.effect.min():.1%} to {faint.effect.max():.1%}"
    )
    print(f"\n{rows.seconds.sum() / 3600:.1f} hours; at most {rows.peak_gb.max()} GB.")


if __name__ == "__main__":
    main()
