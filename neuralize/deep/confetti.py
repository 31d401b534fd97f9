"""Synthetic anomalies where none are known: confetti (Liznerski et al., ICLR 2021, section 4.2).

With probability one half a normal picture gets some small squares, turned by up to 45 degrees,
smoothed by a Gaussian and added to it: some of a random colour, some solid (the whole range of
values up or down). Numbers are the authors', for pictures of 224 pixels: sides of 8 to 54, on
average 0.9 coloured and 0.6 solid squares, a Gaussian of sigma 5. Sizes scale with the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralize.deep.upsampling import gaussian
from neuralize.errors import InputError

AUTHORS_SIZE = 224
MOST = 8
"""Squares of one kind in a picture; more are as rare as one in a million."""

VISIBLE = 0.02
"""Share of the range of values by which a pixel must change to count as anomalous."""


@dataclass(frozen=True)
class Confetti:
    """Makes some pictures of a batch anomalous; the ``augment`` of a detector's batches.

    Parameters
    ----------
    low, high
        Range of the pictures' values; results are clamped to it.
    probability
        Of each normal picture to become anomalous.
    coloured, solid
        Mean number of squares of either kind.
    smallest, largest
        Their sides, as shares of the shorter side of the picture.
    blur
        Sigma of the smoothing, as the same share; none where it is 0.

    Raises
    ------
    InputError
        A probability outside 0 to 1, or an empty range.

    Examples
    --------
    >>> x, y = torch.zeros(4, 1, 28, 28), torch.zeros(4)
    >>> z, label = Confetti(probability=1.0)(x, y, torch.Generator().manual_seed(0))
    >>> label.tolist() == (z != x).flatten(1).any(1).float().tolist()
    True
    """

    low: float = 0.0
    high: float = 1.0
    probability: float = 0.5
    coloured: float = 0.9
    solid: float = 0.6
    smallest: float = 8 / AUTHORS_SIZE
    largest: float = 54 / AUTHORS_SIZE
    blur: float = 5 / AUTHORS_SIZE

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise InputError(f"Expected a probability of 0 to 1, got {self.probability}.")
        if not self.low < self.high:
            raise InputError(
                f"Expected low < high, got {self.low} and {self.high}: confetti needs pictures "
                "that differ."
            )

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures ``(n, h, w)`` or ``(n, c, h, w)`` with labels ``(n,)`` or maps ``(n, h, w)``.

        Only those without an anomaly are drawn from; the labels of those that changed (or their
        maps, where they changed) become 1. Black squares on black change nothing.
        """
        normal = y.flatten(1).amax(1) == 0 if y.ndim > 1 else y == 0
        chosen = normal & (torch.rand(len(x), generator=generator) < self.probability)
        rows = chosen.nonzero()[:, 0]
        if not len(rows):
            return x, y
        x, y = x.clone(), y.clone()
        pictures = x[rows] if x.ndim == 4 else x[rows][:, None]
        changed = (pictures + self.layer(pictures.shape, generator)).clamp(self.low, self.high)
        x[rows] = changed if x.ndim == 4 else changed[:, 0]
        far = (changed - pictures).abs().amax(1) > VISIBLE * (self.high - self.low)
        y[rows] = (far if y.ndim > 1 else far.flatten(1).any(1)).to(y.dtype)
        return x, y

    def layer(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """What is added to pictures of ``shape`` ``(n, c, h, w)``: at least one square in each."""
        n, c, h, w = shape
        counts = torch.stack(
            [
                torch.poisson(torch.full((n,), mean), generator=generator)
                for mean in (self.coloured, self.solid)
            ]
        ).clamp(max=MOST)
        # the empty ones get one square of either kind
        kind = torch.randint(2, (n,), generator=generator)
        empty = counts.sum(0) == 0
        counts[kind[empty], empty.nonzero()[:, 0]] = 1
        total = torch.zeros(shape)
        for which, count in enumerate(counts):
            for number in range(int(count.max())):
                square = self._squares(n, h, w, generator) * (count > number)[:, None, None]
                if which == 0:
                    fill = torch.rand(n, c, generator=generator)
                else:
                    fill = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1
                total += square[:, None] * fill[:, :, None, None]
        return self._smoothed(total) * (self.high - self.low)

    def _squares(self, n: int, h: int, w: int, generator: torch.Generator) -> Tensor:
        """One turned square in each of ``n`` masks ``(n, h, w)``."""
        share, down, right, turn = torch.rand(4, n, 1, 1, generator=generator)
        side = (self.smallest + share * (self.largest - self.smallest)) * min(h, w)
        angle = (turn - 0.5) * (math.pi / 2)
        y = torch.arange(h)[:, None] - down * (h - 1)
        x = torch.arange(w)[None, :] - right * (w - 1)
        along = x * angle.cos() + y * angle.sin()
        across = y * angle.cos() - x * angle.sin()
        # a square smaller than the grid still covers the pixel it lies on
        reach = torch.maximum(along.abs(), across.abs())
        square: Tensor = reach <= (side / 2).clamp(min=0.71)
        return square.float()

    def _smoothed(self, x: Tensor) -> Tensor:
        sigma = self.blur * min(x.shape[-2:])
        if sigma <= 0:
            return x
        reach = max(1, math.ceil(2.4 * sigma))  # the authors' 25 pixels at sigma 5
        weights = gaussian(2 * reach + 1, sigma).to(x)
        flat = x.flatten(0, 1)[:, None]
        flat = F.conv2d(flat, weights[None, None, :, None], padding=(reach, 0))
        flat = F.conv2d(flat, weights[None, None, None, :], padding=(0, reach))
        return flat.reshape(x.shape)
