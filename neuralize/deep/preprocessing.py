"""What a detector does to its input first, as modules, so that relevance reaches the user's units.

Fitted on the training rows, stored in the checkpoint, and part of the explained network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from neuralize.errors import InputError


class Channel(nn.Module):
    """Pictures ``(n, h, w)`` get their one channel, ``(n, 1, h, w)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the axis."""
        return x.unsqueeze(1)


class Standardize(nn.Module):
    """``(x - mean) / std`` of the training rows, per column, or per channel of pictures.

    A column that never varies keeps its unit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        size = (shape[0], 1, 1) if len(shape) == 3 else tuple(shape)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation of ``x`` ``(n, ...)``."""
        axes = [0, *range(2, x.ndim)] if x.ndim == 4 else [0]
        wide = x.double()
        mean = wide.mean(axes)
        std = wide.var(axes, unbiased=False).sqrt()
        still = std <= 1e-7 * mean.abs() + torch.finfo(torch.float32).tiny
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.std.copy_(std.masked_fill(still, 1.0).reshape(self.std.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised rows."""
        return (x - self.mean) / self.std


class ContrastNormalize(nn.Module):
    """Each picture minus its mean, over its mean absolute deviation (L1), then min-max by training.

    The preprocessing of Deep SVDD (Ruff et al. 2018). A picture without contrast stays zero.
    """

    low: Tensor
    high: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    @staticmethod
    def contrast(x: Tensor) -> Tensor:
        """``(x - mean) / mean |x - mean|`` per row."""
        axes = tuple(range(1, x.ndim))
        x = x - x.mean(axes, keepdim=True)
        scale = x.abs().mean(axes, keepdim=True).detach()
        return x / torch.where(scale > 0, scale, torch.ones_like(scale))

    def fit(self, x: Tensor) -> None:
        """Take the extremes of ``x`` ``(n, ...)``."""
        found = self.contrast(x)
        self.low.copy_(found.min())
        self.high.copy_(torch.maximum(found.max(), found.min() + 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised rows, 0 to 1 on the training rows."""
        return (self.contrast(x) - self.low) / (self.high - self.low)


PREPROCESSING: dict[str, Callable[[Sequence[int]], nn.Module]] = {
    "standardize": Standardize,
    "contrast": ContrastNormalize,
}


def preprocessing(name: str | None, shape: Sequence[int]) -> nn.Sequential:
    """Steps for rows of ``shape``: a channel axis where pictures lack one, then what ``name`` says.

    Raises
    ------
    InputError
        An unknown name, or rows that are neither ``(d,)``, ``(h, w)`` nor ``(c, h, w)``.

    Examples
    --------
    >>> preprocessing("standardize", (28, 28))
    Sequential(
      (0): Channel()
      (1): Standardize()
    )
    """
    if name is not None and name not in PREPROCESSING:
        known = ", ".join(map(repr, PREPROCESSING))
        raise InputError(f"Expected preprocessing {known} or None, got {name!r}.")
    if len(shape) not in (1, 2, 3):
        raise InputError(
            "Expected rows (n, d), pictures (n, h, w) or (n, c, h, w), got rows of shape "
            f"{tuple(shape)}."
        )
    steps: list[nn.Module] = [Channel()] if len(shape) == 2 else []
    if name is not None:
        steps.append(PREPROCESSING[name](inner_shape(shape)))
    return nn.Sequential(*steps)


def fit_preprocessing(steps: nn.Sequential, x: Tensor) -> Tensor:
    """Fit every step on the outcome of those before; the preprocessed rows."""
    with torch.no_grad():
        for step in steps:
            if isinstance(step, Standardize | ContrastNormalize):
                step.fit(x)
            x = step(x)
    return x


def inner_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of a row behind preprocessing."""
    return (1, *shape) if len(shape) == 2 else tuple(shape)
