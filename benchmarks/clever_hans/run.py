"""Does the audit find what was planted, and nothing else? Hundreds of small models, one CSV.

    python benchmarks/clever_hans/run.py --shared DIR [--jobs 2] [--part N/M] [--out FILE]

Cases that are in the output already are skipped, so it can be stopped and started; ``table.py``
makes the table of the documentation from the CSV. Colour pictures are CIFAR-10 and not shipped:
without ``--shared`` the models fitted on them are left out, and said so.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import random
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE.parent]
sys.path.insert(0, str(HERE))

import numpy as np
import torch
from artefacts import ACQUIRED, PLACED
from cases import TABLE_MODELS, TABLES, Case, picture_case, table_case
from models import MODELS
from sklearn.metrics import average_precision_score

from xai.audit import Audit
from xai.report import Finding

FIELDS = (
    "control",
    "data",
    "artefact",
    "strength",
    "share",
    "model",
    "seed",
    "effect",
    "found",
    "found_blind",
    "severity",
    "rank",
    "localisation",
    "others",
    "other_titles",
    "seconds",
    "peak_gb",
)
COMBINATIONS = ((True, 0.5), (True, 0.15), (False, 0.5))
"""Strong or weak, and the share of the first class that has the artefact."""

Key = tuple[str, str, str, str, float, str, int]


def planned(shared: Path | None, seeds: range) -> Iterator[Key]:
    """Every case, the controls among them."""
    for seed in seeds:
        for model, recipe in MODELS.items():
            if recipe.coloured and shared is None:
                continue
            data = "CIFAR-10" if recipe.coloured else "Fashion-MNIST"
            for clean in range(3):
                yield "clean", data, "none", "", 0.0, model, 10 * seed + clean
            for artefact in (*PLACED, *ACQUIRED):
                if artefact == "colour cast" and not recipe.coloured:
                    continue
                yield "ignored", data, artefact, "strong", 0.5, model, seed
                for strong, share in COMBINATIONS:
                    yield "", data, artefact, "strong" if strong else "weak", share, model, seed
        for model, table in itertools.product(TABLE_MODELS, TABLES):
            yield "clean", table, "none", "", 0.0, model, seed
            for artefact in ("leaking column", "batch offset"):
                yield "ignored", table, artefact, "strong", 1.0, model, seed
                for strength in ("strong", "weak"):
                    yield "", table, artefact, strength, 1.0, model, seed


def made(key: Key, shared: Path | None) -> Case:
    """The case of a key."""
    control, data, artefact, strength, share, model, seed = key
    name = None if artefact == "none" else artefact
    if data in TABLES:
        ignored = control == "ignored"
        return table_case(model, data, name, strength == "strong", seed, ignored=ignored)
    return picture_case(
        model,
        name,
        strength == "strong",
        share,
        seed,
        ignored=control == "ignored",
        shared=shared,
    )


def is_it(finding: Finding, case: Case) -> bool:
    """Whether a finding names what was planted."""
    suspect = finding.suspect
    if case.place is not None:
        if suspect is None or suspect.kind != "place":
            return False
        common = (suspect["pixels"] & case.place).sum()
        return bool(common >= 0.5 * case.place.sum() and common >= 0.3 * suspect["pixels"].sum())
    if case.column is not None:
        named = suspect is not None and suspect.kind == "feature"
        return bool(named and case.column in suspect["features"])
    if finding.check == "groups" or (finding.check == "subspaces" and case.sites is not None):
        return True  # both name the group
    if finding.check == "acquisition" and suspect is not None:
        if suspect.kind == "group":
            groups = suspect["groups"]
            rows = groups == groups[0]
        else:
            rows = np.isin(np.arange(len(case.carries)), suspect["rows"])
        return bool(max((rows == case.carries).mean(), (rows != case.carries).mean()) > 0.8)
    return False


def is_of_it(finding: Finding, case: Case) -> bool:
    """Whether a finding is about what was planted, though it does not name all of it."""
    suspect = finding.suspect
    if case.place is not None and suspect is not None and suspect.kind == "place":
        pixels = suspect["pixels"]
        return bool((pixels & case.place).sum() >= 0.5 * min(pixels.sum(), case.place.sum()))
    return case.sites is not None and "group site" in finding.title


def localisation(finding: Finding, case: Case) -> float:
    """Average precision of the pixels that a finding names."""
    assert finding.suspect is not None and case.place is not None
    pixels = finding.suspect["pixels"].ravel().astype(float)
    return float(average_precision_score(case.place.ravel(), pixels))


def asked(case: Case, informed: bool) -> tuple[list[Finding], float]:
    """Findings above a note, with or without labels and sites."""
    torch.manual_seed(0)
    begin = time.perf_counter()
    report = Audit(
        case.net,
        case.data,
        labels=case.labels if informed else None,
        groups=case.sites if informed else None,
        progress=False,
    ).run()
    return [f for f in report.findings if f.severity != "info"], time.perf_counter() - begin


def measured(key: Key, shared: Path | None) -> dict[str, object]:
    """One line of the table."""
    case = made(key, shared)
    blind, seconds = asked(case, False)
    informed = case.sites is not None or case.column is not None
    findings = blind
    if informed:
        findings, more = asked(case, True)
        seconds += more
    mine = [i for i, f in enumerate(findings) if key[2] != "none" and is_it(f, case)]
    placed = [localisation(findings[i], case) for i in mine] if case.place is not None else []
    planted = key[2] != "none"
    others = [
        f.title
        for i, f in enumerate(findings)
        if i not in mine and not (planted and is_of_it(f, case))
    ]
    return {
        **dict(zip(FIELDS[:7], key, strict=True)),
        "effect": round(case.effect, 4),
        "found": int(bool(mine)),
        "found_blind": int(key[2] != "none" and any(is_it(f, case) for f in blind)),
        "severity": findings[mine[0]].severity if mine else "",
        "rank": mine[0] + 1 if mine else "",
        "localisation": round(max(placed), 3) if placed else "",
        "others": len(others),
        "other_titles": " | ".join(others)[:400],
        "seconds": round(seconds, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, help="Folder with cifar10_test2000.")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0, help="From 100 on: for tuning.")
    parser.add_argument("--part", default="1/1", help="N/M: every M-th case, from the N-th.")
    parser.add_argument("--model", action="append")
    parser.add_argument("--data", action="append", help="Fashion-MNIST, CIFAR-10, wine, ...")
    parser.add_argument("--artefact", action="append")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, default=HERE / "clever_hans.csv")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.shared is None:
        print("No --shared: models fitted on colour pictures are left out.")
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    first, step = map(int, given.part.split("/"))
    done = set()
    if given.out.exists():
        with given.out.open() as file:
            done = {tuple(row[name] for name in FIELDS[:7]) for row in csv.DictReader(file)}
    else:
        given.out.write_text(",".join(FIELDS) + "\n")
    todo = [k for k in planned(given.shared, seeds) if tuple(map(str, k)) not in done]
    # The slow ones last, and shuffled, so that a run that is stopped is a fair sample of them.
    slow = [key for key in todo if key[1] == "CIFAR-10"]
    random.Random(0).shuffle(slow)
    todo = [key for key in todo if key[1] != "CIFAR-10"] + slow
    if given.model:
        todo = [key for key in todo if key[5] in given.model]
    if given.artefact:
        todo = [key for key in todo if key[2] in given.artefact]
    if given.data:
        todo = [key for key in todo if key[1] in given.data]
    for key in todo[first - 1 :: step][: given.limit]:
        try:
            row = measured(key, given.shared)
        except Exception:
            print("failed:", key, flush=True)
            traceback.print_exc()
            continue
        with given.out.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS).writerow(row)
        print(*(row[name] for name in FIELDS), sep=", ", flush=True)


if __name__ == "__main__":
    main()
