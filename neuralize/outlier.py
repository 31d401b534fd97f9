"""What every outlier network shares: a fixed chain of layers from input to one score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from neuralize.network import Kind, Neuralized


class OutlierNetwork(Neuralized):
    """An outlier score as a chain of layers; the last gives the evidence ``(n,)``.

    Parameters
    ----------
    layers
        From input ``(n, d)`` to evidence ``(n,)``.
    method, homogeneous, row_independent, differentiable
        As in :class:`~neuralize.network.Neuralized`.
    """

    kind: ClassVar[Kind] = "outlier"

    def __init__(
        self,
        layers: Sequence[nn.Module],
        *,
        method: str = "LRP",
        homogeneous: bool = True,
        row_independent: bool = True,
        differentiable: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.layers = nn.ModuleList(layers)
        self.method, self.homogeneous = method, homogeneous
        self.row_independent, self.differentiable = row_independent, differentiable

    def chain(self, target: Tensor | None) -> Sequence[nn.Module]:
        return list(self.layers)

    def fold_projection(self, matrix: Tensor, offset: Tensor) -> bool:
        fold = getattr(self.layers[0], "fold_projection", None)
        return fold is not None and bool(fold(matrix, offset))
