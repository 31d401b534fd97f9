"""Explanations that relevance propagation is compared with; they see the same neuralized network.

They are here to be measured against (:mod:`xai.evaluate`), not to be trusted: none but integrated
gradients adds up to the evidence, and what is missing shows as the conservation error.

References
----------
.. [1] Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017
   (arXiv 1703.01365).
.. [2] Kauffmann, Esders, Ruff, Montavon, Samek, Mueller. From Clustering to Cluster Explanations
   via Neural Networks. IEEE TNNLS 35(2), 2024 (arXiv 1906.07633).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralize.attribution import Attribution
from neuralize.errors import InputError, UnsupportedModelError
from neuralize.network import Neuralized, Output

BASELINES = (
    "gradient",
    "gradient_x_input",
    "integrated_gradients",
    "nearest_neighbor_difference",
    "random",
)

NEEDS_GRADIENT = ("gradient", "gradient_x_input", "integrated_gradients")
NEEDS_BACKGROUND = ("integrated_gradients", "nearest_neighbor_difference")

AT_BASELINE = "evidence at the baseline"
"""Absorbed by integrated gradients: what the model already says at the start of the path."""

PATH_STEPS = 64
"""Points on the path of integrated gradients; the error of their sum is the conservation error."""


def baseline(
    net: Neuralized,
    x: Tensor,
    target: Any,
    method: str,
    output: Output,
    background: Any,
    seed: int,
) -> Attribution:
    r"""Explain the evidence of every row by one of :data:`BASELINES`.

    ``gradient``
        Sensitivity, :math:`(\partial f / \partial x_i)^2`, as in [2]_.
    ``gradient_x_input``
        :math:`x_i \, \partial f / \partial x_i`.
    ``integrated_gradients``
        :math:`(x_i - b_i) \int_0^1 \partial_i f(b + t (x - b)) \, dt` from the mean ``b`` of
        ``background``, by the midpoint rule with 64 points [1]_.
    ``nearest_neighbor_difference``
        :math:`(x_i - b_i)^2` to the nearest row ``b`` of ``background``; for clusterings the
        nearest row that the network assigns to another cluster than the target. Zero for a row
        that is itself in the background of an outlier score.
    ``random``
        Standard normal numbers; row ``i`` is drawn with ``seed + i``, so batches do not matter.

    Where the evidence has no gradient (a distance of exactly zero), the sub-gradient zero is taken.

    Parameters
    ----------
    net
        The network.
    x
        Rows ``(n, ...)``.
    target
        Cluster, one for all or one per row; the assigned one when missing.
    method
        Name of the baseline.
    output
        ``"score"`` or ``"margin"``: the gradients are the same, the evidence is less the threshold.
    background
        Reference rows ``(m, ...)`` of the width of ``x``.
    seed
        Of ``random``.

    Raises
    ------
    InputError
        No background where one is needed, or one that does not fit; no threshold for a margin.
    UnsupportedModelError
        A gradient of a step function, or of rows that are scored against each other.

    Examples
    --------
    >>> from neuralize import neuralize
    >>> net = neuralize(np.array([[0.0, 0.0], [2.0, 0.0]]))
    >>> x = torch.tensor([[0.5, 3.0]])
    >>> baseline(net, x, None, "gradient", "score", None, 0).values.tolist()
    [[16.0, 0.0]]
    >>> part = baseline(net, x, None, "integrated_gradients", "score", [[1.5, 0.0]], 0)
    >>> part.values.tolist(), part.evidence.tolist(), part.absorbed[AT_BASELINE].tolist()
    ([[4.0, 0.0]], [2.0], [-2.0])
    """
    if method not in BASELINES:
        raise InputError(
            f"Expected one of the baselines {', '.join(map(repr, BASELINES))}, got {method!r}."
        )
    if method in NEEDS_GRADIENT:
        _check_gradient(net, method)
    rows = net._cast(x.detach())
    net.check(rows)
    goal = net.resolve_target(rows, target)
    reference = _reference(net, rows, background, method) if method in NEEDS_BACKGROUND else rows
    offset = net.margin_threshold(output)
    with torch.no_grad():
        evidence = net.evidence(rows, goal) - offset
    absorbed: dict[str, Tensor] = {}
    if method == "gradient":
        values = _gradient(net, rows, goal) ** 2
    elif method == "gradient_x_input":
        values = rows * _gradient(net, rows, goal)
    elif method == "integrated_gradients":
        start = reference.mean(0, keepdim=True)
        values = _integrated_gradients(net, rows, start, goal)
        with torch.no_grad():
            absorbed[AT_BASELINE] = net.evidence(start.expand_as(rows), goal) - offset
    elif method == "nearest_neighbor_difference":
        values = _nearest_difference(net, rows, reference, goal)
    else:
        values = _random(rows, seed)
    return Attribution(values, evidence, absorbed, goal)


def _check_gradient(net: Neuralized, method: str) -> None:
    if not net.differentiable:
        raise UnsupportedModelError(
            f"{net.model_name} is a step function, whose gradient is zero wherever it exists, so "
            f"{method!r} would say nothing. Use method='lrp', 'nearest_neighbor_difference' or "
            "'random'."
        )
    if not net.row_independent:
        raise UnsupportedModelError(
            f"{net.model_name} scores a row against the other rows of its batch, so the gradient "
            "by one row is not that row's explanation. Use method='lrp'."
        )


def _reference(net: Neuralized, x: Tensor, background: Any, method: str) -> Tensor:
    if background is None:
        raise InputError(
            f"Expected background rows (m, d) for {method!r}, got None. Pass "
            "background=<rows the model was fitted on, or a sample of them>."
        )
    rows = background if isinstance(background, Tensor) else np.array(background, np.float64)
    rows = torch.as_tensor(rows, dtype=x.dtype, device=x.device).detach()
    if rows.ndim and len(rows) and rows.shape[1:].numel() == x.shape[1:].numel():
        rows = rows.reshape(len(rows), *x.shape[1:])
    if rows.shape[1:] != x.shape[1:] or len(rows) == 0:
        raise InputError(
            f"Expected background rows of shape {tuple(x.shape[1:])} like the data, got an array "
            f"of shape {tuple(rows.shape)}."
        )
    if not bool(torch.isfinite(rows).all()):
        raise InputError("Expected finite background rows, got NaN or infinity.")
    return rows


def _parts(
    net: Neuralized, x: Tensor, target: Tensor | None
) -> Iterable[tuple[Tensor, Tensor | None]]:
    """Rows whose graph is alive at once: as many as the network itself handles together."""
    size = net.rows_at_once
    goals = [None] * -(-len(x) // size) if target is None else target.split(size)
    return zip(x.split(size), goals, strict=True)


def _gradient(net: Neuralized, x: Tensor, target: Tensor | None) -> Tensor:
    gradients = []
    for part, goal in _parts(net, x, target):
        with torch.inference_mode(False), torch.enable_grad():
            leaf = (part.clone() if part.is_inference() else part.detach()).requires_grad_()
            (gradient,) = torch.autograd.grad(net.evidence(leaf, goal).sum(), leaf)
        gradients.append(gradient)
    gradient = torch.cat(gradients)
    return gradient.masked_fill_(gradient.isnan(), 0.0)


def _integrated_gradients(
    net: Neuralized, x: Tensor, start: Tensor, target: Tensor | None
) -> Tensor:
    total = torch.zeros_like(x)
    for step in range(PATH_STEPS):
        total += _gradient(net, start + (step + 0.5) / PATH_STEPS * (x - start), target)
    return (x - start) * total / PATH_STEPS


def _nearest_difference(
    net: Neuralized, x: Tensor, reference: Tensor, target: Tensor | None
) -> Tensor:
    others, bank = None, reference.flatten(1)
    if target is not None:
        others = net.predict(reference)
        alone = [int(c) for c in target.unique() if bool((others == c).all())]
        if alone:
            raise InputError(
                f"Expected background rows outside cluster {alone[0]}, got only rows that the "
                "network assigns to it. Pass background rows of several clusters."
            )
    values = torch.empty_like(x)
    size = max(1, net.chunk_bytes // (len(bank) * bank.element_size()))
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        distance = torch.cdist(x[part].flatten(1), bank)
        if target is not None and others is not None:
            distance[target[part].unsqueeze(1) == others] = torch.inf
        values[part] = (x[part] - reference[distance.argmin(1)]) ** 2
    return values


def _random(x: Tensor, seed: int) -> Tensor:
    width = x.shape[1:].numel()
    rows = [np.random.default_rng(seed + i).standard_normal(width) for i in range(len(x))]
    return torch.as_tensor(np.stack(rows), dtype=x.dtype, device=x.device).reshape(x.shape)
