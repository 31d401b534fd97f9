"""Testing a suspicion about cells: change them, and as many others chosen at random."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphs.cell_graph import CellGraph
from xai.audit.context import MAX_ROWS
from xai.audit.graph_context import DECISIONS, GraphContext
from xai.audit.trial import RARE, Effect, some
from xai.relevance import Array
from xai.report.finding import Counterfactual, Severity

DRAWS = 20
"""Times that something is done to cells at random, to compare with."""

FEW = 5
"""Patients that must carry what is suspected, to test it."""


def graph_trial(
    audit: GraphContext,
    rows: Array,
    altered: Array | CellGraph,
    others: Iterable[Array | CellGraph],
) -> Effect:
    """Ask about the patients ``(k,)`` with ``altered`` cells and with each of ``others``.

    Either are inputs or graphs as :meth:`GraphContext.rescore` takes them.
    """
    moved, direction, changed = _asked(audit, rows, altered)
    random = np.array([_asked(audit, rows, other) for other in others]).reshape(-1, 3)
    return Effect(moved, direction, changed, random[:, 0], random[:, 2])


def _asked(audit: GraphContext, rows: Array, altered: Array | CellGraph) -> Array:
    answer = audit.rescore(rows, altered)
    shift = answer.shift / (audit.spread or 1.0)
    return np.array([np.median(np.abs(shift)), np.median(shift), answer.changed.mean()])


def switched(audit: GraphContext, cells: Array, become: int | None = None) -> tuple[Array, Effect]:
    """Give cells their patient's mean features, or another phenotype, and as many others at random.

    Parameters
    ----------
    cells
        Which ``(n,)``, boolean.
    become
        The phenotype they get, all else as it is; the patient's mean cell when missing.

    Returns
    -------
    The patients tested ``(k,)``, at most 100 of those who have such cells, and the effect.
    """
    rng, of_cell = audit.rng, audit.patient_of_cell
    counts = np.bincount(of_cell[cells], minlength=len(audit))
    rows = some(np.flatnonzero(counts), rng, MAX_ROWS)
    mine = audit.cells_of(rows)
    patient, x = of_cell[mine], audit.inputs[mine]
    if become is None:
        others_get = audit.mean_inputs[patient].astype(x.dtype)
    else:
        p = len(audit.graph.phenotype_names)
        others_get = x.copy()
        others_get[:, :p] = np.arange(p) == become

    def altered(chosen: Array) -> Array:
        found: Array = np.where(chosen[:, None], others_get, x)
        return found

    free = ~cells[mine]
    others = (altered(drawn(free, patient, counts, rng)) for _ in range(DRAWS))
    return rows, graph_trial(audit, rows, altered(cells[mine]), others)


def drawn(among: Array, patient: Array, counts: Array, rng: np.random.Generator) -> Array:
    """As many cells of every patient as ``counts`` ``(p,)`` says, or all there are; ``(c,)``.

    Examples
    --------
    >>> patient = np.array([0, 0, 0, 2, 2])
    >>> rng = np.random.default_rng(0)
    >>> chosen = drawn(np.array([True, True, False, True, True]), patient, np.array([2, 0, 1]), rng)
    >>> chosen[:3].tolist(), int(chosen[3:].sum())
    ([True, True, False], 1)
    """
    key = np.where(among, rng.random(len(among)), 2.0)
    order = np.lexsort((key, patient))
    first = np.searchsorted(patient[order], np.arange(len(counts)))
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order)) - first[patient[order]]
    chosen: Array = among & (place < counts[patient])
    return chosen


def beyond_chance(effect: Effect) -> Severity:
    """As :attr:`Effect.severity`, and "info" unless more moves than for nearly all at random."""
    return effect.severity if effect.rank >= RARE else "info"


def counterfactual(audit: GraphContext, effect: Effect, what: str, how: str) -> Counterfactual:
    """The test for a report."""
    return Counterfactual(
        how, effect.numbers(what, DECISIONS), effect.before_after(what, DECISIONS)
    )
