"""Collapse of one-class networks: what allows it, and how it is measured without labels.

A network trained to map everything close to a centre can reach it by mapping everything *onto* it.
Deep SVDD (Ruff et al., ICML 2018, Propositions 1 to 3) names three ways: a zero centre (all weights
zero), biases (a constant map), bounded activations (saturated units are constants).

AUROC does not see it: the rest of a map that is constant to five digits still ranks rows. Nor does
the variance of the representation on the data: a network that learned its data concentrates them,
too. What tells the two apart is the answer to rows ``x'`` that are certainly different, the data
with their entries scrambled. With ``m`` the mean of ``phi`` over the data,

- response ``mean ||phi(x') - m||^2``, as a share of that of the same network with fresh weights:
  about 1 before training, small where the network answers everything alike;
- contrast ``mean ||phi(x') - c||^2 / mean ||phi(x) - c||^2``: 1 for a constant map, large where
  data are concentrated and other rows are not.

A network with little response *and* no contrast has collapsed.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from neuralize.seeding import seeded

SHARE = 1e-3
"""A response below this share of a fresh network's is small."""

CONTRAST = 3.0
"""Below this, different rows are answered as the data are."""

ROWS = 512
"""Of the data, at most so many are asked about."""

NUMBERS_AT_ONCE = 2**20
"""Input numbers represented together."""

BOUNDED = (
    nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.ReLU6, nn.Softsign, nn.Hardsigmoid, nn.Softmax,
    nn.Hardswish,
)  # fmt: skip
"""Activations with an upper bound on a side a trained unit can reach."""


def trivial_solutions(network: nn.Module, center: Tensor | None = None) -> list[str]:
    """What in a network, or its centre, allows a constant map, by module path; empty if nothing.

    Examples
    --------
    >>> trivial_solutions(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), torch.zeros(2))
    ['0 (Linear) has a bias', '1 (Tanh) is bounded', 'the centre is zero']
    """
    found = []
    for name, module in network.named_modules():
        label = f"{name or 'the network'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm):
            if getattr(module, "bias", None) is not None:
                found.append(f"{label} has an affine shift")
        elif isinstance(getattr(module, "bias", None), Tensor):
            found.append(f"{label} has a bias")
        if isinstance(module, BOUNDED):
            found.append(f"{label} is bounded")
    if center is not None and not bool(center.abs().max() > 0):
        found.append("the centre is zero")
    return found


class Representing(Protocol):
    """A scoring module with a representation, ``(n, ...) -> (n, q)``, and maybe a ``center``."""

    def represent(self, x: Tensor) -> Tensor:
        """``phi(x)``."""


@dataclass(frozen=True)
class Response:
    """How a network answers its data, and rows that are certainly different.

    Attributes
    ----------
    share
        Response to different rows as a share of a fresh network's; NaN where no fresh one can be
        made.
    contrast
        Mean squared distance of different rows to the centre over that of the data.
    variance_share
        Variance over the data as a share of a fresh network's: small in concentrated networks, too.
    """

    share: float
    contrast: float
    variance_share: float

    @property
    def collapsed(self) -> bool:
        """Whether the network answers everything alike."""
        return self.share < SHARE and self.contrast < CONTRAST


def response(module: nn.Module, x: Tensor, *, seed: int = 0) -> Response:
    """How ``module``, a :class:`Representing` one, answers rows ``x`` ``(n, ...)`` and others.

    The fresh network has new weights by ``reset_parameters`` of its layers, and batch statistics of
    the data.

    Examples
    --------
    >>> from neuralize.deep.deep_svdd import SphereScore
    >>> layer = nn.Linear(3, 2)
    >>> module = SphereScore(nn.Identity(), layer, 2)
    >>> _, _ = nn.init.zeros_(layer.weight), nn.init.ones_(layer.bias)
    >>> response(module, torch.randn(20, 3))
    Response(share=0.0, contrast=1.0, variance_share=0.0)
    """
    trained = copy.deepcopy(module).eval()
    with torch.no_grad(), seeded(seed):
        x = x[torch.randperm(len(x), device=x.device)[:ROWS]]
        other = scrambled(x)
        fresh = _fresh(trained, x)
        phi, phi_other = _represented(trained, x), _represented(trained, other)
        share = variance = math.nan
        if fresh is not None:
            before, before_other = _represented(fresh, x), _represented(fresh, other)
            share = _ratio(_spread(phi_other, phi.mean(0)), _spread(before_other, before.mean(0)))
            variance = _ratio(_spread(phi, phi.mean(0)), _spread(before, before.mean(0)))
        center = getattr(trained, "center", None)
        center = phi.mean(0) if center is None else center.double()
        far, near = _spread(phi_other, center), _spread(phi, center)
    contrast = far / near if near > 0 else math.inf if far > 0 else 1.0
    return Response(share, contrast, variance)


def scrambled(x: Tensor) -> Tensor:
    """Rows ``(n, d)`` with every column shuffled, pictures with the pixels of each one shuffled.

    What single columns, or pictures' histograms, are like stays; what belongs together does not.
    """
    if x.ndim < 3:
        order = torch.rand(x.shape, device=x.device).argsort(0)
        return x.gather(0, order)
    flat = x.flatten(-2)
    order = torch.rand(len(x), flat.shape[-1], device=x.device).argsort(1)
    order = order.reshape(len(x), *[1] * (flat.ndim - 2), -1).expand_as(flat)
    return flat.gather(-1, order).view_as(x)


def _fresh(module: nn.Module, x: Tensor) -> nn.Module | None:
    """A copy with new weights, whose normalisations know the data; None if some cannot be reset."""
    fresh = copy.deepcopy(module)
    for part in fresh.modules():
        reset = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
        if callable(reset):
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            return None
    for norm in fresh.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = None  # the plain average over batches
            norm.train()
    _represented(fresh, x)
    return fresh.eval()


def _represented(module: nn.Module, x: Tensor) -> Tensor:
    rows = max(4, NUMBERS_AT_ONCE // max(1, x[0].numel()))
    chunks = x.tensor_split(-(-len(x) // rows))  # of equal size: statistics need two rows
    parts = [cast(Representing, module).represent(part) for part in chunks]
    return torch.cat(parts).double().flatten(1)


def _spread(phi: Tensor, around: Tensor) -> float:
    """Mean squared distance ``mean ||phi - around||^2``."""
    return float(((phi - around) ** 2).sum(1).mean())


def _ratio(now: float, before: float) -> float:
    return now / before if before > 0 else math.nan
