"""``GraphAudit``: ask every check about a graph network and the cells of a cohort."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from graphs.cell_graph import CellGraph
from graphs.ensemble import GraphEnsemble
from graphs.network import CellGraphNet
from xai.audit.appendix import thresholds
from xai.audit.asking import Asking
from xai.audit.check import Question
from xai.audit.graph_collapse import GraphCollapse, GraphConservation
from xai.audit.graph_context import GraphCheck, GraphContext
from xai.audit.graph_groups import GraphGroups
from xai.audit.graph_phenotypes import GraphPhenotypes
from xai.audit.graph_places import GraphPlaces
from xai.audit.graph_stability import GraphStability
from xai.audit.inputs import column_of
from xai.audit.reproduce import command_line, python_line
from xai.audit.saved import SavedAnswers
from xai.digest import digest
from xai.errors import InputError, UnsupportedModelError
from xai.relevance import Array
from xai.report import Answer, Section

if TYPE_CHECKING:
    import pandas as pd

GRAPH_CHECKS: tuple[type[GraphCheck], ...] = (
    GraphConservation,
    GraphCollapse,
    GraphPhenotypes,
    GraphGroups,
    GraphPlaces,
    GraphStability,
)
"""What an audit of a graph network asks unless told otherwise; groups, where there are any."""


class GraphAudit(Asking[GraphContext]):
    """Ask whether a survival network over cell graphs is right for the right reasons.

    Parameters
    ----------
    model
        A :class:`~graphs.network.CellGraphNet` or a :class:`~graphs.ensemble.GraphEnsemble`.
    graphs
        The cells of all patients, with edges; best of patients it was not trained on.
    labels, groups
        Class of every patient (died early, stage), and where their tissue comes from (site,
        scanner, batch): ``(p,)`` in the order of ``graphs.patient_names``, or a Series or a mapping
        by patient.
    checks
        Checks to ask, as objects or by name; all of :data:`GRAPH_CHECKS` when missing.
    covariates
        A table with patients as index, if the network uses any.
    suspects
        Names of phenotypes and features that should not matter, such as an intensity or a density.
    join
        How cells are joined, as it was done for training: ``lambda g: knn_graph(g, 5)``. Needed
        where cells move; without it, cells that are taken away only take their edges along.
    name
        What the report calls the model; its class name when missing.
    seed, progress, save_to, command, facts
        As in :class:`xai.Audit`.

    Raises
    ------
    InputError
        A graph without edges or with other inputs; labels, groups, covariates or suspects that do
        not fit; an unknown check.
    UnsupportedModelError
        A model over something else than cell graphs.

    Examples
    --------
    >>> import torch
    >>> from graphs.datasets import planted_motif
    >>> graph = planted_motif(0, patients=12, images=1, cells=(40, 60)).graph
    >>> _ = torch.manual_seed(0)
    >>> net = CellGraphNet(in_features=6, hidden=8, blocks=1).eval()
    >>> report = GraphAudit(net, graph, checks=["conservation"]).run()
    >>> report.verdict
    'No objection. 1 measure passed.'
    """

    def __init__(
        self,
        model: nn.Module,
        graphs: CellGraph,
        labels: Any = None,
        groups: Any = None,
        checks: Sequence[GraphCheck | str] | None = None,
        *,
        covariates: pd.DataFrame | None = None,
        suspects: Sequence[str] = (),
        join: Callable[[CellGraph], CellGraph] | None = None,
        name: str | None = None,
        seed: int = 0,
        progress: bool = True,
        save_to: str | Path | None = None,
        command: Sequence[str] = (),
        facts: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(model, CellGraphNet | GraphEnsemble):
            raise UnsupportedModelError(
                f"Expected a CellGraphNet or a GraphEnsemble, got {type(model).__name__}; "
                "xai.Audit takes models over rows and pictures."
            )
        graphs.require_edges()
        if model.config.in_features != len(graphs.input_names):
            raise InputError(
                f"Expected cells with {model.config.in_features} inputs, as the network reads, got "
                f"{len(graphs.input_names)}: {', '.join(graphs.input_names)}."
            )
        suspects = (suspects,) if isinstance(suspects, str) else tuple(suspects)
        unknown = [name for name in suspects if name not in graphs.input_names]
        if unknown:
            raise InputError(
                f"Expected suspects among the inputs {', '.join(graphs.input_names)}, got "
                f"{unknown[0]!r}."
            )
        self.name = name or type(model).__name__
        self.progress = progress
        self.context = GraphContext(
            model,
            graphs,
            covariates,
            per_patient(labels, graphs, "labels"),
            per_patient(groups, graphs, "groups"),
            suspects,
            join,
            seed,
            progress,
        )
        _ = self.context.batches  # covariates that do not fit are refused before any work
        self.checks = tuple(_resolve(checks, self.context))
        self.saved = None if save_to is None else SavedAnswers(save_to)
        self.command = tuple(command)
        self.facts = dict(facts or {})
        optional = {
            "labels": labels, "groups": groups, "covariates": covariates,
            "suspects": suspects or None, "join": join,
        }  # fmt: skip
        self._given = [option for option, value in optional.items() if value is not None]

    @property
    def model(self) -> nn.Module:
        """The audited network."""
        return self.context.net

    def introduction(self) -> str:
        """Which network, on how many patients, and what it decides."""
        graph = self.context.graph
        return (
            f"{self.name} on {len(graph)} cells of {len(self.context)} patients "
            f"({len(graph.image_names)} images). Evidence: the log hazard. Decision: whether it is "
            f"above the median of these patients ({self.context.threshold:.3g})."
        )

    def appendix(self, answers: Sequence[Answer]) -> tuple[Section, ...]:
        """Thresholds of every check asked."""
        return (thresholds(self.checks, answers),)

    def again(self, check: Question[GraphContext]) -> str:
        """The command line, or the lines of Python, that ask this check again."""
        seed = self.context.seed
        if self.command:
            return command_line(self.command, check.name, seed)
        known = any(type(check) is one for one in GRAPH_CHECKS)
        return python_line(self._given, check, known, seed, "xai.audit.GraphAudit(model, graphs")

    def versions(self) -> dict[str, str]:
        """Versions, the network's make, and a digest of the cells."""
        names = ("unsupervised-xai", "torch", "numpy", "scipy")
        return {
            **{name: version(name) for name in names},
            "python": platform.python_version(),
            "network": " ".join(repr(self.context.net).split())[:200],
            "inputs": ", ".join(self.context.graph.input_names),
            "cells_sha256": digest(self.context.graph),
        }


def per_patient(values: Any, graph: CellGraph, name: str) -> Array | None:
    """Labels or groups of the patients ``(p,)`` in the graph's order.

    Raises
    ------
    InputError
        Not one per patient, or a missing value.

    Examples
    --------
    >>> import numpy as np
    >>> graph = CellGraph(np.zeros((2, 2)), np.zeros(2, int), ("a",), np.array([0, 1]),
    ...                   ("1", "2"), ("p", "q"))
    >>> per_patient({"q": "north", "p": "south"}, graph, "groups").tolist()
    ['south', 'north']
    """
    if values is None:
        return None
    by_name = hasattr(values, "reindex") or isinstance(values, Mapping)
    if by_name:
        found = {str(key): value for key, value in values.items()}
        lacking = [patient for patient in graph.patient_names if patient not in found]
        if lacking:
            raise InputError(
                f"Expected {name} of every patient, got none of {lacking[0]!r} ({len(lacking)} "
                "such patients)."
            )
        values = [found[patient] for patient in graph.patient_names]
    column = column_of(values, len(graph.patient_names), f"{name} (patients are the rows)")
    if column is not None and any(value is None or value != value for value in column.tolist()):
        raise InputError(f"Expected {name} of every patient, got a missing value.")
    return column


def _resolve(
    checks: Sequence[GraphCheck | str] | None, audit: GraphContext
) -> Iterable[GraphCheck]:
    known = {check.name: check for check in GRAPH_CHECKS}
    if checks is None:
        checks = [n for n, check in known.items() if not check.needs or audit.groups is not None]
    expected = f"Expected a list of graph checks, or names of {', '.join(known)}, got"
    if isinstance(checks, str | GraphCheck) or not checks:
        raise InputError(f"{expected} {checks!r}.")
    for check in checks:
        if isinstance(check, str) and check in known:
            yield known[check]()
        elif isinstance(check, GraphCheck):
            yield check
        else:
            raise InputError(f"{expected} {check!r}.")
