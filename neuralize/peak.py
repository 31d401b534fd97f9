"""How much memory a computation takes, measured: so that the next one can be cut to fit."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """While inside, counts the bytes of all tensors made; on any device, in this thread's work.

    Attributes
    ----------
    peak
        The most that was alive at once. What an operation needs inside itself is not seen.

    Examples
    --------
    >>> import torch
    >>> with PeakMemory() as memory:
    ...     x = torch.ones(1000)
    ...     y = (x + 1) * 2
    >>> memory.peak
    12000
    >>> with PeakMemory() as memory:
    ...     z = y.reshape(10, 100).detach()  # no memory of its own
    >>> memory.peak
    0
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor):
                self._count(t, given)
        return result

    def _count(self, t: Tensor, given: set[int]) -> None:
        storage = t.untyped_storage()
        key = storage._cdata
        # a view of an operand that is not known was there before: a weight, say
        if key not in self._known and key not in given:
            size = storage.nbytes()
            self._known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size
