"""Patients in batches: images are cut out of a cohort once and put together without new sorting.

The neighbourhood of several images is block diagonal, and so is everything made of it (self loops,
means, transposes). These are made once for the whole cohort; a batch only concatenates its images'
blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphs.adjacency import Adjacency
from graphs.cell_graph import CellGraph
from graphs.inputs import GraphInput, graph_input
from graphs.network import Conv

FORMS = {
    "gin": lambda adjacency: adjacency.with_self_loops(),
    "gcn": lambda adjacency: adjacency.symmetric(),
    "sage": lambda adjacency: adjacency.mean(),
}


class PatientBatches:
    """A cohort, cut into images.

    Parameters
    ----------
    graph
        With edges.
    covariates
        A table with patients as index.
    names
        The covariates in use.
    conv
        The convolution whose neighbourhood is made once.

    Examples
    --------
    >>> cells = CellGraph(np.zeros((3, 2)), np.array([0, 1, 0]), ("a", "b"), np.array([0, 0, 1]),
    ...                   ("i", "j"), ("p", "q"), edges=np.array([[0, 1], [1, 0]]))
    >>> batch = PatientBatches(cells).batch([1, 0])
    >>> batch.x.tolist(), batch.image_sizes
    ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], (1, 2))
    >>> batch.adjacency.dense().tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """

    def __init__(
        self, graph: CellGraph, covariates: Any = None, names: Sequence[str] = (),
        conv: Conv = "gin",
    ) -> None:  # fmt: skip
        whole = graph_input(graph, covariates, names)
        _ = FORMS[conv](whole.adjacency).transposed
        self.covariates = whole.covariates
        bounds = np.cumsum([0, *whole.image_sizes]).tolist()
        self.x = whole.x.split(list(whole.image_sizes))
        self.adjacency = [block(whole.adjacency, start, stop) for start, stop in pairwise(bounds)]
        firsts = np.cumsum([0, *whole.images_per_patient])
        self.images = [np.arange(a, b) for a, b in pairwise(firsts)]

    def __len__(self) -> int:
        return len(self.images)

    def of(self, patients: Sequence[int]) -> PatientBatches:
        """Some patients ``(m,)`` by number, in that order: a fold, without cutting again."""
        found = copy.copy(self)
        found.images = [self.images[k] for k in patients]
        found.covariates = self.covariates[torch.as_tensor(list(patients))]
        return found

    def batch(
        self, patients: Sequence[int], most: int | None = None,
        generator: torch.Generator | None = None,
    ) -> GraphInput:  # fmt: skip
        """The input of some patients, in that order.

        Parameters
        ----------
        patients
            Numbers ``(m,)``.
        most
            Take so many images of a patient at most, drawn at random.
        generator
            Of the draw.
        """
        chosen: list[list[int]] = []
        for patient in patients:
            images = self.images[patient].tolist()
            if most is not None and len(images) > most:
                drawn = torch.randperm(len(images), generator=generator)[:most]
                images = [images[k] for k in drawn.sort().values.tolist()]
            chosen.append(images)
        flat = [image for images in chosen for image in images]
        return GraphInput(
            torch.cat([self.x[i] for i in flat]),
            block_diagonal([self.adjacency[i] for i in flat]),
            tuple(len(self.x[i]) for i in flat),
            tuple(map(len, chosen)),
            self.covariates[torch.as_tensor(list(patients))],
        )


def block(adjacency: Adjacency, start: int, stop: int) -> Adjacency:
    """The block of the cells from ``start`` to ``stop``, which has no edges to others.

    What was made of the whole (self loops, means, transposes) is cut as well.
    """

    def cut(whole: Adjacency) -> Adjacency:
        low, high = int(whole.starts[start]), int(whole.starts[stop])
        return Adjacency(
            whole.starts[start : stop + 1] - low,
            whole.columns[low:high] - start,
            whole.weights[low:high],
        )

    return _carried([adjacency], lambda parts: cut(parts[0]))


def block_diagonal(parts: Sequence[Adjacency]) -> Adjacency:
    """Several adjacencies without edges between them, with what was made of all of them."""
    return _carried(parts, _joined)


def _joined(parts: Sequence[Adjacency]) -> Adjacency:
    cells = np.cumsum([0, *(part.n for part in parts)]).tolist()
    entries = np.cumsum([0, *(len(part.columns) for part in parts)]).tolist()
    starts = [part.starts[:-1] + first for part, first in zip(parts, entries, strict=False)]
    end = torch.tensor([entries[-1]], device=parts[0].starts.device)
    return Adjacency(
        torch.cat([*starts, end]),
        torch.cat([part.columns + first for part, first in zip(parts, cells, strict=False)]),
        torch.cat([part.weights for part in parts]),
    )


def _carried(parts: Sequence[Adjacency], make: Any) -> Adjacency:
    """``make(parts)``, and the same of all that is remembered with the parts."""
    found: Adjacency = make(parts)
    if all("transposed" in part.__dict__ for part in parts):
        symmetric = all(part.transposed is part for part in parts)
        found.__dict__["transposed"] = (
            found if symmetric else make([part.transposed for part in parts])
        )
    made = [part.__dict__.get("_made", {}) for part in parts]
    found.__dict__["_made"] = {
        name: _carried([forms[name] for forms in made], make)
        for name in made[0]
        if all(name in forms for forms in made)
    }
    return found


def batches_with_events(event: Tensor, size: int, generator: torch.Generator) -> list[list[int]]:
    """Patients in random batches of about ``size``, each with its share of the events.

    Events and censored patients are shuffled and dealt out in turn, so batches differ by one
    patient of each kind at most. There are never more batches than events.

    Examples
    --------
    >>> event = torch.tensor([True, False, False, False, True, False])
    >>> found = batches_with_events(event, 2, torch.Generator().manual_seed(0))
    >>> [int(event[rows].sum()) for rows in found], sorted(sum(found, []))
    ([1, 1], [0, 1, 2, 3, 4, 5])
    """
    count = max(1, min(round(len(event) / size), int(event.sum())))
    rows: list[list[int]] = [[] for _ in range(count)]
    turn = 0
    for kind in (event, ~event):
        numbers = kind.nonzero()[:, 0]
        for number in numbers[torch.randperm(len(numbers), generator=generator)].tolist():
            rows[turn % count].append(number)
            turn += 1
    return rows
