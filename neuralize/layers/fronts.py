"""What a pipeline does before the model: element-wise maps, selections, projections."""

from __future__ import annotations

import torch
from torch import Tensor

from neuralize.propagate import Layer
from neuralize.rules.linear import wsquare

Absorbed = dict[str, Tensor]


class Step(Layer):
    """A preprocessing step."""

    def magnitude(self, before: float) -> float:
        """Size of the numbers that are rounded on the way, from that of the step before.

        Points that differ by less than a few roundings of this size are the same point.
        """
        return before


class Elementwise(Step):
    """``z_i = scale_i (x_i - center_i) + shift_i``: each output's relevance is its input's.

    A subclass may put another column-wise map first, :meth:`transform`.

    Parameters
    ----------
    scale, shift
        ``(d,)`` each.
    center
        ``(d,)``, subtracted first, so that a large offset costs no digits; zero when missing.
    limits
        Range the result is clipped to.

    Examples
    --------
    >>> Elementwise(torch.tensor([2.0]), torch.tensor([1.0]))(torch.tensor([[3.0]])).item()
    7.0
    """

    scale: Tensor
    shift: Tensor
    center: Tensor | None

    def __init__(
        self,
        scale: Tensor,
        shift: Tensor,
        center: Tensor | None = None,
        *,
        limits: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("center", center)
        self.limits = limits

    def transform(self, x: Tensor) -> Tensor:
        """A column-wise map that comes first; centring here."""
        return x if self.center is None else x - self.center

    def magnitude(self, before: float) -> float:
        return float(self.scale.abs().max()) * before + float(self.shift.norm())

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        z = self.transform(x) * self.scale + self.shift
        return (z if self.limits is None else z.clamp(*self.limits)), None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, Absorbed]:
        return relevance, {}


class Selection(Step):
    """Keep some columns, ``(n, d) -> (n, q)``; the dropped ones get no relevance.

    Examples
    --------
    >>> Selection(torch.tensor([1]), 2)(torch.tensor([[3.0, 4.0]])).tolist()
    [[4.0]]
    """

    index: Tensor

    def __init__(self, index: Tensor, n_features: int) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.n_features = n_features

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        return x[:, self.index], None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, Absorbed]:
        return torch.zeros_like(x).index_copy_(1, self.index, relevance), {}


class Projection(Step):
    """``z = B x + b``, ``(n, d) -> (n, q)``, before a model that has no metric to fold ``B`` into.

    Rule: WSquare, ``R_i = sum_m B_mi^2 / [sum_i' B_mi'^2] R_m``. It is bounded and conserves
    exactly; LRP-0 would divide by component scores that are zero at the mean.

    Examples
    --------
    >>> Projection(torch.tensor([[1.0, 1.0]]), torch.zeros(1))(torch.tensor([[3.0, 4.0]])).tolist()
    [[7.0]]
    """

    matrix: Tensor
    offset: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("offset", offset)

    def magnitude(self, before: float) -> float:
        norm = float(torch.linalg.matrix_norm(self.matrix, 2))
        return norm * before + float(self.offset.norm())

    def compute(self, x: Tensor) -> tuple[Tensor, None]:
        return x @ self.matrix.T + self.offset, None

    def split(
        self, x: Tensor, z: Tensor, saved: None, relevance: Tensor
    ) -> tuple[Tensor, Absorbed]:
        return wsquare(self.matrix, relevance), {}
