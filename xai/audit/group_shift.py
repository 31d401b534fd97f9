"""What carries the group: a probe on the rows, and the shift that takes the group's mean away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from xai.audit.context import AuditContext
from xai.audit.encoded import encoded
from xai.evaluate.performance_drop import cramers_v
from xai.relevance import Array

PROBE_ROWS = 2000
"""Rows a probe sees at most, drawn at random."""

PROBE_DIMENSIONS = 50
"""It sees the first principal components of wider rows."""

FOLDS = 5

RIDGE = 0.01
"""Penalty of the probe, per row, on standardised components."""

PERMUTATIONS = 39
"""Of the groups, within labels: the best of 39 is exceeded by chance in one audit of forty."""


@dataclass(frozen=True)
class Probe:
    """How well the group can be told, beside what chance gives.

    Attributes
    ----------
    accuracy
        Balanced accuracy on held-out rows.
    null
        The same for permuted groups.
    """

    accuracy: float
    null: Array


def representation(audit: AuditContext) -> Array:
    """What the model's head sees of every row ``(n, q)``: the encoder's output, or the row."""
    return audit.flat if audit.net.features is None else encoded(audit, audit.data)


def probe(x: Array, groups: Array, labels: Array | None, rng: np.random.Generator) -> Probe:
    """Ask a linear probe for the group, and for groups permuted within labels."""
    if len(x) > PROBE_ROWS:
        chosen = np.sort(rng.choice(len(x), PROBE_ROWS, replace=False))
        x, groups = x[chosen], groups[chosen]
        labels = None if labels is None else labels[chosen]
    z = StandardScaler().fit_transform(x)
    if z.shape[1] > PROBE_DIMENSIONS:
        count = min(PROBE_DIMENSIONS, len(z) - 1)
        z = PCA(count, svd_solver="randomized", random_state=0).fit_transform(z)
    dealt = [groups, *(permuted(groups, labels, rng) for _ in range(PERMUTATIONS))]
    accuracy = _accuracies(z, np.stack(dealt), rng)
    return Probe(float(accuracy[0]), accuracy[1:])


def _accuracies(z: Array, dealt: Array, rng: np.random.Generator) -> Array:
    """Balanced accuracy ``(m,)`` of ridge probes for ``m`` ways ``(m, n)`` to deal out groups.

    Rows and folds are the same for all, so each fold's matrix is factorised once. Indicators of a
    group are divided by its size, so that rare groups count as much as common ones.
    """
    names = np.unique(dealt)
    hot = (dealt[:, :, None] == names).astype(float)
    fold = rng.permutation(np.arange(len(z)) % FOLDS)
    found = np.empty_like(dealt)
    for k in range(FOLDS):
        inside, outside = fold != k, fold == k
        mean = z[inside].mean(0)
        x, size = z[inside] - mean, hot[:, inside].sum(1, keepdims=True)
        y = hot[:, inside] / np.maximum(size, 1)
        offset = y.mean(1, keepdims=True)
        weights = np.linalg.solve(
            x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), np.einsum("nd,mng->mdg", x, y - offset)
        )
        scores = (z[outside] - mean) @ weights + offset
        found[:, outside] = names[scores.argmax(2)]
    right = [((found == dealt) & (dealt == g)).sum(1) / (dealt == g).sum(1) for g in names]
    accuracy: Array = np.mean(right, 0)
    return accuracy


def permuted(groups: Array, labels: Array | None, rng: np.random.Generator) -> Array:
    """Groups dealt out anew, among rows of the same label."""
    found = groups.copy()
    for label in [None] if labels is None else np.unique(labels):
        rows = np.arange(len(groups)) if label is None else np.flatnonzero(labels == label)
        found[rows] = found[rng.permutation(rows)]
    return found


def association(decision: Array, groups: Array, labels: Array | None) -> float:
    """Cramer's V of decision and group, within labels (their mean by number of rows)."""
    strata = np.zeros(len(groups), int) if labels is None else labels
    total = 0.0
    for label in np.unique(strata):
        rows = strata == label
        a, i = np.unique(decision[rows], return_inverse=True)
        b, j = np.unique(groups[rows], return_inverse=True)
        table = np.zeros((len(a), len(b)))
        np.add.at(table, (i, j), 1)
        total += cramers_v(table) * rows.mean()
    return total


def without_group(x: Array, groups: Array, labels: Array | None) -> Array:
    """What to add to every row so that groups agree in their means, within labels ``(n, d)``."""
    strata = np.zeros(len(groups), int) if labels is None else labels
    shift = np.zeros_like(x)
    for label in np.unique(strata):
        inside = strata == label
        present = [g for g in np.unique(groups) if (inside & (groups == g)).any()]
        means = {g: x[inside & (groups == g)].mean(0) for g in present}
        middle = np.mean(list(means.values()), 0)
        for g, mean in means.items():
            shift[inside & (groups == g)] = middle - mean
    return shift


def random_shift(
    x: Array, groups: Array, labels: Array | None, like: Array, rng: np.random.Generator
) -> Array:
    """The same for permuted groups, made as long as ``like`` row by row."""
    shift = without_group(x, permuted(groups, labels, rng), labels)
    length = np.linalg.norm(shift, axis=1, keepdims=True)
    wanted = np.linalg.norm(like, axis=1, keepdims=True)
    scaled: Array = shift * wanted / np.where(length > 0, length, 1.0)
    return scaled
