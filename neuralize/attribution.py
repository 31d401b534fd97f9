"""Relevance of one batch, and its way through the encoder below a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from neuralize.chunks import join
from neuralize.coverage import warn_if_amplified
from neuralize.lrp import LRP, Trace


@dataclass(frozen=True)
class Attribution:
    """Relevance of one batch, as tensors: ``evidence = values.sum(features) + sum(absorbed)``.

    Attributes
    ----------
    values
        Relevance of every input feature, in the input's shape ``(n, ...)``.
    evidence
        What was explained ``(n,)``.
    absorbed
        What constants took, by name, ``(n,)`` each.
    target
        Explained cluster per row ``(n,)``, or None for an outlier score.
    """

    values: Tensor
    evidence: Tensor
    absorbed: dict[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None


def joined(values: Tensor, parts: Sequence[Attribution]) -> Attribution:
    """The attributions of consecutive chunks as one; their values lie in ``values`` already."""
    names = sorted({name for part in parts for name in part.absorbed})
    absorbed = {
        name: join([p.absorbed.get(name, torch.zeros_like(p.evidence)) for p in parts])
        for name in names
    }
    targets = [p.target for p in parts if p.target is not None]
    evidence = join([p.evidence for p in parts])
    return Attribution(values, evidence, absorbed, join(targets) if targets else None)


def through_encoder(
    lrp: LRP,
    trace: Trace,
    x: Tensor,
    found: Sequence[Attribution],
    offsets: Sequence[str] = (),
    **kwargs: Any,
) -> list[Attribution]:
    """Relevance of the features sent on to the encoder's input; its shares are named as its own.

    Amplification is measured against the relevance of the features, and the shares of ``offsets``.
    """
    if len(found) == 1:
        values, shares = trace.relevance(found[0].values)
        values, shares = values[None], {name: share[None] for name, share in shares.items()}
    else:
        values, shares = trace.batched(torch.stack([one.values for one in found]))
    for k, (one, value) in enumerate(zip(found, values, strict=True)):
        beside = sum((shares[n][k].abs() for n in offsets if n in shares), value.new_zeros(len(x)))
        warn_if_amplified(lrp, x, one.values.to(trace.output.dtype), value, beside, **kwargs)
    return [
        replace(
            one,
            values=values[k],
            absorbed=one.absorbed
            | {f"encoder {name}": share[k].to(one.evidence) for name, share in shares.items()},
        )
        for k, one in enumerate(found)
    ]
