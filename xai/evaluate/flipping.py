"""Pixel-flipping: remove the most relevant features first and watch the evidence fall.

An explanation that ranks features as the model uses them makes the evidence fall fast, so its curve
has a small area. References: Samek, Binder, Montavon, Lapuschkin, Mueller, Evaluating the
Visualization of What a Deep Neural Network Has Learned, IEEE TNNLS 28(11), 2017 (arXiv 1509.06321);
for clusterings and one-class models arXiv 1906.07633 and 1805.06230.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from neuralize import Neuralized, neuralize
from xai.errors import InputError, UnsupportedModelError
from xai.evaluate.curves import FlippingResult
from xai.evaluate.replacement import replacement_rule
from xai.evaluate.trajectory import Replacement
from xai.evaluate.units import feature_units
from xai.explainer import to_rows
from xai.relevance import Relevance

Array = NDArray[Any]
Order = Literal["most_relevant_first", "least_relevant_first"]

_CHUNK_BYTES = 64 * 2**20


def pixel_flipping(
    model: Any,
    x: Any,
    relevance: Relevance | ArrayLike,
    *,
    target: ArrayLike | None = None,
    replace: str | Replacement = "conditional",
    reference: ArrayLike | None = None,
    order: Order = "most_relevant_first",
    patch: int = 1,
    n_steps: int | None = None,
    n_repeats: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> FlippingResult:
    """Remove features in the order of their relevance and follow the evidence.

    Parameters
    ----------
    model
        Anything :func:`neuralize.neuralize` takes, or its result.
    x
        Rows ``(n, d)`` or pictures ``(n, ...)``. For outlier scores: pass outliers, since an inlier
        has nothing to lose.
    relevance
        Of the same shape as ``x``. A pixel's channels, or a patch's pixels, are added up.
    target
        Cluster whose evidence is followed, one per row; that of ``relevance``, or the one the
        untouched row is assigned to. It stays the same while features leave.
    replace
        What stands for removed features: ``"conditional"`` (mean of a kernel density given the
        kept features), ``"conditional_sample"`` (a draw from it), ``"inpaint"`` (pictures),
        ``"mean"``, or a :class:`~xai.evaluate.Replacement`.
    reference
        Rows ``(m, ...)`` the replacement is learned from: those the model was fitted on.
    order
        Whether the most or the least relevant leave first.
    patch
        Side of the square patches removed together; pictures only.
    n_steps
        Number of re-evaluations, as equal in size as possible; one per unit when missing.
    n_repeats
        Runs with seeds ``seed, seed + 1, ...``, averaged. They differ in how ties of relevance are
        broken, and in the draws of ``"conditional_sample"``.
    seed
        Of the first run.
    progress
        Whether to show a bar on work that takes longer than two seconds.

    Raises
    ------
    InputError
        Shapes that do not fit, NaN relevance, an unknown option.
    UnsupportedModelError
        A model that scores rows against each other.

    Examples
    --------
    >>> import xai
    >>> from sklearn.cluster import KMeans
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]])
    >>> kmeans = KMeans(2, n_init=1, random_state=0).fit(x)
    >>> result = pixel_flipping(kmeans, x, xai.explain(kmeans, x), replace="mean", reference=x)
    >>> result.evidence[0].tolist()
    [16.0, 0.0, 0.0]
    >>> result.auc().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    net = model if isinstance(model, Neuralized) else neuralize(model)
    if not net.row_independent:
        raise UnsupportedModelError(
            f"{net.model_name} scores a row against the other rows of its batch: removing features "
            "of one would change the score of all. Evaluate a detector with a fixed reference."
        )
    if order not in ("most_relevant_first", "least_relevant_first"):
        raise InputError(
            f"Expected order 'most_relevant_first' or 'least_relevant_first', got {order!r}."
        )
    if n_repeats < 1:
        raise InputError(f"Expected n_repeats >= 1, got {n_repeats}.")
    inputs = to_rows(x)[0].cpu().numpy().astype(np.float64)
    shape = inputs.shape[1:]
    units = feature_units(shape, patch)
    n_steps = len(units) if n_steps is None else n_steps
    if not 1 <= n_steps <= len(units):
        raise InputError(f"Expected n_steps from 1 to {len(units)} units, got {n_steps}.")
    method = relevance.method if isinstance(relevance, Relevance) else "relevance"
    scores = _unit_scores(relevance, inputs, units)
    if order == "least_relevant_first":
        scores = -scores
    rule = replacement_rule(replace, reference, shape)
    flat = inputs.reshape(len(inputs), -1)
    follow = _Evidence(net, shape)
    goals = _targets(net, follow, flat, relevance, target)
    width = max(len(rule.reference), flat.shape[1])
    size = max(1, _CHUNK_BYTES // (8 * width))
    evidence = np.zeros((len(flat), n_steps + 1))
    starts = range(0, len(flat), size)
    bar = tqdm(
        total=n_repeats * len(starts) * n_steps,
        delay=2,
        disable=not progress,
        desc="flipping",
    )
    with bar:
        for repeat in range(seed, seed + n_repeats):
            for start in starts:
                part = slice(start, start + size)
                seeds = [[repeat, row] for row in range(start, start + len(flat[part]))]
                ranking = _ranking(scores[part], seeds)
                path = rule.begin(flat[part], seeds)
                goal = None if goals is None else goals[part]
                evidence[part, 0] += follow(flat[part], goal)
                for step, group in enumerate(np.array_split(ranking, n_steps, axis=1), 1):
                    gone = units[group].reshape(len(group), -1)
                    evidence[part, step] += follow(path.remove(gone), goal)
                    bar.update()
    sizes = [len(group) for group in np.array_split(np.arange(len(units)), n_steps)]
    return FlippingResult(
        evidence=evidence / n_repeats,
        removed=np.cumsum([0, *sizes]) / len(units),
        order=order,
        evidence_name=net.evidence_name,
        method=method,
    )


class _Evidence:
    """The network's evidence of flat NumPy rows."""

    def __init__(self, net: Neuralized, shape: tuple[int, ...]) -> None:
        self.net = net
        self.shape: tuple[int, ...] = (math.prod(shape),)
        self.dtype, self.device = net.dtype, net.device
        if net.n_features is None or net.features is not None:
            self.shape = shape
        if net.features is not None:
            first = next(net.features.parameters(), None)
            self.dtype = self.dtype if first is None else first.dtype
            self.device = self.device if first is None else first.device

    def rows(self, flat: Array) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(flat)).to(self.device, self.dtype)
        return x.reshape(len(flat), *self.shape)

    def __call__(self, flat: Array, target: torch.Tensor | None) -> Array:
        with torch.no_grad():
            evidence: Array = self.net.evidence(self.rows(flat), target).cpu().numpy()
        return evidence


def _targets(
    net: Neuralized,
    follow: _Evidence,
    flat: Array,
    relevance: Relevance | ArrayLike,
    target: ArrayLike | None,
) -> torch.Tensor | None:
    rows = follow.rows(flat)
    net.check(rows)
    if target is None and isinstance(relevance, Relevance):
        target = relevance.target
    goal = None if target is None else torch.as_tensor(np.array(target))
    if goal is None and net.kind == "output":  # the largest output of the untouched row
        with torch.no_grad():
            goal = net(rows).argmax(1)
    return net.resolve_target(rows, goal)


def _unit_scores(relevance: Relevance | ArrayLike, inputs: Array, units: Array) -> Array:
    values = relevance.values if isinstance(relevance, Relevance) else np.asarray(relevance)
    if values.shape != inputs.shape:
        raise InputError(
            f"Expected relevance of the data's shape {inputs.shape}, got {values.shape}."
        )
    if not np.isfinite(values).all():
        raise InputError("Expected finite relevance, got NaN or infinity.")
    flat = values.reshape(len(values), -1).astype(np.float64)
    padded = np.hstack([flat, np.zeros((len(flat), 1))])
    scores: Array = padded[:, units].sum(2)
    return scores


def _ranking(scores: Array, seeds: list[list[int]]) -> Array:
    """Units by falling score ``(n, n_units)``; ties fall as the row's own dice say."""
    dice = np.stack([np.random.default_rng(seed).random(scores.shape[1]) for seed in seeds])
    return np.lexsort((dice, -scores), axis=1)
