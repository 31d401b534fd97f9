"""The state an encoder is explained in: evaluation mode, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(encoder: nn.Module | None) -> Iterator[None]:
    """The encoder in evaluation mode, and afterwards every module as it was.

    In training mode an explanation would move BatchNorm's running statistics.
    """
    modules = [] if encoder is None else list(encoder.modules())
    flags = [module.training for module in modules]
    if encoder is not None:
        encoder.eval()
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag
