"""Division that rules share."""

from __future__ import annotations

import torch
from torch import Tensor


def stabilize(z: Tensor, epsilon: float = 1e-9) -> Tensor:
    """Move ``z`` away from zero by ``epsilon`` in the direction of its sign, ``sign(0) = +1``.

    Examples
    --------
    >>> stabilize(torch.tensor([-1.0, 0.0, 1.0]), 0.5).tolist()
    [-1.5, 0.5, 1.5]
    """
    return z + epsilon * torch.where(z < 0, -1.0, 1.0).to(z.dtype)


def ratio(relevance: Tensor, z: Tensor) -> Tensor:
    """Relevance per unit of output, ``R / z``: 1 where ``R = z``, 0 where only ``z`` is 0.

    A rule hands on ``z_i * R / z`` with ``z = sum_i z_i``. When the relevance is the output itself
    the quotient is 1 even at ``z = 0``. Where ``z = 0`` and ``R != 0`` there is no direction to
    hand relevance to: the caller must report that share as absorbed.

    Examples
    --------
    >>> ratio(torch.tensor([2.0, 0.0, 3.0]), torch.tensor([4.0, 0.0, 0.0])).tolist()
    [0.5, 1.0, 0.0]
    """
    safe = torch.where(z == 0, torch.ones_like(z), z)
    quotient = torch.where(z == 0, torch.zeros_like(z), relevance / safe)
    return torch.where(relevance == z, torch.ones_like(z), quotient)
