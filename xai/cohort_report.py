"""A report on a cohort: what drives the predicted risks, patient by patient and over all patients.

It is made of the same parts as an audit's report. Only two questions are answers in it: whether the
relevance adds up, and whether the risk orders the patients; everything else is shown, not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xai.errors import InputError
from xai.plot import interaction_range_curve, kaplan_meier, phenotype_bars, tissue_map
from xai.plot.figure import NotebookFigure
from xai.plot.intervals import interval_words, mean_intervals
from xai.plot.words import number
from xai.relevance import Array
from xai.report import (
    Answer,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Picture,
    Report,
    Section,
    Table,
)

if TYPE_CHECKING:
    from graphs.relevance import GraphRelevance
    from graphs.survival import Outcome

CONSERVED = 1e-5
"""Largest relative conservation error that counts as rounding, also in 32 bits."""
LISTED = 10
"""Patients of the highest risk, and of the lowest, that the table of accounts lists."""
MAPPED = 2
"""Patients of the highest risk, and of the lowest, whose tissue is shown."""
SATURATED = 0.99


@dataclass(frozen=True, eq=False)
class CohortReport(Report):
    """A report whose headline says what was explained, unless something stands against it."""

    summary: str = ""

    @property
    def headline(self) -> str:
        """What the cohort is, or what the findings amount to."""
        return super().headline if self.severity in ("critical", "warning") else self.summary


def cohort_report(
    relevance: GraphRelevance,
    outcome: Outcome | None = None,
    interaction: pd.DataFrame | None = None,
    *,
    title: str = "Cohort report",
    subject: str = "the network",
    provenance: Mapping[str, str] | None = None,
    seed: int = 0,
) -> CohortReport:
    """What drives the log hazards of a cohort, as a report.

    Parameters
    ----------
    relevance
        Of all cells, with or without a partition.
    outcome
        Of the patients, for Kaplan-Meier curves by predicted risk; more patients than the graph's
        are left out.
    interaction
        What :func:`graphs.interaction_range` returned.
    title, subject
        Heading, and what the network is called.
    provenance
        What it takes to repeat this.
    seed
        Of the bootstrap of the concordance.

    Raises
    ------
    InputError
        A patient without outcome; relevance that is not finite.

    Examples
    --------
    >>> from graphs import CellGraph, GraphRelevance
    >>> cells = CellGraph(np.zeros((2, 2)), np.array([0, 1]), ("T", "B"), np.array([0, 1]),
    ...                   ("i", "j"), ("p", "q"))
    >>> found = GraphRelevance(np.ones((2, 1)), cells, np.array([1.0, 1.0]), {})
    >>> cohort_report(found).verdict
    '2 cells of 2 patients; log hazards from 1 to 1. 1 measure passed, 1 question not assessable.'
    """
    if not (np.isfinite(relevance.cells).all() and np.isfinite(relevance.log_hazard).all()):
        raise InputError(
            "Expected finite relevance and log hazards to report, got NaN or infinity."
        )
    graph = relevance.graph
    if outcome is not None:
        outcome = outcome.of(graph.patient_names)
    groups = _risk_groups(relevance)
    low, high = float(relevance.log_hazard.min()), float(relevance.log_hazard.max())
    summary = (
        f"{_count(len(graph), 'cell')} of {_count(len(relevance), 'patient')}; log hazards from "
        f"{number(low, 3)} to {number(high, 3)}."
    )
    answers = [_conserved(relevance, subject), *_ordered(relevance, outcome, subject, seed)]
    sections = [
        _accounts(relevance),
        _survival(relevance, outcome, groups),
        _phenotypes(relevance, groups),
        _maps(relevance),
        _interaction(interaction, graph.unit),
    ]
    partition = relevance.partition
    parts = "" if partition is None else f" Relevance stays in {_count(len(partition), 'part')}."
    return CohortReport(
        title,
        answers,
        [section for section in sections if section is not None],
        {"composite": relevance.composite, **(provenance or {})},
        f"Explained by LRP with {relevance.composite}: {subject}. Positive relevance raises the "
        "predicted risk. A log hazard has no zero of its own: only differences between patients "
        f"mean something.{parts}",
        summary,
    )


def _risk_groups(relevance: GraphRelevance) -> pd.Categorical | None:
    """Patients below and above the median; None if they cannot be told apart."""
    from graphs.risk_groups import risk_groups

    try:
        return risk_groups(relevance.log_hazard)
    except InputError:
        return None


def _conserved(relevance: GraphRelevance, subject: str) -> Answer:
    errors = relevance.relative_conservation_error
    measure = Measure(
        "largest relative conservation error over patients", float(errors.max()), "<=", CONSERVED
    )
    if measure.holds:
        return Passed(measure, "Cells and absorbed shares add up to the log hazard of every "
                      "patient.", check="conservation", subject=subject)  # fmt: skip
    names = np.array(relevance.graph.patient_names, object)
    return Finding(
        "critical",
        "The relevance does not add up to the log hazard.",
        measure,
        "What the maps and bars show is not what the network computed.",
        "Explain in double precision (dtype float64); if that does not help, another composite.",
        samples=list(names[errors > CONSERVED]),
        check="conservation",
        subject=subject,
    )


def _ordered(
    relevance: GraphRelevance, outcome: Outcome | None, subject: str, seed: int
) -> list[Answer]:
    """Whether the predicted risk orders the patients better than chance."""
    question = "Does the predicted risk order the patients by their survival?"
    asked = partial(replace, check="concordance", subject=subject)
    if outcome is None:
        return [asked(NotAssessable(question, "No outcome was given."))]
    from graphs.metrics import bootstrap

    try:
        found = bootstrap(relevance.log_hazard, outcome, seed=seed)
    except InputError as error:
        return [asked(NotAssessable(question, str(error)))]
    measure = Measure("lower end of the 95% interval of Harrell's C", found.low, ">", 0.5)
    text = f"Harrell's C is {found.value:.3f}, 95% interval {found.low:.3f} to {found.high:.3f}"
    if measure.holds:
        note = f"{text}. On patients it was trained on it says nothing."
        return [asked(Passed(measure, note))]
    finding = Finding(
        "warning",
        "The predicted risk does not order these patients better than chance might.",
        measure,
        f"{text} (bootstrap over patients). The maps say truly what the network computes, and "
        "that is not shown to have to do with survival.",
        "Read the maps as explanations of the network, not of the disease.",
    )
    return [asked(finding)]


def _accounts(relevance: GraphRelevance) -> Section:
    table = relevance.accounts().sort_values("log_hazard", ascending=False, kind="stable")
    table = table.rename(columns={"log_hazard": "log hazard"})
    caption = "Accounts of every patient, the highest risk first"
    if len(table) > 2 * LISTED:
        caption = f"Accounts of the {LISTED} patients of the highest risk and of the lowest"
        table = pd.concat([table.iloc[:LISTED], table.iloc[-LISTED:]])
    spread = relevance.accounts().drop(columns="error").rename(columns={"log_hazard": "log hazard"})
    over = pd.DataFrame({"mean": spread.mean(), "standard deviation over patients": spread.std()})
    return Section(
        "What the risk is made of",
        "Log hazard = what the cells carry + what no cell carries, by name + error. Biases, "
        "BatchNorm and covariates take shares that are never spread over the cells. A share that "
        "hardly differs between patients does not order them, however large it is.",
        tables=[
            Table(over.rename_axis("share").fillna(0.0), "Shares over patients"),
            Table(table, caption),
        ],
    )


def _survival(
    relevance: GraphRelevance, outcome: Outcome | None, groups: pd.Categorical | None
) -> Section | None:
    if outcome is None:
        return None
    if groups is None:
        return Section("Risk groups", "The log hazards are too alike to form groups.")
    rows = {}
    for name in groups.categories:
        mine = np.asarray(groups) == name
        rows[name] = {
            "patients": int(mine.sum()),
            "events": int(outcome.event[mine].sum()),
            "mean log hazard": float(relevance.log_hazard[mine].mean()),
            "median time": float(np.median(outcome.time[mine])),
        }
    figure = kaplan_meier(outcome, groups)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("group").astype(object)
    return Section(
        "Risk groups",
        "Patients below and above the median of the predicted risk. If the network was trained on "
        "these patients, the groups differ by construction and the p-value means nothing.",
        [Picture(figure, "Kaplan-Meier curves by predicted risk",
                 "Step curves of survival over time, one per risk group")],
        [Table(table, "The groups")],
    )  # fmt: skip


def _phenotypes(relevance: GraphRelevance, groups: pd.Categorical | None) -> Section:
    table = relevance.by("phenotype")
    found = mean_intervals(table)
    cells = relevance.graph.phenotypes
    counts = [int((cells == k).sum()) for k in range(len(relevance.graph.phenotype_names))]
    counts += [int((cells < 0).sum())] * (len(found) - len(counts))
    found.insert(0, "cells", counts)
    pictures = [
        Picture(
            phenotype_bars(relevance),
            "Sum over the cells of each phenotype; bars are means over patients, dots are patients",
            "Horizontal bars, one per phenotype, with intervals",
        )
    ]
    if groups is not None and len(relevance) >= 4:
        pictures.append(
            Picture(
                phenotype_bars(relevance, groups=groups),
                "The same by group of predicted risk: what differs is what tells them apart",
                "Horizontal bars, one per phenotype and risk group, with intervals",
            )
        )
    frame = found.rename_axis("phenotype").astype(object).where(found.notna(), "none")
    return Section(
        "Phenotypes",
        "Patients are the unit: an interval is over patients, whatever their number of cells. The "
        "intervals are not corrected for how many there are.",
        pictures,
        [Table(frame, f"Relevance by phenotype: mean and {interval_words('t', 0.95)}")],
    )


def _maps(relevance: GraphRelevance) -> Section:
    graph = relevance.graph
    order = np.argsort(-relevance.log_hazard, kind="stable")
    few = min(MAPPED, len(order) // 2) or 1
    ranks = [("highest", k) for k in order[:few]]
    if len(order) > 1:
        ranks += [("lowest", k) for k in order[-few:]]
    sums = np.bincount(graph.images, np.abs(relevance.cells), len(graph.image_names))
    chosen = {int(k): strongest_image(relevance, int(k), sums) for _, k in ranks}
    mine = np.isin(graph.images, list(chosen.values()))
    shown = np.abs(relevance.cells[mine])
    limit = float(np.quantile(shown, SATURATED)) or float(shown.max()) or 1.0
    by_part = relevance.partition is not None and graph.positions.shape[1] == 2
    pictures = []
    for rank, k in ranks:
        name = graph.image_names[chosen[int(k)]]
        where = f"Patient {graph.patient_names[k]}, among the {rank} risks: image {name}"
        pictures.append(
            Picture(
                tissue_map(relevance, name, limit=limit),
                f"{where}, relevance of every cell and phenotypes",
                f"Map of cells coloured by signed relevance, beside their phenotypes; {where}",
            )
        )
        if by_part:
            width, height = np.ptp(graph.positions[graph.images == chosen[int(k)]], axis=0)
            tall = 4.4 * float(np.clip(height / max(width, 1e-9), 0.25, 1.6)) + 1.0
            alone = NotebookFigure(figsize=(5.8, tall), layout="constrained")
            pictures.append(
                Picture(
                    tissue_map(relevance, name, by="part", ax=alone.subplots()),
                    f"{where}, sums over parts (colours of this image alone)",
                    f"Map of parts coloured by their relevance; {where}",
                )
            )
    return Section(
        "Tissue of the highest and the lowest risks",
        "Of each patient the image whose cells carry most, whatever the sign. The maps of cells "
        f"share one scale, which ends at the {SATURATED:g} quantile of what they show; stronger "
        "cells take the last colour.",
        pictures,
    )


def strongest_image(relevance: GraphRelevance, patient: int, sums: Array | None = None) -> int:
    """The patient's image with the largest sum of ``|R|``, as a code of the graph."""
    graph = relevance.graph
    if sums is None:
        sums = np.bincount(graph.images, np.abs(relevance.cells), len(graph.image_names))
    name = graph.patient_names[patient]
    mine = np.flatnonzero([owner == name for owner in graph.patients])
    return int(mine[np.argmax(sums[mine])])


def _interaction(table: pd.DataFrame | None, unit: str) -> Section | None:
    if table is None:
        return None
    grouped = table.groupby("cell_size")
    frame: Any = pd.DataFrame(
        {
            "median agreement": grouped["agreement"].median(),
            "mean inside": grouped["inside"].mean(),
            "mean across": grouped["across"].mean(),
            "parts": grouped["parts"].sum(),
        }
    ).astype(object)
    count = table["patient"].nunique()
    return Section(
        "How far cells act together",
        "How much of the explanation stays when relevance may not leave squares of a size: 1 where "
        "closing their borders changes no cell. Where the curve levels off, larger neighbourhoods "
        "add nothing.",
        [Picture(interaction_range_curve(table, unit=unit),
                 f"Agreement with the whole explanation over {_count(count, 'patient')}",
                 "Rising curve of agreement over the size of the squares")],
        [Table(frame.rename_axis(f"edge ({unit})"), "By size of the squares")],
    )  # fmt: skip


def _count(count: int, noun: str) -> str:
    return f"{thousands(count)} {noun}{'s' if count != 1 else ''}"


def thousands(number: int) -> str:
    """A whole number for reading, with thin spaces.

    Examples
    --------
    >>> thousands(1234567).split("\u202f")
    ['1', '234', '567']
    """
    return f"{number:,}".replace(",", "\u202f")
