"""A place in every row that always holds the same: the simplest and only exact repair.

What a model cannot see it cannot rest on. Pixels of a mark, or a column of a table, get their usual
content in all rows, before the model. Relevance there is exactly zero; what the content itself adds
to the evidence is absorbed under its own name.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from xai.errors import InputError


class Replaced(nn.Module):
    """``x`` with ``content`` at some entries of every row.

    Parameters
    ----------
    entries
        Which, boolean, in the shape of a row: ``(d,)`` of a table, ``(h, w)``, ``(c, h, w)`` ... of
        pictures.
    content
        What they hold from then on, in the same shape; only the values at ``entries`` count.

    Raises
    ------
    InputError
        Two shapes, no entries or all of them, content that is not finite.

    Examples
    --------
    >>> repair = Replaced([False, True], [0.0, 5.0])
    >>> repair(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 5.0], [3.0, 5.0]]
    """

    entries: Tensor
    content: Tensor

    def __init__(self, entries: ArrayLike, content: ArrayLike) -> None:
        super().__init__()
        where, values = np.asarray(entries), np.asarray(content, np.float64)
        if where.dtype != bool or where.shape != values.shape or not where.ndim:
            raise InputError(
                "Expected entries as booleans and content in the same shape, got "
                f"{where.shape} of {where.dtype} and {values.shape}."
            )
        if not where.any() or where.all():
            raise InputError(
                f"Expected some entries of a row but not all, got {where.sum()} of {where.size}."
            )
        if not np.isfinite(values[where]).all():
            raise InputError("Expected finite content.")
        self.register_buffer("entries", torch.from_numpy(where.copy()))
        self.register_buffer("content", torch.from_numpy(np.where(where, values, 0.0)).float())

    def forward(self, x: Tensor) -> Tensor:
        """Rows ``(n, ...)`` with the content in its place."""
        if x.shape[1:] != self.entries.shape:
            raise InputError(
                f"Expected rows of shape {tuple(self.entries.shape)}, got {tuple(x.shape[1:])}."
            )
        return torch.where(self.entries, self.content.to(x.dtype), x)
