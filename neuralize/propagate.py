"""How relevance travels: a mode, a ledger of absorbed shares, and layers with a rule.

Outside :func:`propagating` a :class:`Layer` is an ordinary differentiable module. Inside it, the
forward pass is unchanged, and ``backward`` carries *relevance* instead of gradients: each layer
turns the relevance of its output into relevance of its input by its own rule. What a rule cannot
hand on (the share of a bias, a log-determinant, a distance of exactly zero) goes to the ledger, by
name, so that

    evidence = sum of relevance over the input + sum over the ledger        (per row).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn


class Ledger:
    """What was absorbed, by name; each share has one number per row, shape ``(n,)``.

    Examples
    --------
    >>> ledger = Ledger()
    >>> ledger.add("bias", torch.tensor([1.0, 2.0]))
    >>> ledger.add("bias", torch.tensor([1.0, 0.0]))
    >>> ledger.shares["bias"].tolist()
    [2.0, 2.0]
    """

    def __init__(self) -> None:
        self.shares: dict[str, Tensor] = {}

    def add(self, name: str, share: Tensor) -> None:
        """Add ``share`` ``(n,)`` to what ``name`` has absorbed."""
        self.shares[name] = self.shares[name] + share if name in self.shares else share


_ledger: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


@contextmanager
def propagating() -> Iterator[Ledger]:
    """Within this context, ``backward`` carries relevance; yields the ledger of absorbed shares.

    Examples
    --------
    >>> from neuralize.layers import SquaredDistances
    >>> layer = SquaredDistances(torch.tensor([[1.0, 0.0]]))
    >>> x = torch.tensor([[2.0, 2.0]], requires_grad=True)
    >>> with propagating() as ledger:
    ...     z = layer(x)
    ...     (relevance,) = torch.autograd.grad(z, x, z)
    >>> z.item(), relevance.tolist()
    (5.0, [[1.0, 4.0]])
    """
    ledger = Ledger()
    token = _ledger.set(ledger)
    try:
        yield ledger
    finally:
        _ledger.reset(token)


class Layer(nn.Module):
    """One operation of a neuralized model together with its relevance rule.

    Subclasses give :meth:`compute` (the operation) and :meth:`split` (the rule).

    Attributes
    ----------
    target
        Which of several outputs the layer computes per row ``(n,)``, where it has to choose.
    """

    target: Tensor | None = None

    def compute(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the output and whatever :meth:`split` wants to find again."""
        raise NotImplementedError

    def split(
        self, x: Tensor, z: Tensor, saved: Any, relevance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the relevance of ``x`` and the absorbed shares, each ``(n,)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The operation's output; inside :func:`propagating`, its backward is :meth:`split`."""
        ledger = _ledger.get()
        if ledger is None:
            return self.compute(x)[0]
        z: Tensor = _Split.apply(x, self, ledger)
        return z


class _Split(torch.autograd.Function):
    """Carries a layer's rule. The ledger rides along, since backward may run in another thread."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, ledger: Ledger) -> Tensor:
        z, saved = layer.compute(x)
        ctx.save_for_backward(x, z)
        ctx.layer, ctx.saved, ctx.ledger = layer, saved, ledger
        return z

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor, None, None]:
        x, z = ctx.saved_tensors
        split, absorbed = ctx.layer.split(x, z, ctx.saved, relevance[0])
        for name, share in absorbed.items():
            ctx.ledger.add(name, share)
        return split, None, None
