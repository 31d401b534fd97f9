"""Frozen encoders below a detector: rows or pictures to features, in bounded memory."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from neuralize.encoder import evaluating
from neuralize.errors import InputError

INPUTS_AT_ONCE = 2**18
"""Input numbers encoded together; activations are some tens of times as many."""


def embed(encoder: nn.Module | None, x: Tensor) -> Tensor:
    """Features ``(n, q)`` of ``x`` ``(n, ...)``; without an encoder ``x`` itself.

    Raises
    ------
    InputError
        An encoder whose answer is not ``(n, q)``, or not finite.

    Examples
    --------
    >>> embed(nn.Flatten(), torch.zeros(3, 2, 2)).shape
    torch.Size([3, 4])
    """
    if encoder is None:
        return x
    if not isinstance(encoder, nn.Module):
        raise InputError(f"Expected an nn.Module as features, got {type(encoder).__name__}.")
    weights = (p.dtype for p in encoder.parameters() if p.is_floating_point())
    x = x.to(next(weights, x.dtype))
    rows = max(1, INPUTS_AT_ONCE // max(1, x[0].numel()))
    with torch.no_grad(), evaluating(encoder):
        phi = torch.cat([encoder(part.clone()) for part in x.split(rows)])
    if phi.ndim != 2:
        raise InputError(
            f"Expected features (n, q) from the encoder, got {tuple(phi.shape)}; end it with "
            "pooling or nn.Flatten()."
        )
    if not bool(torch.isfinite(phi).all()):
        raise InputError("The encoder's features are NaN or infinite for some rows.")
    return phi


def frozen(encoder: nn.Module) -> nn.Module:
    """A copy that is not trained any more.

    Examples
    --------
    >>> [p.requires_grad for p in frozen(nn.Linear(2, 1)).parameters()]
    [False, False]
    """
    return copy.deepcopy(encoder).eval().requires_grad_(False)
