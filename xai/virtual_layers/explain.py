"""Explaining a model in another basis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from neuralize import Neuralized, neuralize
from neuralize.deep.score_network import ScoreNetwork
from neuralize.module import NeuralizedModule
from xai.errors import InputError
from xai.explainer import _rules, _targets
from xai.plot.images import channel_axis
from xai.relevance import Array
from xai.rows import to_rows
from xai.virtual_layers.bases import DCT, DFT, OUTSIDE, Basis, LinearBasis
from xai.virtual_layers.context import context_of
from xai.virtual_layers.heads import head_messages, head_relevance
from xai.virtual_layers.relevance import BasisRelevance


def frequency(
    model: Any,
    x: Any,
    target: Any = None,
    composite: Any = None,
    transform: Literal["dct", "dft"] = "dct",
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> BasisRelevance:
    """Which spatial frequencies a decision rests on: relevance of the DCT or DFT of pictures.

    An inverse transform is put below the model as its first layer, and relevance is sent on through
    it (Vielhaben et al., Explainable AI for time series via virtual inspection layers, arXiv
    2303.06365): ``R_k = h_k sum_i S_ik R_i / x_i``.

    Parameters
    ----------
    model
        A network, a fitted model, or what :func:`neuralize.neuralize` made of one. Models fitted on
        flattened pictures take the pictures as they are.
    x
        Pictures ``(n, h, w)``, ``(n, c, h, w)`` or, where there is no network, ``(n, h, w, c)``;
        each channel is transformed by itself.
    target, composite
        As in :func:`xai.explain`.
    transform
        ``"dct"`` (orthonormal DCT-II) or ``"dft"`` (real and imaginary part added up).
    batch_size
        Pictures at a time.
    progress
        Whether to show a bar on work that takes longer than two seconds.

    Raises
    ------
    InputError
        Rows that are no pictures, or another transform.
    UnsupportedModelError
        A model without an encoder whose rules have no exact form behind a linear map.

    Examples
    --------
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    >>> found = frequency(net, np.ones((1, 4, 4), dtype=np.float32))
    >>> found.values.shape, bool(np.isclose(found.values[0, 0, 0], found.evidence[0]))
    ((1, 4, 4), True)
    """
    if transform not in ("dct", "dft"):
        raise InputError(f"Expected transform 'dct' or 'dft', got {transform!r}.")
    net = model if isinstance(model, Neuralized) else neuralize(model)
    if isinstance(net, ScoreNetwork) and net.features is None and not len(net.front):
        composite = net.composite if composite is None else composite
        net = NeuralizedModule(net.network)
    rows = to_rows(x)[0]
    if rows.ndim not in (3, 4):
        raise InputError(f"Expected pictures (n, h, w) or with channels, got {tuple(rows.shape)}.")
    # networks want their channels first; models of flattened pictures take either
    last = not _has_network(net) and channel_axis(tuple(rows.shape[1:])) == -1
    dims = (-3, -2) if last else (-2, -1)
    basis: Basis = DCT(dims) if transform == "dct" else DFT(dims, rows.shape[dims[1]])
    return in_basis(net, rows, basis, target, composite, batch_size=batch_size, progress=progress)


def in_basis(
    model: Any,
    x: Any,
    basis: Basis,
    target: Any = None,
    composite: Any = None,
    *,
    layer: str | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> BasisRelevance:
    """Relevance in any basis, of the input or of what a layer returns.

    Parameters
    ----------
    model, x, target, composite, batch_size, progress
        As in :func:`frequency`; rows of any shape.
    basis
        A :class:`~xai.virtual_layers.Basis`.
    layer
        Module of the network whose output is written in the basis; the input when missing. Pixel
        maps of bands are then those of the relevance that flows through the band at this layer
        (Chormai et al., arXiv 2212.14855).

    Raises
    ------
    InputError
        A layer that does not exist, runs more than once or is no tensor, or a basis of another
        width.

    Examples
    --------
    >>> from xai.virtual_layers import LinearBasis
    >>> found = in_basis(np.array([[0.0, 0.0], [2.0, 1.0]]), np.array([[0.5, 0.0]]),
    ...                  LinearBasis(torch.tensor([[0.6, 0.8], [-0.8, 0.6]])))
    >>> bool(np.isclose(found.values.sum(), found.evidence[0]))
    True
    """
    net = model if isinstance(model, Neuralized) else neuralize(model)
    if isinstance(net, ScoreNetwork) and net.features is None and not len(net.front):
        composite = net.composite if composite is None else composite
        net = NeuralizedModule(net.network)
    rows = to_rows(x)[0]
    goals, several = _targets(target)
    if several:
        raise InputError("Expected one target for every row; call once for each of several.")
    goal = goals[0]
    if layer is not None and not _has_network(net):
        raise InputError(f"{net.model_name} has no network below it, so no layer {layer!r}.")
    explain = _through_network if _has_network(net) else _through_head
    parts = []
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, delay=2, disable=not progress, desc="explaining"):
        part = rows[start : start + batch_size]
        now = goal[start : start + batch_size] if isinstance(goal, Tensor) else goal
        parts.append(_Part(*explain(net, part, basis, now, composite, layer)))
    names = sorted({name for part in parts for name in part.absorbed})

    def messages(masks: list[Array]) -> list[Array]:
        found = [part.messages(masks) for part in parts]
        return [np.concatenate([_array(f[i]) for f in found]) for i in range(len(masks))]

    return BasisRelevance(
        values=_joined([part.values for part in parts]),
        evidence=_joined([part.evidence for part in parts]),
        absorbed={
            name: _joined([p.absorbed.get(name, 0 * p.evidence) for p in parts]) for name in names
        },
        target=None
        if parts[0].target is None
        else _joined([part.target for part in parts if part.target is not None]),
        inputs=_array(rows),
        whole=_joined([part.whole for part in parts]),
        basis=basis,
        evidence_name=net.evidence_name,
        model_name=net.model_name,
        composite=_rules(net, composite),
        remainders={
            name: _joined([part.remainders[name] for part in parts]) for name in parts[0].remainders
        },
        messages=messages,
    )


def _has_network(net: Neuralized) -> bool:
    return net.features is not None or isinstance(net, NeuralizedModule)


class _Part:
    """The explanation of one batch."""

    def __init__(
        self, values: Tensor, evidence: Tensor, absorbed: dict[str, Tensor], target: Tensor | None,
        whole: Tensor, remainders: dict[str, Tensor], messages: Any,
    ) -> None:  # fmt: skip
        self.values, self.evidence, self.absorbed, self.target = values, evidence, absorbed, target
        self.whole, self.remainders, self.messages = whole, remainders, messages


def _through_network(
    net: Neuralized, x: Tensor, basis: Basis, target: Any, composite: Any, layer: str | None
) -> tuple[Any, ...]:
    """At a tensor with a context: ``R_k = h_k (S^T c)_k``."""
    at = context_of(net, x, target, composite, layer)
    values = basis.contributions(basis.forward(at.a), at.c)
    rest = basis.remainders(at.a)
    absorbed = dict(at.absorbed)
    for name, part in rest.items():
        absorbed[name] = (part * at.c).flatten(1).sum(1)
    given, evidence, goal = x, at.evidence, at.target

    def messages(masks: list[Array]) -> list[Tensor]:
        # The pass is made again when it is asked for: it would hold every activation until then.
        now = context_of(net, given, goal, composite, layer)
        return [
            now.below(basis.component(now.a, torch.as_tensor(np.array(mask)).to(now.a)) * now.c)[0]
            for mask in masks
        ]

    whole = at.below(at.a * at.c)[0]
    remainders = {name: at.below(part * at.c)[0] for name, part in rest.items()}
    return values, evidence, absorbed, goal, whole, remainders, messages


def _through_head(
    net: Neuralized, x: Tensor, basis: Basis, target: Any, composite: Any, layer: str | None
) -> tuple[Any, ...]:
    """By folding the inverse transform into the model's own first layer."""
    net._encoder_rules(composite)  # refuses rules for a network that is not there
    goal = net.resolve_target(net._cast(x.flatten(1)), target)
    plain = net.relevance(x.flatten(1), goal)
    found, dense = head_relevance(net, x, goal, basis)
    shape = tuple(basis.forward(net._cast(x.flatten(1)).reshape(x.shape)[:1]).shape[1:])
    absorbed = dict(found.absorbed)
    remainders: dict[str, Tensor] = {}
    count = dense.shape[1]
    if isinstance(basis, LinearBasis) and len(basis.matrix) < count:
        absorbed[OUTSIDE] = dense[:, len(basis.matrix) :].sum(1)
        dense = dense[:, : len(basis.matrix)]
        synthesis, analysis = basis.dense(tuple(x.shape[1:]), plain.values)
        known = len(basis.matrix)
        outside = synthesis[:, known:] @ analysis[known:]
        remainders[OUTSIDE] = head_messages(net, x, goal, outside)

    def messages(masks: list[Array]) -> list[Tensor]:
        width = x[0].numel()
        units = torch.eye(width, dtype=net.dtype, device=net.device).reshape(-1, *x.shape[1:])
        found = []
        for mask in masks:
            # without the mean: what counts here are differences
            part = _linear(basis).component(units, torch.as_tensor(np.array(mask)).to(units))
            found.append(head_messages(net, x, goal, part.reshape(width, width).T))
        return found

    values = basis.collected(dense, shape)
    whole = plain.values.reshape(x.shape)
    return values, found.evidence, absorbed, found.target, whole, remainders, messages


def _linear(basis: Basis) -> Basis:
    """The basis without its mean."""
    if isinstance(basis, LinearBasis) and basis.mean is not None:
        return LinearBasis(basis.matrix, None, basis.dim, basis.groups, basis.name)
    return basis


def _joined(parts: Sequence[Tensor]) -> Array:
    return np.concatenate([_array(part) for part in parts])


def _array(t: Tensor) -> Array:
    array: Array = t.detach().cpu().numpy()
    return array
