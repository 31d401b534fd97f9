"""What a check gets to see: network, data, relevance, and the model's answers to what-ifs."""

from __future__ import annotations

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
    def relevance(self) -> Relevance:
        """Relevance of every row, for its cluster or its outlier score."""
        relevance: Relevance = explain(
            self.net, self.data, composite=self.composite, progress=self.progress
        )
        return relevance

    @property
    def evidence(self) -> Array:
        """Evidence of every row ``(n,)``, in float64."""
        return self.relevance.evidence.astype(np.float64)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the evidence over the rows."""
        return float(self.evidence.std())

    # -- decisions ---------------------------------------------------------------------------

    @cached_property
    def decision(self) -> Array:
        """Cluster of every row, or whether it is called abnormal ``(n,)``."""
        if self.net.kind != "outlier":
            target = self.relevance.target
            assert target is not None
            return target
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

    # -- what if -----------------------------------------------------------------------------

    def rescore(self, rows: Array, altered: Array) -> Rescored:
        """Ask the model about ``altered`` ``(k, d)``, versions of the rows ``rows`` ``(k,)``.

        A model that scores a row against its batch sees each altered batch as a whole.
        """
        shaped = self.net.features is not None or self.net.n_features is None
        shape = self.data.shape[1:] if shaped else (-1,)
        if self.net.row_independent:
            batch, asked = altered, np.arange(len(rows))
        else:
            batch, asked = self.flat.copy(), rows
            batch[rows] = altered
        x = torch.as_tensor(batch.astype(self.data.dtype)).reshape(len(batch), *shape)
        with torch.no_grad():
            if self.net.kind != "outlier":
                full = self.net(x).cpu().numpy().astype(np.float64)[asked]
                evidence = full[np.arange(len(rows)), self.decision[rows]]
                decision = full.argmax(1)
            else:
                evidence = self.net(x).cpu().numpy().astype(np.float64)[asked]
                decision = evidence > self.threshold
        return Rescored(evidence - self.evidence[rows], decision != self.decision[rows])

    # -- data --------------------------------------------------------------------------------

    @cached_property
    def flat(self) -> Array:
        """The data as a table ``(n, d)`` in float64."""
        table: Array = self.data.reshape(len(self.data), -1).astype(np.float64)
        return table

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
        """Every feature's share of its row's absolute relevance ``(n, d)``; 0 in an empty row."""
        magnitude = np.abs(self.relevance.values.reshape(len(self), -1).astype(np.float64))
        total = magnitude.sum(1, keepdims=True)
        share: Array = magnitude / np.where(total > 0, total, 1.0)
        return share

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


def _commonest(column: Array, rows: Array, phrase: str, verb: str) -> str:
    values, counts = np.unique(column[rows], return_counts=True)
    value = values[counts.argmax()]
    inside, overall = counts.max() / len(rows), (column == value).mean()
    return f"{inside:.0%} {phrase.format(value)} ({overall:.0%} of all rows {verb})"
