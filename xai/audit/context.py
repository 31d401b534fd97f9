"""What a check gets to see: network, data, relevance, and the model's answers to what-ifs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from neuralize import Neuralized
from xai.explainer import explain
from xai.plot.images import channel_axis
from xai.relevance import Array, Relevance

STAND_IN_QUANTILE = 0.9
"""Where a detector has no threshold, the highest tenth of the audited scores stands in for one."""

RELEVANCE_BYTES = 2**28
"""Relevance beyond this size is looked at in so many rows, drawn at random, as fit into it."""

MAX_ROWS, FEWER_ROWS = 100, 40
"""Rows a test alters at most, drawn at random; fewer of large pictures."""

LARGE = 96 * 96
"""Pixels from which on a picture is large."""

COLUMNS_AT_ONCE = 2**24
"""Numbers that a statistic of columns brings into float64 at a time."""


@dataclass(frozen=True)
class Rescored:
    """The model's answers to altered rows.

    Attributes
    ----------
    shift
        Evidence afterwards minus before ``(k,)``, for the cluster the row was in before.
    changed
        Whether the assignment, or the outlier decision, is another one ``(k,)``.
    """

    shift: Array
    changed: Array


@dataclass(eq=False)
class AuditContext:
    """Everything checks share; what is costly is computed once, when first asked for.

    Attributes
    ----------
    net
        The audited model as a network.
    data
        What it is audited on ``(n, *shape)``.
    labels, groups
        Class of every row, and where it comes from (site, patient, batch) ``(n,)``; or None.
    masks
        Where evidence may lie, one mask per picture ``(n, h, w)``; or None.
    feature_names, row_names
        Names, where the data had some.
    composite
        zennit composite for an encoder below the model.
    seed
        Of everything random.
    progress
        Whether explaining shows a bar when it takes longer than two seconds.
    """

    net: Neuralized
    data: Array
    labels: Array | None = None
    groups: Array | None = None
    masks: Array | None = None
    feature_names: tuple[str, ...] | None = None
    row_names: tuple[str, ...] | None = None
    composite: Any = None
    seed: int = 0
    progress: bool = True

    def __len__(self) -> int:
        return len(self.data)

    @property
    def rng(self) -> np.random.Generator:
        """A fresh generator, so that no check depends on which ran before it."""
        return np.random.default_rng(self.seed)

    @cached_property
    def explained(self) -> Array:
        """Rows whose relevance is looked at ``(m,)``, sorted: all, or as many as memory takes."""
        wide = int(np.prod(self.data.shape[1:])) * self.data.dtype.itemsize
        most = max(1, RELEVANCE_BYTES // wide)
        if not self.net.row_independent or len(self) <= most:
            return np.arange(len(self))
        return np.sort(self.rng.choice(len(self), most, replace=False))

    @property
    def explains_all(self) -> bool:
        """Whether relevance of every row is looked at."""
        return len(self.explained) == len(self)

    @cached_property
    def relevance(self) -> Relevance:
        """Relevance of the rows :attr:`explained`, for their cluster or their outlier score."""
        return self._explain(self.explained)

    def relevance_of(self, rows: Array) -> Relevance:
        """Relevance of these rows ``(k,)``, computed anew where they were not explained."""
        if self.explains_all:
            return self.relevance[rows]
        return self._explain(np.asarray(rows))

    def _explain(self, rows: Array) -> Relevance:
        data = self.data if len(rows) == len(self) else self.data[rows]
        relevance: Relevance = explain(
            self.net, data, composite=self.composite, progress=self.progress
        )
        return relevance

    @cached_property
    def answers(self) -> Array:
        """What the network answers every row, as it is."""
        if "relevance" in vars(self) and self.explains_all and self.net.kind == "outlier":
            return self.relevance.evidence
        return self._ask(self.data)

    def _ask(self, data: Array) -> Array:
        """The network's answers to ``data`` ``(k, *shape)``, in its own precision."""
        shaped = self.net.features is not None or self.net.n_features is None
        rows = data if shaped else data.reshape(len(data), -1)
        x = torch.as_tensor(rows if rows.flags.writeable else rows.copy())
        size = max(self.net.rows_at_once, 256) if self.net.row_independent else len(x)
        with torch.no_grad():
            parts = [self.net(part).cpu().numpy() for part in x.split(size)]
        return np.concatenate(parts)

    @cached_property
    def evidence(self) -> Array:
        """Evidence of every row ``(n,)``, in float64, for its cluster or its outlier score."""
        answers = self.answers.astype(np.float64)
        own: Array = answers if answers.ndim == 1 else answers[np.arange(len(self)), self.decision]
        return own

    @cached_property
    def original(self) -> Array | None:
        """The model's own number for every row ``(n,)``, where it is another than the evidence."""
        if self.net.kind != "outlier":
            return None
        return self.net.score_map(torch.from_numpy(self.answers)).numpy()

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the evidence over the rows."""
        return float(self.evidence.std())

    # -- decisions ---------------------------------------------------------------------------

    @cached_property
    def decision(self) -> Array:
        """Cluster of every row, or whether it is called abnormal ``(n,)``."""
        if self.net.kind != "outlier":
            assigned: Array = self.answers.argmax(1)
            return assigned
        called: Array = self.evidence > self.threshold
        return called

    @cached_property
    def threshold(self) -> float:
        """The model's own threshold, or its stand-in; 0 for clusters."""
        if self.net.kind != "outlier":
            return 0.0
        if self.net.threshold is not None:
            return float(self.net.threshold)
        return float(np.quantile(self.evidence, STAND_IN_QUANTILE))

    @property
    def decision_name(self) -> str:
        """What a decision is here, for sentences: ``"assignments"`` or ``"outlier decisions"``."""
        return "assignments" if self.net.kind != "outlier" else "outlier decisions"

    @property
    def decision_note(self) -> str:
        """What stands in for a threshold the model lacks; empty where it has one."""
        if self.net.kind != "outlier" or self.net.threshold is not None:
            return ""
        return (
            "The model has no threshold of its own; being among the highest tenth of the audited "
            "scores stands in for being called abnormal."
        )

    @property
    def most_rows(self) -> int:
        """Rows that a test alters at most: a large picture takes a network long."""
        return FEWER_ROWS if self.is_image and self.planes[0, ..., 0].size >= LARGE else MAX_ROWS

    # -- what if -----------------------------------------------------------------------------

    def rescore(self, rows: Array, altered: Array) -> Rescored:
        """Ask the model about ``altered`` ``(k, d)``, versions of the rows ``rows`` ``(k,)``.

        A model that scores a row against its batch sees each altered batch as a whole.
        """
        if self.net.row_independent:
            batch, asked = altered, np.arange(len(rows))
        else:
            batch, asked = self.flat.copy(), rows
            batch[rows] = altered
        shaped = batch.astype(self.data.dtype, copy=False).reshape(-1, *self.data.shape[1:])
        answers = self._ask(shaped)[asked].astype(np.float64)
        if self.net.kind != "outlier":
            evidence = answers[np.arange(len(rows)), self.decision[rows]]
            decision = answers.argmax(1)
        else:
            evidence = answers
            decision = evidence > self.threshold
        return Rescored(evidence - self.evidence[rows], decision != self.decision[rows])

    # -- data --------------------------------------------------------------------------------

    @cached_property
    def flat(self) -> Array:
        """The data as a table ``(n, d)`` of floats; not a copy."""
        table: Array = self.data.reshape(len(self.data), -1)
        return table if table.dtype.kind == "f" else table.astype(np.float64)

    def _by_column(self, statistic: Callable[[Array], Array], rows: Array | None) -> Array:
        """A statistic ``(n, c) -> (c,)`` of all columns, some at a time and in float64."""
        chosen = self.flat if rows is None else self.flat[rows]
        step = max(1, COLUMNS_AT_ONCE // max(1, len(chosen)))
        parts = [
            statistic(chosen[:, i : i + step].astype(np.float64))
            for i in range(0, chosen.shape[1], step)
        ]
        return np.concatenate(parts)

    def median_row(self, rows: Array | None = None) -> Array:
        """Median of every feature over these rows, or all ``(d,)``."""
        return self._by_column(lambda x: np.median(x, axis=0), rows)

    @cached_property
    def variance(self) -> Array:
        """Variance of every feature over the rows ``(d,)``."""
        return self._by_column(lambda x: x.var(0), None)

    @property
    def is_image(self) -> bool:
        """Whether rows are pictures."""
        return self.data.ndim > 2

    @property
    def planes(self) -> Array:
        """Pictures with their channels last, ``(n, h, w, c)``."""
        axis = channel_axis(self.data.shape[1:])
        if axis is None:
            return self.data[..., None]
        moved: Array = np.moveaxis(self.data, axis, -1)
        return moved

    def as_planes(self, row: Array) -> Array:
        """One flat row ``(d,)`` as a picture with its channels last ``(h, w, c)``."""
        picture = row.reshape(self.data.shape[1:])
        axis = channel_axis(picture.shape)
        planes: Array = picture[..., None] if axis is None else np.moveaxis(picture, axis, -1)
        return planes

    def from_planes(self, planes: Array) -> Array:
        """Back from ``(h, w, c)`` to a flat row ``(d,)``."""
        axis = channel_axis(self.data.shape[1:])
        picture = planes[..., 0] if axis is None else np.moveaxis(planes, -1, axis)
        return picture.ravel()

    def features_of(self, pixels: Array) -> Array:
        """All features ``(d,)`` at these pixels ``(h, w)``: every channel."""
        axis = channel_axis(self.data.shape[1:])
        mask = pixels if axis is None else np.expand_dims(pixels, axis)
        features: Array = np.broadcast_to(mask, self.data.shape[1:]).ravel()
        return features

    @cached_property
    def relevance_share(self) -> Array:
        """Share of every feature in the absolute relevance of its row ``(m, d)``.

        Of the rows :attr:`explained`; 0 in a row without relevance.
        """
        return shares(self.relevance)

    def names(self, rows: Array) -> tuple[str, ...]:
        """Names of rows, or their positions."""
        if self.row_names is None:
            return tuple(f"row {i}" for i in rows)
        return tuple(self.row_names[i] for i in rows)

    def feature_name(self, i: int) -> str:
        """Name of a flattened feature, or its position."""
        return f"feature {i}" if self.feature_names is None else self.feature_names[i]

    def composition(self, rows: Array) -> str:
        """Who these rows are: the commonest label, group and decision among them.

        Examples
        --------
        >>> x = np.array([[0.0], [0.1], [4.0], [4.1]])
        >>> labels = np.array(["a", "a", "b", "b"])
        >>> from neuralize import neuralize
        >>> context = AuditContext(neuralize(np.array([[0.0], [4.0]])), x, labels)
        >>> context.composition(np.array([2, 3]))
        '100% have label b (50% of all rows do); 100% are in cluster 1 (50% of all rows are)'
        """
        parts = []
        for name, column in (("label", self.labels), ("group", self.groups)):
            if column is not None:
                parts.append(_commonest(column, rows, f"have {name} {{}}", "do"))
        if self.net.kind != "outlier":
            parts.append(_commonest(self.decision, rows, "are in cluster {}", "are"))
        else:
            inside, overall = self.decision[rows].mean(), self.decision.mean()
            parts.append(f"{inside:.0%} are called abnormal ({overall:.0%} of all rows are)")
        return "; ".join(parts)


def shares(relevance: Relevance) -> Array:
    """Share of every feature in the absolute relevance of its row ``(m, d)``; 0 without any."""
    magnitude: Array = np.abs(relevance.values.reshape(len(relevance), -1))
    total = magnitude.sum(1, dtype=np.float64, keepdims=True).astype(magnitude.dtype)
    magnitude /= np.where(total > 0, total, 1.0)
    return magnitude


def _commonest(column: Array, rows: Array, phrase: str, verb: str) -> str:
    values, counts = np.unique(column[rows], return_counts=True)
    value = values[counts.argmax()]
    inside, overall = counts.max() / len(rows), (column == value).mean()
    return f"{inside:.0%} {phrase.format(value)} ({overall:.0%} of all rows {verb})"
