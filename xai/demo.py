"""The demonstration: five models fitted on marked pictures, explained, compared and audited.

Everything is computed here, offline, from pictures that ship with the package. The audit is not
told that there is a mark, nor where; the comparison beside it is, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from tqdm import tqdm

from xai.audit import Audit, AuditContext
from xai.datasets import fashion_mnist, plant_mark
from xai.demo_pictures import maps_side_by_side, similarity_matrix
from xai.relevance import Array
from xai.report import Report, Section, Table

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress")
MARKED_CLASS = "Dress"
MARKED_SHARE = 0.3
MARK_SIZE = 4
PER_CLASS = 400

CHECKS = ("conservation", "collapse", "placement")
"""Asked here: what it takes to find the mark, in a minute for five models."""


@dataclass(frozen=True, eq=False)
class Scene:
    """The pictures of the demonstration.

    Attributes
    ----------
    clean, marked
        The same pictures ``(n, h, w)`` without and with the mark.
    names
        Class of every picture ``(n,)``.
    has_mark
        Which pictures carry it ``(n,)``.
    place
        Where it is ``(h, w)``.
    fitted
        Which pictures the models are fitted on ``(n,)``; the others are audited.
    """

    clean: Array
    marked: Array
    names: Array
    has_mark: Array
    place: Array
    fitted: Array


def scene(seed: int = 0) -> Scene:
    """Four kinds of clothes; three in ten dresses get a bright square, half are held out."""
    rng = np.random.default_rng(seed)
    clothes = fashion_mnist("train", classes=CLASSES)
    chosen = np.concatenate(
        [rng.choice(np.flatnonzero(clothes.names == c), PER_CLASS, replace=False) for c in CLASSES]
    )
    rng.shuffle(chosen)
    images, names = clothes.images[chosen], clothes.names[chosen]
    candidates = np.flatnonzero(names == MARKED_CLASS)
    rows = rng.choice(candidates, round(MARKED_SHARE * len(candidates)), replace=False)
    marked, place = plant_mark(images, rows, size=MARK_SIZE)
    fitted = np.arange(len(images)) < len(images) // 2
    return Scene(images, marked, names, np.isin(np.arange(len(images)), rows), place, fitted)


def models(seed: int = 0) -> dict[str, Any]:
    """The five models, unfitted, with ordinary settings."""
    return {
        "k-means": KMeans(5, n_init=3, random_state=seed),
        "KDE": KernelDensity(bandwidth=1.0),
        "one-class SVM": OneClassSVM(nu=0.1),
        "PCA": PCA(5, random_state=seed),
        "isolation forest": IsolationForest(contamination=0.1, random_state=seed),
    }


def run_demo(out: Path, *, seed: int = 0, progress: bool = True) -> Report:
    """Fit, explain, compare and audit; write ``report.html`` and ``report.json`` into ``out``.

    Parameters
    ----------
    out
        Folder; made where it is missing.
    seed
        Of the pictures drawn, the models, and the audit's random places.
    progress
        Whether to show a bar.

    Returns
    -------
    Report
        What was written. Its findings are those on the marked pictures; the same audits without
        the mark are a section of it.
    """
    pictures = scene(seed)
    bar = tqdm(total=2 * len(models()), desc="fitting and auditing", disable=not progress, delay=2)
    with bar:
        marked = _audits(pictures.marked, pictures, seed, bar)
        clean = _audits(pictures.clean, pictures, seed, bar)
    report = Report(
        "Demonstration: five models and a mark nobody mentioned",
        [answer for _, found in marked.values() for answer in found.answers],
        [
            _maps(pictures, {name: context for name, (context, _) in marked.items()}),
            _similarity({name: context for name, (context, _) in marked.items()}),
            _known_mark(pictures, {name: context for name, (context, _) in marked.items()}),
            _control({name: found for name, (_, found) in clean.items()}),
        ],
        _provenance(marked, seed),
        _introduction(pictures),
    )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    report.to_html(out / "report.html")
    report.to_json(out / "report.json")
    return report


def _audits(
    images: Array, pictures: Scene, seed: int, bar: Any
) -> dict[str, tuple[AuditContext, Report]]:
    """Fit every model on the fitted half and audit it on the other, without a word on the mark."""
    flat = images.reshape(len(images), -1)
    held = ~pictures.fitted
    results = {}
    for name, model in models(seed).items():
        model.fit(flat[pictures.fitted])
        audit = Audit(
            model,
            images[held],
            labels=pictures.names[held],
            name=name,
            checks=CHECKS,
            seed=seed,
            progress=False,
        )
        results[name] = (audit.context, audit.run())
        bar.update()
    return results


def _introduction(pictures: Scene) -> str:
    n, fitted = len(pictures.names), int(pictures.fitted.sum())
    return (
        f"Five models were fitted on {fitted} pictures of {len(CLASSES)} kinds of clothes "
        f"(Fashion-MNIST) and audited on {n - fitted} others. {int(pictures.has_mark.sum())} of "
        f"the {n} pictures, all of them dresses, carry a small bright square; the audit was told "
        "neither that nor where."
    )


def _maps(pictures: Scene, contexts: dict[str, AuditContext]) -> Section:
    held = np.flatnonzero(~pictures.fitted)
    with_mark = np.flatnonzero(pictures.has_mark[held])[:3]
    dresses = (pictures.names[held] == MARKED_CLASS) & ~pictures.has_mark[held]
    without = np.flatnonzero(dresses)[:2]
    rows = np.concatenate([with_mark, without])
    return Section(
        "The same pictures, five strategies",
        "Relevance of the same five dresses, three with the mark and two without. k-means explains "
        "why a picture is in its cluster, the other four what makes it abnormal, so every column "
        "has its own unit and its own colour scale, which its pictures share.",
        [maps_side_by_side(contexts, rows, pictures.place)],
    )


def _similarity(contexts: dict[str, AuditContext]) -> Section:
    shares = {name: context.relevance_share for name, context in contexts.items()}
    unit = {
        name: share / np.maximum(np.linalg.norm(share, axis=1, keepdims=True), 1e-300)
        for name, share in shares.items()
    }
    cosine = pd.DataFrame(
        {a: {b: float((unit[a] * unit[b]).sum(1).mean()) for b in unit} for a in unit}
    )
    cosine.index.name = "mean cosine"
    return Section(
        "How alike are the strategies?",
        "Mean cosine between the absolute relevance maps of two models over all audited pictures: "
        "1 where they look at the same pixels in the same proportions.",
        [similarity_matrix(cosine)],
        [Table(cosine, "Mean cosine between absolute relevance maps")],
    )


def _known_mark(pictures: Scene, contexts: dict[str, AuditContext]) -> Section:
    held = ~pictures.fitted
    has_mark, names = pictures.has_mark[held], pictures.names[held]
    area = float(pictures.place.mean())
    alike = (names == MARKED_CLASS) & ~has_mark
    rows = {}
    for name, context in contexts.items():
        on_mark = context.relevance_share[:, pictures.place.ravel()].sum(1)
        called = np.asarray(context.decision, dtype=float)
        detector = context.net.kind == "outlier"
        rows[name] = {
            "marked dresses": float(on_mark[has_mark].mean()),
            "other dresses": float(on_mark[alike].mean()),
            "share of the area": area,
            "marked dresses called abnormal": float(called[has_mark].mean()) if detector else "",
            "other dresses called abnormal": float(called[alike].mean()) if detector else "",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "share of relevance on the mark"
    return Section(
        "With the answer in hand",
        "Only this section knows where the mark was planted. It holds the share of absolute "
        "relevance on it, and how often detectors call dresses abnormal. A model that has seen "
        "enough marked pictures can take the mark for normal: then its relevance on it is small, "
        "and only the test above, which takes the mark away, shows that the score depends on it.",
        tables=[Table(frame, "Relevance on the mark, and decisions (shares of 1)")],
    )


def _control(reports: dict[str, Report]) -> Section:
    lines = {}
    for name, report in reports.items():
        lines[name] = {
            **report.overview.iloc[0].to_dict(),
            "verdict": report.verdict,
            "findings": "; ".join(finding.title for finding in report.findings) or "none",
        }
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.index.name = "model"
    loud = [name for name, report in reports.items() if report.exit_code]
    text = "The same pictures without the mark, the same models fitted again, the same audit. " + (
        f"It objects to {', '.join(loud)}." if loud else "It objects to none of them."
    )
    return Section("Control: without the mark", text, tables=[Table(frame, "Audits without it")])


def _provenance(audits: dict[str, tuple[AuditContext, Report]], seed: int) -> dict[str, str]:
    shared: dict[str, str] = {}
    for name, (context, report) in audits.items():
        shared |= {k: v for k, v in report.provenance.items() if k not in ("network", "method")}
        shared[name] = f"{context.relevance.provenance['network']}, {context.relevance.method}"
    return {
        **shared,
        "data": "Fashion-MNIST subset shipped with the package (MIT, Zalando SE)",
        "seed": str(seed),
    }
