"""The state an encoder is explained in: evaluation mode, and afterwards as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_lock = threading.Lock()
_in_use: dict[nn.Module, tuple[int, bool]] = {}
"""Modules that are being explained: by how many, and whether they were in training mode before."""


@contextmanager
def evaluating(encoder: nn.Module | None) -> Iterator[None]:
    """The encoder in evaluation mode, and afterwards every module as it was.

    In training mode an explanation would move BatchNorm's running statistics. Users of one encoder
    may overlap, nested or in threads: the last to leave restores.
    """
    modules = [] if encoder is None else list(encoder.modules())
    with _lock:
        for module in modules:
            users, before = _in_use.get(module, (0, module.training))
            _in_use[module] = (users + 1, before)
        if encoder is not None:
            encoder.eval()
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                users, before = _in_use.pop(module)
                if users > 1:
                    _in_use[module] = (users - 1, before)
                else:
                    module.training = before
