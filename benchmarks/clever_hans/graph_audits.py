"""Does an audit of a graph network find what was planted, and keep quiet where nothing was?

    python benchmarks/clever_hans/graph_audits.py [--seeds 0 1 ...] [--kinds clean ...]
                                                  [--strengths 0.5 1 2] [--out CSV]

Cases are those of ``graph_cases.py``. ``effect``: share of the patients who change risk group when
the artefact is taken away exactly. ``found``: a warning or worse of the check that should see it
(``groups`` for an offset, ``phenotypes`` naming the granulocytes for stray cells). ``alarms``: all
other warnings or worse. ``minutes`` are those of the audit alone. Seed 100 was used to choose
thresholds (the size of the jitter), and is not in the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# Files beside this one may be called like packages, and this folder comes first.
HERE = Path(__file__).parent
sys.path[:] = [e for e in sys.path if Path(e or ".").resolve() not in (HERE, HERE.parent)]
sys.path.append(str(HERE))

import pandas as pd
from graph_cases import GraphCase, graph_case

from graphs import radius_graph
from graphs.datasets import TOUCH
from xai.audit import GraphAudit
from xai.report import Finding

PLANTED = ("batch_offset", "shortcut cells")


def is_it(finding: Finding, case: GraphCase) -> bool:
    """Whether the finding names what was planted."""
    named = "" if finding.suspect is None else finding.suspect.summary
    if case.truth.kind == "batch_offset":
        return finding.check == "groups" and named.endswith("stain")
    wanted = case.truth.kind == "shortcut cells" and finding.check == "phenotypes"
    return wanted and named == "granulocyte"


def row(kind: str, strength: float, seed: int) -> dict[str, object]:
    start = time.perf_counter()
    case = graph_case(kind, strength, seed)  # type: ignore[arg-type]
    trained = time.perf_counter()
    report = GraphAudit(
        case.model, case.graphs, case.labels, case.groups, seed=seed, progress=False,
        join=lambda cells: radius_graph(cells, TOUCH),
    ).run()  # fmt: skip
    worse = [f for f in report.findings if f.severity != "info"]
    found = [f for f in worse if is_it(f, case)]
    return {
        "kind": case.truth.kind,
        "strength": strength,
        "seed": seed,
        "effect": round(case.truth.effect, 3),
        "moved": round(case.truth.moved, 3),
        "found": bool(found),
        "severity": found[0].severity if found else "",
        "alarms": len(worse) - len(found),
        "alarmed": "; ".join(f"{f.check}: {f.title}" for f in worse if f not in found),
        "training": round(trained - start, 1),
        "minutes": round((time.perf_counter() - trained) / 60, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Audits of graph networks with a known flaw.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--kinds", nargs="+", default=["clean", "ignored", *PLANTED])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for kind in given.kinds:
        for strength in given.strengths if kind in PLANTED else [1.0]:
            for seed in given.seeds:
                rows.append(row(kind, strength, seed))
                print(rows[-1], flush=True)
                if given.out is not None:
                    pd.DataFrame(rows).to_csv(given.out, index=False)
    table = pd.DataFrame(rows)
    print(table.groupby(["kind", "strength"])[["effect", "moved", "found", "alarms"]].mean())


if __name__ == "__main__":
    main()
